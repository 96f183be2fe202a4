# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked about the past through `control=`, of an owner and of a standby that has an origin of its own."""

from collections.abc import Callable
from typing import Protocol

from wbcache_core.errors import ConfigError, ControlError
from wbcache_core.memory.generations import Generation
from wbcache_core.server.diff_pages import Compared, DiffPages
from wbcache_core.server.history import DEFAULT_ROWS, Facts, Query, moment


class PastSource(Protocol):
    """See Past, which says what each does."""

    def history(self, query: Query) -> Facts: ...
    def resolve(self, name: str) -> tuple[Generation, ...]: ...
    def compare(self, start: str, end: str) -> Compared: ...


class PastCommands:
    """tick() is for one thread; the others may be called in any."""

    def __init__(self, source: Callable[[], PastSource]) -> None:
        """source() may raise WbcacheError, which answers the request."""
        self._source = source
        self._diffs = DiffPages(lambda start, end: source().compare(start, end))

    def tick(self) -> None:
        """To be called regularly. Does not wait."""
        self._diffs.tick()

    def close(self) -> None:
        """Nothing more is asked. Waits for what is."""
        self._diffs.close()

    def history(self, request: Facts) -> Facts:
        """Raises WbcacheError."""
        query = Query(request.get("limit", DEFAULT_ROWS), request.get("each", False), request.get("from", 0))
        try:
            query.check()
        except ConfigError as error:
            raise ControlError(f"'limit': {error}") from None
        return self._source().history(query)

    def resolve(self, when: str) -> Facts:
        """Raises WbcacheError."""
        *since, found = self._source().resolve(when)
        return {"moment": moment(found), "since": moment(since[0]) if since else None}

    def diff(self, request: Facts) -> Facts:
        """Raises WbcacheError."""
        offset = request.get("offset", 0)
        if offset < 0:
            raise ControlError("'offset' has to be 0 or more")
        return self._diffs.page(request["start"], request["end"], offset)
