# SPDX-License-Identifier: BSD-3-Clause
"""What an owner does: fence and recover, compare logs with peers, write, ship, acknowledge, and destage."""

from tests.peers import ownership_rules as rules
from tests.peers.ownership_state import (
    DURABLY,
    JOINING,
    NAMES,
    OWNER,
    STANDBY,
    TOLD,
    UNKNOWN,
    OriginWrite,
    Segment,
    as_standby,
    change,
    common,
    forget,
    spend,
    stands_down,
)
from tests.peers.search import BrokenError


def fence(model, state, number):
    """The last part of taking over: from the swap that was taken to a node that has recovered."""
    node, name = state.nodes[number], NAMES[number]
    if model.keeps(rules.FENCED_FIRST):
        if node.seen < state.gate:
            after = stands_down(node, state.record)
            yield f"the origin is fenced against {name}, which stops", change(state, number, **after._asdict())
            return
        state = state._replace(gate=node.seen, flying=frozenset(w for w in state.flying if w.epoch >= node.seen))
    counted = node.counted if model.keeps(rules.ELIGIBLE_COUNTED) else frozenset()
    following = change(
        state,
        number,
        role=JOINING if model.keeps(rules.JOINED_OR_OUT) else OWNER,
        epoch=node.seen,
        promised=0,
        committed=len(node.log),
        complete=DURABLY,
        counted=counted,
    )
    recovered = max(state.recovered, (node.seen, number))
    fences = "fences the origin and" if model.keeps(rules.FENCED_FIRST) else "does not fence the origin and"
    yield f"{name} {fences} recovers in epoch {node.seen}", following._replace(recovered=recovered)


def steps(model, state, number):
    node, name = state.nodes[number], NAMES[number]
    if state.record.epoch > node.epoch:
        after = as_standby(node, seen=state.record.epoch)
        yield f"{name} learns of epoch {state.record.epoch} and stops", change(state, number, **after._asdict())
    if node.role == JOINING and node.asked is None and not node.unsettled:
        if all(node.known[peer] >= 0 for peer in node.counted):
            yield f"{name} begins to serve", change(state, number, role=OWNER)
    if node.committed < len(node.log):
        yield f"{name} commits {len(node.log)} segments", change(state, number, committed=len(node.log))
    for peer in model.numbers:
        if peer != number:
            yield from _with_peer(model, state, number, peer)
    if node.role == OWNER:
        yield from _serve(model, state, number)
        yield from _destage(model, state, number)


def _with_peer(model, state, number, peer):
    node, other, name = state.nodes[number], state.nodes[peer], NAMES[number]
    older = other.seen > node.epoch or other.asked is not None
    if other.role != STANDBY or (older and model.keeps(rules.OLDER_REFUSED)):
        return
    known = node.known[peer]
    if not older and (known < 0 or other.seen != node.epoch or other.epoch == 0 or len(other.log) < known):
        yield _join(model, state, number, peer)
    if known < 0 or other.seen < node.epoch or other.epoch == 0:
        return
    if len(other.log) < len(node.log):
        segment = Segment(peer, node.epoch, node.log[: len(other.log) + 1])
        if segment not in state.sent:
            yield (
                f"{name} ships segment {len(segment.log)} to {NAMES[peer]}",
                state._replace(sent=state.sent | {segment}),
            )
    count = len(other.log) if model.ram else other.committed
    if count > known:
        yield f"{name} hears from {NAMES[peer]}: {count}", change(state, number, known=_with(node.known, peer, count))
    if other.complete == UNKNOWN and other.committed == len(node.log):
        yield f"{name} says that {NAMES[peer]} holds everything", change(state, peer, complete=TOLD)
    same = other.log[: node.batch_end] == node.log[: node.batch_end]
    ready = (other.committed >= node.batch_end and same) or not model.keeps(rules.DESTAGE_LIMIT)
    if other.batch_end < node.batch_end and ready:
        yield (
            f"{NAMES[peer]} syncs the superblock of {name}: batch_end={node.batch_end}",
            change(state, peer, batch_end=node.batch_end, destaged=node.destaged),
        )


def _with(values, index, value):
    return (*values[:index], value, *values[index + 1 :])


def _join(model, state, number, peer):
    """The two logs are compared, and what only the peer has is cut off."""
    node, other = state.nodes[number], state.nodes[peer]
    end = common(node.log, other.log) if model.keeps(rules.COMPARED) else len(other.log)
    if other.destaged > end:
        raise BrokenError(f"a tail of {NAMES[peer]} is cut off that was destaged")
    after = as_standby(
        other,
        seen=node.epoch,
        promised=0,
        epoch=node.epoch if model.keeps(rules.EPOCH_DURABLE) else other.epoch,
        log=other.log[:end],
        committed=min(other.committed, end),
        batch_end=min(other.batch_end, end),
        complete=min(other.complete, TOLD) if model.ram else other.complete,
    )
    following = forget(model, change(state, peer, **after._asdict()))
    count = len(after.log) if model.ram else after.committed
    following = change(following, number, known=_with(node.known, peer, count))
    counted = node.counted
    if not model.keeps(rules.ELIGIBLE_COUNTED) and peer in state.record.eligible:
        counted |= {peer}
    cut = f", and {len(other.log) - end} of its segments are cut off" if len(other.log) > end else ""
    label = f"{NAMES[peer]} joins {NAMES[number]} in epoch {node.epoch} with {end} segments{cut}"
    return label, change(following, number, counted=counted)


def _serve(model, state, number):
    node, name = state.nodes[number], NAMES[number]
    if state.left.writes:
        write = (node.epoch, model.writes - state.left.writes + 1)
        yield (
            f"{name} writes {write[1]} in epoch {node.epoch}",
            change(spend(state, "writes"), number, log=(*node.log, write)),
        )
    end = may_acknowledge(node)
    done = state.acknowledged
    if end > 0 and node.log[:end] != done[:end]:
        if node.log[: len(done)] != done[:end]:
            raise BrokenError(f"{name} acknowledges a write in place of one that was acknowledged")
        yield f"{name} acknowledges up to segment {end}", state._replace(acknowledged=node.log[:end])


def may_acknowledge(node):
    """How far the owner itself and all that it counts have committed (`peer-ram`: or these have received)."""
    return min([node.committed, *(node.known[peer] for peer in node.counted)])


def _destage(model, state, number):
    node, name = state.nodes[number], NAMES[number]
    if node.issued:
        return
    end = node.committed
    if model.keeps(rules.DESTAGE_LIMIT):
        end = may_acknowledge(node)
    if end > node.batch_end:
        yield f"{name} syncs a superblock: batch_end={end}", change(state, number, batch_end=end)
    told = all(node.known[peer] >= 0 and state.nodes[peer].batch_end >= node.batch_end for peer in node.counted)
    if node.batch_end > node.destaged and (told or not model.keeps(rules.BATCH_ANNOUNCED)):
        write = OriginWrite(node.epoch, node.log[: node.batch_end])
        if write.epoch >= state.gate:
            following = change(state, number, issued=True)
            yield f"{name} destages up to segment {node.batch_end}", following._replace(flying=state.flying | {write})


def origin(model, state):
    for write in state.flying:
        epoch, serving = write.epoch, state.recovered[0]
        if epoch < serving:
            raise BrokenError(f"a write of epoch {epoch} reaches the origin after epoch {serving} has recovered")
        following = state._replace(origin=write.log, flying=state.flying - {write})
        for number, node in enumerate(state.nodes):
            if node.role == OWNER and node.epoch == epoch and node.issued:
                following = change(following, number, destaged=len(write.log), issued=False)
        yield f"the origin takes the batch of epoch {epoch} up to segment {len(write.log)}", following
