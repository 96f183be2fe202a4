# SPDX-License-Identifier: BSD-3-Clause
"""The volume while no log is attached: every request goes to the origin.

Offsets and lengths are bytes, at any alignment. A write is answered when the
origin has accepted it, as with `ack=ram`; where a level of `ack` or FUA asks
for more, when it is durable there. Every method raises only RequestError and
DeviceError.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from time import monotonic_ns as now_ns

from wbcache_core.counters import ONE, ORIGIN, Counters
from wbcache_core.device.device import ConnectedDevice, Device, Extent
from wbcache_core.errors import (
    DeviceError,
    DeviceLostError,
    OriginFailedError,
    OutOfRangeError,
    StoppedError,
    VolumeReplacedError,
)
from wbcache_core.memory.policy import RAM
from wbcache_core.units import GIB, PAGE_SHIFT, pages_of

_LONGEST_MAP = GIB
_MOST_EXTENTS = 4096


class DirectVolume:
    """`_lock` guards all fields but `_origin` and `_counters`, and is never held across I/O; `_sync_lock` is, across
    syncs. Neither is taken while the other is held, except `_lock` inside `_sync_lock`."""

    def __init__(self, origin: Device, counters: Counters, ack: Callable[[], int]) -> None:
        """`ack` is asked for the level of each change that has none of its own."""
        self.size = origin.size
        self._origin = origin
        self._counters = counters
        self._ack = ack
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._sync_lock = threading.Lock()
        self._begun = 0
        self._in_progress: set[int] = set()
        """Changes that have begun, by number."""
        self._waiting = 0
        self._is_quiesced = self._is_handing_over = self._is_replaced = self._is_stopped = False
        self._is_unsynced = False
        self._loses_connections = isinstance(origin, ConnectedDevice)
        self._loss: DeviceError | None = None
        """Why the origin may lack what was written since the last good sync. Never forgotten: the origin reports it
        only once, and whoever wrote it has been told that it was written."""

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """Fill buffer from offset."""
        self._check_range(len(buffer), offset)
        began = now_ns()
        self._origin.read_into(memoryview(buffer), offset)
        self._counters.reads[ORIGIN].note(now_ns() - began)
        step = ONE + len(buffer)
        self._counters.read_totals[ORIGIN] += step

    def write(
        self, data: bytes | bytearray | memoryview, offset: int, fua: bool = False, ack: int | None = None
    ) -> None:
        """Write data at offset; `ack` as for Volume.write()."""
        self._check_range(len(data), offset)
        began = now_ns()
        with self._change():
            self._origin.write([memoryview(data)], offset)
        self._acknowledge(fua, ack)
        self._counters.writes.note(now_ns() - began)
        step = ONE + len(data)
        self._counters.write_totals[0] += step

    def trim(self, count: int, offset: int, fua: bool = False, ack: int | None = None) -> None:
        """Discard: the range reads as zeros and is deallocated if possible."""
        self._clear(True, count, offset, fua, ack)

    def zero(
        self, count: int, offset: int, fua: bool = False, may_trim: bool = True, ack: int | None = None
    ) -> None:
        """Zero a range; without may_trim it stays allocated."""
        self._clear(may_trim, count, offset, fua, ack)

    def flush(self) -> None:
        """Return when everything answered before is durable on the origin."""
        began = now_ns()
        self.sync()
        self._counters.flushes.note(now_ns() - began)

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Contiguous extents from offset, or only the first with only_one; they may stop short of count."""
        self._check_range(count, offset)
        found = self._origin.extents(offset, min(count, _LONGEST_MAP), 1 if only_one else _MOST_EXTENTS)
        return found[:1] if only_one else found

    def prefetch(self, count: int, offset: int) -> None:
        """Have the origin read ahead."""
        self._check_range(count, offset)
        self._origin.prefetch(offset, count)

    def sync(self) -> None:
        """What was answered before is durable when this returns. Raises OriginFailedError, always after the first
        failure."""
        with self._sync_lock:
            with self._lock:
                self._raise_if_lost()
                self._is_unsynced = bool(self._in_progress)
            try:
                self._origin.sync()
            except Exception as error:
                with self._lock:
                    self._is_unsynced = True
                    self._loss = self._loss or _as_device_error(error)
                    self._raise_if_lost()
            with self._lock:
                if self._loses_connections:
                    self._wait_for_changes(self._begun)
                self._raise_if_lost()

    @property
    def is_unsynced(self) -> bool:
        """Whether something may have changed since the last good sync."""
        with self._lock:
            return self._is_unsynced

    @property
    def loss(self) -> DeviceError | None:
        """Why nothing can be synced any more."""
        with self._lock:
            return self._loss

    @property
    def waiting(self) -> int:
        """Requests that wait for the end of a pause."""
        with self._lock:
            return self._waiting

    @property
    def is_quiesced(self) -> bool:
        with self._lock:
            return self._is_quiesced

    def quiesce(self, is_wanted: bool) -> None:
        """Have changes wait, or go on. Does not wait for those in progress."""
        with self._lock:
            self._check_not_stopped()
            self._is_quiesced = is_wanted
            self._moved.notify_all()

    def await_changes(self, patience: float) -> None:
        """Return when no change is in progress. Raises OriginFailedError after so many seconds, StoppedError."""
        deadline = time.monotonic() + patience
        with self._lock:
            while self._in_progress:
                self._check_not_stopped()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OriginFailedError(
                        f"{len(self._in_progress)} requests to origin '{self._origin.name}' have not been carried out "
                        f"for {patience:.0f} s"
                    )
                self._moved.wait(left)

    def hand_over(self, is_wanted: bool) -> None:
        """Have changes wait because a log is going to be attached; or let them go on, since it is not. Raises
        StoppedError."""
        with self._lock:
            if is_wanted:
                self._check_not_stopped()
            self._is_handing_over = is_wanted
            self._moved.notify_all()

    def let_go(self) -> None:
        """Another volume has taken this one's place: changes that wait, and all that still come, start over there."""
        with self._lock:
            self._is_replaced = True
            self._moved.notify_all()

    def stop(self) -> None:
        """No change begins any more; those that wait get StoppedError. Idempotent."""
        with self._lock:
            self._is_stopped = True
            self._moved.notify_all()

    def _wait_for_changes(self, begun: int) -> None:
        """Return when the first `begun` changes have ended. A connection that one of them lost may have taken with it
        what others had written, and only that change is told. Lock held; released while waiting."""
        while any(number <= begun for number in self._in_progress):
            self._moved.wait()

    def _check_not_stopped(self) -> None:
        """Lock held."""
        if self._is_stopped:
            raise StoppedError("the server is shutting down")

    def _check_range(self, count: int, offset: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise OutOfRangeError(
                f"request of {count} bytes at {offset} reaches beyond the end of the volume ({self.size} bytes)"
            )

    def _raise_if_lost(self) -> None:
        """Lock held."""
        if self._loss:
            raise OriginFailedError(
                f"{self._loss}; what was written since the last flush may be lost: flushes fail until the server is "
                "started again", self._loss.errno_value,
            )  # fmt: skip

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        with self._lock:
            self._wait_for_turn()
            self._begun = number = self._begun + 1
            self._in_progress.add(number)
            self._is_unsynced = True
        try:
            yield
        except DeviceLostError as error:
            with self._lock:
                self._loss = self._loss or error
            raise
        finally:
            with self._lock:
                self._in_progress.discard(number)
                self._moved.notify_all()

    def _wait_for_turn(self) -> None:
        """Lock held; released while waiting."""
        while True:
            if self._is_replaced:
                raise VolumeReplacedError("the volume goes on with a log")
            self._check_not_stopped()
            if not (self._is_quiesced or self._is_handing_over):
                return
            self._waiting += 1
            self._moved.wait()
            self._waiting -= 1

    def _acknowledge(self, fua: bool, ack: int | None) -> None:
        if fua or (self._ack() if ack is None else ack) > RAM:
            self.sync()

    def _clear(self, may_trim: bool, count: int, offset: int, fua: bool, ack: int | None) -> None:
        """The device clears whole pages; the ends are written."""
        self._check_range(count, offset)
        began, end = now_ns(), offset + count
        first = pages_of(offset) << PAGE_SHIFT
        last = end if end == self.size else end >> PAGE_SHIFT << PAGE_SHIFT
        with self._change():
            if first >= last:
                self._write_zeros(offset, end)
            else:
                self._write_zeros(offset, first)
                self._origin.zero(first, last - first, may_trim)
                self._write_zeros(last, end)
        self._acknowledge(fua, ack)
        self._counters.clears.note(now_ns() - began)

    def _write_zeros(self, offset: int, end: int) -> None:
        """Less than two pages."""
        if offset < end:
            self._origin.write([memoryview(bytes(end - offset))], offset)


def _as_device_error(error: Exception) -> DeviceError:
    return error if isinstance(error, DeviceError) else DeviceError(str(error))
