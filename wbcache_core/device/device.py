# SPDX-License-Identifier: BSD-3-Clause
"""What the core needs of an origin or a log: the protocols that devices implement.

Offsets and lengths are bytes. A method that returns has done all that it was
asked; otherwise it raises DeviceError. The tests have simulated devices.
"""

import mmap
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from wbcache_core.errors import DeviceError

Extent = tuple[int, int, bool, bool]
"""(offset, length, hole, zero) in bytes: `hole` is unallocated, `zero` reads as zeros."""



class Device(Protocol):
    """What the core needs of an origin or a log device."""

    name: str
    size: int
    writable: bool
    can_trim: bool
    """Whether zero() with may_trim deallocates; otherwise it may have to write that many zeros."""

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill view from offset."""

    def read_uncached_into(self, view: memoryview, offset: int) -> None:
        """Like read_into, bypassing every cache that can be bypassed; view is page aligned in memory."""

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views one after another from offset. Durable only after sync()."""

    def sync(self) -> None:
        """Everything written before is durable when this returns."""

    def zero(self, offset: int, length: int, may_trim: bool) -> None:
        """The range reads as zeros afterwards; with may_trim it is deallocated if possible."""

    def extents(self, offset: int, length: int, most: int | None = None) -> list[Extent]:
        """Contiguous extents that cover the range exactly, or the beginning of it: not less than the first `most`."""

    def prefetch(self, offset: int, length: int) -> None:
        """A hint that the range is going to be read."""

    def grow(self, length: int) -> None:
        """Make an empty device one of length bytes that read as zeros."""

    @property
    def settles_at(self) -> float:
        """In seconds of time.monotonic(): until then, abandoned requests may still change the device.

        0.0 if there can be none. Write, zero and sync fail until then.
        """

    def suspect_requests(self, ended_at: float) -> None:
        """A process that had ended at that time of time.monotonic() may have left requests in progress: moves
        `settles_at` if that is possible on this device."""

    def interrupt(self) -> None:
        """The cache is stopping: calls that wait for something to return give up soon."""

    def close(self) -> None:
        """Release the device and its lock. Idempotent."""


Write = tuple[int, list[memoryview]]
"""An offset and what to write there, one view after another."""


@runtime_checkable
class PipelinedDevice(Device, Protocol):
    """A device on which one thread can have several writes in progress."""

    pipeline_depth: int
    """More in one thread gain nothing."""
    def write_many(
        self, take: Callable[[], Write | None], fail: Callable[[Write, DeviceError], None], depth: int
    ) -> None:
        """Write what take() returns, in any order and up to depth at once, until it returns None.

        What the device rejects goes to fail(). Raises DeviceLostError, StoppedError, and what take() and fail() raise;
        then none of the writes is in progress any more. Durable only after sync().
        """


@runtime_checkable
class BulkDevice(Device, Protocol):
    """A device that accepts many writes in one call."""

    bulk_depth: int
    """The largest number; 0 while it has turned out that it does not."""

    def write_bulk(self, writes: Sequence[Write]) -> list[tuple[Write, DeviceError]]:
        """Carry out all writes, from writable memory, and return those that failed. Durable only after sync()."""


@runtime_checkable
class ConnectedDevice(Protocol):
    """What a device at the other end of connections can do in addition."""

    check_seconds: float
    """Seconds between calls of check_idle() when nothing else is asked of the device."""

    def allow_connections(self, count: int) -> None:
        """At most so many from now on; those that exist may stay."""

    def settle_until(self, when: float) -> None:
        """Requests that another process abandoned may still change the device until then: see settles_at."""

    def be_patient(self) -> None:
        """From now on changes and flushes have no time limit: a drain needs them."""

    def check_idle(self) -> None:
        """Notice on idle connections whether the other end is ending or has gone. Raises nothing."""


def aligned_buffer(length: int) -> memoryview:
    """Page-aligned anonymous memory of length bytes, as O_DIRECT needs it."""
    return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
