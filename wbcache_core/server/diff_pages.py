# SPDX-License-Identifier: BSD-3-Clause
"""What changed between two moments, in pages that fit into an answer of the control socket."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from wbcache_core.background import let_requests_run
from wbcache_core.memory.generations import Generation
from wbcache_core.server.history import Facts, moment
from wbcache_core.volume.changed_extents import WORDS, Change, byte_range

MOST_EXTENTS = 2000
_PIECE = 250
"""Extents after which requests get the interpreter."""
_IDLE_SECONDS = 10.0
"""The moments stay open for so long after a page that is not the last."""


class Compared(Protocol):
    """See Comparison, which says what each is."""

    @property
    def start(self) -> Generation: ...
    @property
    def end(self) -> Generation: ...
    @property
    def size(self) -> int: ...
    def changes(self, offset: int) -> Iterator[Change]: ...
    def close(self) -> None: ...


class DiffPages:
    """`_lock` guards `_open` and `_used_at`. It is held while a page is made, also while the origin is asked. The
    volume lock may be taken while it is held.
    """

    def __init__(self, compare: Callable[[str, str], Compared]) -> None:
        """`compare` opens two moments: Cache.compare()."""
        self._compare = compare
        self._lock = threading.Lock()
        self._open: Compared | None = None
        """What the last page was of, kept for the next one: its map took time to build."""
        self._used_at = 0.0

    def page(self, start: str, end: str, offset: int) -> Facts:
        """The extents from a byte offset on, and where the next page begins. Raises MomentError, SnapshotEndedError,
        LogFailedError, DeviceError."""
        with self._lock:
            comparison = self._opened(start, end)
            try:
                found, following = _page(comparison, offset)
            except BaseException:
                self._close()
                raise
            facts = {
                "start": moment(comparison.start),
                "end": moment(comparison.end),
                "volume_bytes": comparison.size,
                "extents": [_facts(change, comparison.size) for change in found],
                "next": following,
            }
            if following is None:
                self._close()
            self._used_at = time.monotonic()
            return facts

    def tick(self) -> None:
        """To be called regularly: nobody may hold the origin back by not asking for the next page. Does not wait."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._used_at > _IDLE_SECONDS:
                    self._close()
            finally:
                self._lock.release()

    def close(self) -> None:
        """There is no further page. Waits for one that is being made."""
        with self._lock:
            self._close()

    def _opened(self, start: str, end: str) -> Compared:
        """`_lock` held."""
        if self._open and (start, end) == (str(self._open.start.number), str(self._open.end.number)):
            return self._open
        self._close()
        self._open = self._compare(start, end)
        return self._open

    def _close(self) -> None:
        """`_lock` held."""
        if self._open:
            self._open.close()
            self._open = None


def _page(comparison: Compared, offset: int) -> tuple[list[Change], int | None]:
    found: list[Change] = []
    for change in comparison.changes(offset):
        if len(found) == MOST_EXTENTS:
            return found, byte_range(change, comparison.size)[0]
        found.append(change)
        if len(found) % _PIECE == 0:
            let_requests_run()
    return found, None


def _facts(change: Change, volume_bytes: int) -> Facts:
    offset, length = byte_range(change, volume_bytes)
    return {"offset": offset, "length": length, "kind": WORDS[change.kind]}
