# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked of a standby through `control=`."""

from wbcache_core.errors import ControlError
from wbcache_core.server.control.commands import attempt, parse, refusal
from wbcache_core.server.standby import Standby


class StandbyCommands:
    """For one thread."""

    def __init__(self, standby: Standby) -> None:
        self._standby = standby

    def tick(self) -> None:
        """There is nothing to be done now and then."""

    def answer(self, line: bytes) -> bytes:
        """The answer to a request. Never raises."""
        try:
            request = parse(line)
        except ControlError as error:
            return refusal(str(error))
        if request["command"] == "status":
            return attempt(self._standby.status)
        return refusal(f"this is a standby, which has no '{request['command']}': ask the owner of the volume")
