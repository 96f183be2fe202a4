# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked through `control=` of a server in its role: of a standby much less."""

from wbcache_core.errors import ControlError
from wbcache_core.server.control.commands import ControlCommands, attempt, parse, refusal
from wbcache_core.server.control.past_commands import PastCommands
from wbcache_core.server.control.server import Answer
from wbcache_core.server.node import Node
from wbcache_core.server.standby import Standby
from wbcache_core.server.standby_past import StandbyPast


class NodeCommands:
    """As of ControlCommands, whatever the role of the server is at the time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._commands: ControlCommands | None = None
        self._past = PastCommands(self._past_of_standby)
        # What they count begins now.
        self._of_owner()

    def _of_owner(self) -> ControlCommands | None:
        """None for a standby."""
        if self._commands is None and (served := self._node.served):
            self._commands = ControlCommands(served)
            self._past.close()
        return self._commands

    def tick(self) -> None:
        """See ControlCommands.tick()."""
        if commands := self._of_owner():
            commands.tick()
        else:
            self._past.tick()

    def _past_of_standby(self) -> StandbyPast:
        """Raises ExportNameError, ControlError."""
        standby = self._node.now
        if not isinstance(standby, Standby):
            raise ControlError("this server has just taken over: ask again")
        return standby.past

    def answer(self, line: bytes) -> Answer:
        """See ControlCommands.answer()."""
        if commands := self._of_owner():
            return commands.answer(line)
        try:
            request = parse(line)
        except ControlError as error:
            return refusal(str(error))
        standby = self._node.now
        if request["command"] == "status" and isinstance(standby, Standby):
            return attempt(standby.status)
        if request["command"] == "promote":
            words = [word for word in request.get("force", "").split(",") if word]
            return lambda: attempt(lambda: {"promote": self._node.promote(words)})
        if request["command"] == "rejoin" and isinstance(standby, Standby):
            discard, target = request.get("discard", False), request.get("save", "")
            return lambda: attempt(lambda: {"rejoin": standby.rejoin(discard, target)})
        if request["command"] == "history":
            return lambda: attempt(lambda: self._past.history(request))
        if request["command"] == "resolve":
            return lambda: attempt(lambda: self._past.resolve(request["when"]))
        if request["command"] == "diff":
            return lambda: attempt(lambda: self._past.diff(request))
        return refusal(f"this is a standby, which has no '{request['command']}': ask the owner of the volume")
