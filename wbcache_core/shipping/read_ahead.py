# SPDX-License-Identifier: BSD-3-Clause
"""Reads from the log what a peer gets next, while it gets what was read before."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import NamedTuple

from wbcache_core.device.device import aligned_buffer
from wbcache_core.shipping.parcels import READ_BYTES, LogParcels, Parcel
from wbcache_core.threads import StartTogether


class _Piece(NamedTuple):
    """What is being read, or has been: from which LSN on, and into what."""

    lsn: int
    image: memoryview
    found: "Future[list[Parcel] | None]"


class ReadAhead:
    """For one thread, the caller's, and one of its own that only reads; without start() the caller's reads.

    An image is used again when all that was in it has arrived: new memory costs as much as the reading.
    """

    def __init__(self, parcels: LogParcels, ring: Callable[[], None]) -> None:
        """`ring` is called when something has been read."""
        self._parcels = parcels
        self._ring = ring
        self._wanted: SimpleQueue[_Piece | None] = SimpleQueue()
        self._thread: threading.Thread | None = None  # only start() and join() write it
        self._next: _Piece | None = None
        self._lent: deque[tuple[int, memoryview]] = deque()
        """Images of what was returned, in order, each with the LSN after it."""

    def start(self, together: StartTogether) -> None:
        """The thread, as one of several. Raises NoThreadError."""
        self._thread = together.add("wbcache-ship-read", self._run)

    def join(self) -> None:
        """End the thread, when nothing more is asked for. Idempotent."""
        if self._thread:
            self._wanted.put(None)
            self._thread.join()
            self._thread = None

    def after(self, lsn: int, committed: int, received: int) -> list[Parcel] | None:
        """Some segments from lsn on, which is below `committed`; none while they are being read; None if the log does
        not have them any more. What is below `received` has arrived. Raises DeviceError, DamagedPageError."""
        if self._next is None or self._next.lsn != lsn:
            self._next = self._begin(lsn, received)
        if not self._next.found.done():
            return []
        piece, self._next = self._next, None
        found = piece.found.result()
        if found:
            end = found[-1].end_lsn
            self._lent.append((end, piece.image))
            if self._thread and end < committed:
                self._next = self._begin(end, received)
        return found

    def forget(self) -> None:
        """Nothing more arrives, or nothing more is read for a while."""
        self._next = None
        self._lent.clear()

    def _begin(self, lsn: int, received: int) -> _Piece:
        has_arrived = self._lent and self._lent[0][0] <= received
        piece = _Piece(lsn, self._lent.popleft()[1] if has_arrived else aligned_buffer(READ_BYTES), Future())
        if self._thread:
            self._wanted.put(piece)
        else:
            self._read(piece)
        return piece

    def _run(self) -> None:
        while (piece := self._wanted.get()) is not None:
            self._read(piece)
            self._ring()

    def _read(self, piece: _Piece) -> None:
        try:
            piece.found.set_result(self._parcels.after(piece.lsn, piece.image))
        except Exception as error:
            piece.found.set_exception(error)
