# SPDX-License-Identifier: BSD-3-Clause
"""What a peer gets next: what is being committed, in step, or what it lacks, from the log."""

import threading
from collections import deque
from collections.abc import Callable

from wbcache_core.errors import DeviceError
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.shipping.parcels import LogParcels, Parcel
from wbcache_core.shipping.read_ahead import ReadAhead
from wbcache_core.threads import StartTogether
from wbcache_core.units import MIB

_MOST_WAITING_BYTES = 64 * MIB
"""Of generations that a peer in step has not been sent; beyond that it falls behind."""


class ParcelQueue:
    """`_lock` guards `_waiting`, `_waiting_bytes` and `_tail`; nothing is taken while it is held. `_from_log` and
    `_ahead` are the sending thread's, which alone calls the methods from begin() on."""

    def __init__(self, name: str, line: NumberLine, parcels: LogParcels, ring: Callable[[], None]) -> None:
        """`name` of the peer; `ring` is called when something has been read or offered."""
        self._lock = threading.Lock()
        self._waiting: deque[Parcel] = deque()
        """Generations that are being committed or were just now, in step."""
        self._waiting_bytes = 0
        self._tail = 0
        """The LSN after everything that was sent or waits; 0 while there is no connection."""
        self._name = name
        self._line = line
        self._ring = ring
        self._ahead = ReadAhead(parcels, ring)
        self._from_log: deque[Parcel] = deque()

    def start(self, together: StartTogether) -> None:
        """The thread that reads. Raises NoThreadError."""
        self._ahead.start(together)

    def join(self) -> None:
        """End it. Idempotent."""
        self._ahead.join()

    def wants(self, first_lsn: int) -> bool:
        """Whether the generation that begins there is to be offered. If not, it is served from the log."""
        with self._lock:
            return self._tail == first_lsn and self._waiting_bytes <= _MOST_WAITING_BYTES

    def offer(self, parcels: list[Parcel]) -> None:
        """A generation that wants() was asked about, now that it is prepared."""
        with self._lock:
            if self._tail != parcels[0].first_lsn:
                return
            self._waiting.extend(parcels)
            self._waiting_bytes += sum(len(parcel.content) for parcel in parcels)
            self._tail = parcels[-1].end_lsn
        self._ring()

    def note_commit(self) -> None:
        """A generation is in the log. One that was not taken is read from there."""
        with self._lock:
            is_behind = 0 < self._tail < self._line.committed
        if is_behind:
            self._ring()

    def begin(self, lsn: int) -> None:
        """There is a connection, and the peer has everything below."""
        with self._lock:
            self._tail = lsn

    def end(self) -> None:
        """There is none any more."""
        with self._lock:
            self._tail = self._waiting_bytes = 0
            self._waiting.clear()
        self._from_log.clear()
        self._ahead.forget()

    @property
    def has_more(self) -> bool:
        """Whether there is anything to send."""
        with self._lock:
            return bool(self._waiting or self._from_log) or self._tail < self._line.committed

    @property
    def is_in_step(self) -> bool:
        """Whether what is committed goes to the peer at once."""
        with self._lock:
            return not self._from_log and self._tail >= self._line.committed

    def next(self, received: int) -> Parcel | None:
        """The next segment, which stays where it is until take(); the peer has everything below `received`. Raises
        DeviceError, DamagedPageError."""
        if self._from_log:
            return self._from_log[0]
        with self._lock:
            if self._waiting:
                return self._waiting[0]
            tail = self._tail
        committed = self._line.committed
        if tail >= committed:
            self._ahead.forget()
            return None
        found = self._ahead.after(tail, committed, received)
        if found is None:
            raise DeviceError(
                f"peer '{self._name}' has fallen so far behind that the log does not have what it needs any more; "
                "it begins again where the origin ends"
            )
        if not found:
            return None
        with self._lock:
            if self._tail != tail:
                # It got in step meanwhile.
                return self._waiting[0] if self._waiting else None
            self._tail = found[-1].end_lsn
        self._from_log.extend(found)
        return found[0]

    def take(self, parcel: Parcel) -> None:
        """It is sent."""
        if self._from_log:
            self._from_log.popleft()
            return
        with self._lock:
            self._waiting.popleft()
            self._waiting_bytes -= len(parcel.content)
