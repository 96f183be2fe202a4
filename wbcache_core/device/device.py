# SPDX-License-Identifier: BSD-3-Clause
"""What the core needs of an origin or a log: the protocols that devices implement.

Offsets and lengths are bytes. A method that returns has done all that it was
asked; otherwise it raises DeviceError. The tests bring simulated devices.
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
    """Whether zero() with may_trim deallocates; else it may have to write as many zeros."""

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill view from offset."""

    def read_uncached_into(self, view: memoryview, offset: int) -> None:
        """Like read_into, past every cache that can be passed; view is page aligned in memory."""

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views one behind the other from offset. Durable only after sync()."""

    def sync(self) -> None:
        """All that was written before is durable when this returns."""

    def zero(self, offset: int, length: int, may_trim: bool) -> None:
        """The range reads as zeros afterwards; with may_trim it is deallocated where possible."""

    def extents(self, offset: int, length: int, most: int | None = None) -> list[Extent]:
        """Contiguous extents that cover the range exactly, or the beginning of it: not less than the first `most`."""

    def prefetch(self, offset: int, length: int) -> None:
        """A hint that the range is going to be read."""

    def grow(self, length: int) -> None:
        """Make an empty device one of length bytes that read as zeros."""

    @property
    def settles_at(self) -> float:
        """In seconds of time.monotonic(): until then requests that nobody waits for any more may change the device.

        0.0 where there can be none. Write, zero and sync fail until then.
        """

    def suspect_requests(self) -> None:
        """A process that was killed may have left requests under way: moves `settles_at` where that can be."""

    def interrupt(self) -> None:
        """The cache is stopping: calls that wait for something to come back give up soon."""

    def close(self) -> None:
        """Release the device and its lock. Idempotent."""


Write = tuple[int, list[memoryview]]
"""An offset and what to write there, one view behind the other."""


@runtime_checkable
class PipelinedDevice(Device, Protocol):
    """A device on which one thread can have several writes under way."""

    pipeline_depth: int
    """More in one thread bring nothing."""
    def write_many(
        self, take: Callable[[], Write | None], fail: Callable[[Write, DeviceError], None], depth: int
    ) -> None:
        """Write what take() gives, in any order and up to depth at once, until it gives None.

        What the device refuses goes to fail(). Raises DeviceLostError, StoppedError, and what take() and fail()
        raise; none of the writes is under way any more then. Durable only after sync().
        """


@runtime_checkable
class BulkDevice(Device, Protocol):
    """A device that takes many writes in one call."""

    bulk_depth: int
    """So many at most; 0 while it turns out that it does not."""

    def write_bulk(self, writes: Sequence[Write]) -> list[tuple[Write, DeviceError]]:
        """Carry out all writes, from writable memory, and return those that failed. Durable only after sync()."""


@runtime_checkable
class ConnectedDevice(Protocol):
    """What a device at the other end of connections can do besides."""

    check_seconds: float
    """How often check_idle() is to be called where nothing else is asked of the device."""

    def be_patient(self) -> None:
        """From now on changes and flushes may take as long as they take: a drain needs them."""

    def check_idle(self) -> None:
        """Notice whether the other end is to end, or has gone, on connections that nobody uses. Raises nothing."""


def aligned_buffer(length: int) -> memoryview:
    """Page-aligned anonymous memory of length bytes, as O_DIRECT needs it."""
    return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
