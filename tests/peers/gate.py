# SPDX-License-Identifier: BSD-3-Clause
"""The gate in front of a shared origin, one block of it, and owners that write successive contents to it.

An owner opens the gate with its token (epoch, connection) and writes content 1, 2, ...; the next one only once the one
before has an answer. When the connection is lost, or another node takes over, the write without an answer is repeated.
Any write that was sent may reach the gate much later, from an owner that was paused or over a connection given up.
"""

from collections import namedtuple

TOKEN_CHECKED = "the gate refuses lower tokens"
GATE_DURABLE = "the gate makes a higher token durable before it lets it in"
OLDER_ENDED = "the gate lets a token in only after the requests of older ones have ended"
RECONNECT_RAISES_TOKEN = "every reconnect raises the token"
RULES = (TOKEN_CHECKED, GATE_DURABLE, OLDER_ENDED, RECONNECT_RAISES_TOKEN)

Write = namedtuple("Write", "token content")
State = namedtuple("State", "token opened done sent coming inside gate durable takeovers reconnects restarts")
"""Owner: token, opened, done (content of the last answered write), sent (whether the next one is on its way). coming:
writes before the gate; inside: behind it, not done yet. gate: its token, and the durable one. Then what may happen."""


class Gate:
    def __init__(self, contents=2, takeovers=1, reconnects=1, restarts=1, without=()):
        self.contents, self.without = contents, frozenset(without)
        assert self.without <= set(RULES)
        nothing, first = frozenset(), (1, 0)
        self.initial = State(first, True, 0, False, nothing, nothing, first, first, takeovers, reconnects, restarts)

    def images(self, state):
        return (state,)

    def broken(self, state):
        """A write behind the gate can take effect at any moment; none may undo a later one that was answered."""
        late = [write for write in state.inside if write.content < state.done]
        if late:
            return f"content {late[0].content} of token {late[0].token} overwrites content {state.done}"
        if state.opened and any(write.token[0] < state.token[0] for write in state.inside):
            return f"a write of an older epoch reaches the origin after epoch {state.token[0]} was let in"
        return None

    def serves(self, state):
        return state.done == self.contents

    def steps(self, state):
        if state.opened and not state.sent and state.done < self.contents:
            write = Write(state.token, state.done + 1)
            yield (
                f"the owner {state.token} sends content {write.content}",
                state._replace(sent=True, coming=state.coming | {write}),
            )
        if not state.opened and self._lets_in(state):
            gate = max(state.gate, state.token)
            durable = state.durable if GATE_DURABLE in self.without else gate
            yield f"the gate lets {state.token} in", state._replace(opened=True, gate=gate, durable=durable)
        yield from self._writes(state)
        epoch, connection = state.token
        again = {"opened": False, "sent": False}
        if state.reconnects:
            token = state.token if RECONNECT_RAISES_TOKEN in self.without else (epoch, connection + 1)
            following = state._replace(token=token, reconnects=state.reconnects - 1, **again)
            yield "the owner gives the connection up", following
        if state.takeovers:
            following = state._replace(token=(epoch + 1, 0), takeovers=state.takeovers - 1, **again)
            yield f"another node takes over in epoch {epoch + 1}", following
        if state.restarts and not state.inside:
            yield "the gate restarts", state._replace(gate=state.durable, restarts=state.restarts - 1)

    def _lets_in(self, state):
        waits = OLDER_ENDED not in self.without and any(write.token < state.token for write in state.inside)
        return not waits and (state.token >= state.gate or TOKEN_CHECKED in self.without)

    def _writes(self, state):
        for write in state.coming:
            following = state._replace(coming=state.coming - {write})
            if write.token >= state.gate or TOKEN_CHECKED in self.without:
                yield (
                    f"the gate takes content {write.content} of {write.token}",
                    following._replace(inside=state.inside | {write}),
                )
            else:
                yield f"the gate refuses content {write.content} of {write.token}", following
        for write in state.inside:
            following = state._replace(inside=state.inside - {write})
            if write == Write(state.token, state.done + 1) and state.sent:
                yield (
                    f"the origin has content {write.content}, the owner hears it",
                    following._replace(done=write.content, sent=False),
                )
            else:
                yield f"the origin has content {write.content} of {write.token}", following
