# SPDX-License-Identifier: BSD-3-Clause
"""Disks in memory that can lose power, fail and lie. They are devices as device/file_device.py describes them.

What was written and not synced may survive a crash or not, each sector of 512 bytes for itself and in any order.
What was synced survives. Nothing else is promised, as with real disks.
"""

import errno
import random
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from wbcache_core.errors import DeviceError

SECTOR = 512
STYLES = ("none", "all", "mixed", "only one", "all but one")
"""Which unsynced writes survive. Wholly at random is not enough: what breaks a cache is mostly one piece too many
or too few."""

MEMORY = -1
"""In place of a disk's number: shared memory, which outlives the process and not the power."""

_LARGE = 64
"""Sectors of a write above which a tear is made of a few runs, not of single sectors."""


class Piece(NamedTuple):
    """A run of whole sectors of an unsynced write; `number` is the write's, unique within its disk."""

    number: int
    offset: int
    data: bytes

    def cut(self, start, end):
        """Its sectors from start to end."""
        return Piece(self.number, self.offset + start * SECTOR, self.data[start * SECTOR : end * SECTOR])


class Event(NamedTuple):
    """A write has begun (its sectors as a Piece), or a sync has ended (the numbers of the writes it covered). Of
    MEMORY: a store, or, without a piece, the end of it."""

    disk: int
    piece: Piece | None
    covered: frozenset


class _Events(list):
    def __init__(self, journal):
        super().__init__()
        self._journal = journal

    def append(self, event):
        if event.disk != MEMORY:
            self._journal.before_event()
        super().append(event)


class Journal:
    """What a run did to its disks, in the one order that they share."""

    def __init__(self):
        self.events = _Events(self)
        self.before_event = lambda: None
        """Called before an event of a disk is appended."""

    def __len__(self):
        return len(self.events)


def survivors(writes, rng, style):
    """The pieces of unsynced writes that are there after a power cut, in the order they have to be applied."""
    if style == "none" or not writes:
        return []
    if style == "all":
        return list(writes)
    if style == "mixed":
        return [piece for write in writes for piece in _some_of(write, rng)]
    chosen = rng.randrange(len(writes))
    if style == "only one":
        return _some_of(writes[chosen], rng, drop=False)
    rest = _some_of(writes[chosen], rng, keep=False)
    return [*writes[:chosen], *rest, *writes[chosen + 1 :]]


def _some_of(write, rng, keep=True, drop=True):
    """The pieces of one write that survive."""
    fate = rng.random()
    if keep and fate < 0.35:
        return [write]
    if drop and fate < 0.6:
        return []
    count = len(write.data) // SECTOR
    if count == 1:
        return [write] if keep else []
    middle = rng.randrange(1, count)
    shape = rng.randrange(4)
    if shape == 0:
        return [write.cut(0, middle)]
    if shape == 1:
        return [write.cut(middle, count)]
    if shape == 2:
        return [write.cut(0, middle - 1), write.cut(middle, count)] if middle > 1 else [write.cut(middle, count)]
    if count > _LARGE:
        bounds = sorted(rng.sample(range(count + 1), 6))
        return [write.cut(*bounds[at : at + 2]) for at in (0, 2, 4)]
    return [write.cut(at, at + 1) for at in range(count) if rng.random() < 0.5]


def put(content, pieces):
    """Write pieces into a bytearray."""
    for _, offset, data in pieces:
        content[offset : offset + len(data)] = data


def settle(durable, unsynced, covered):
    """A sync made these writes durable; returns those that still are not.

    A piece that a later, durable one overwrites is gone for good, also where an earlier sync of it failed.
    """
    done = [piece for piece in unsynced if piece.number in covered]
    put(durable, done)
    return [
        piece
        for piece in unsynced
        if piece.number not in covered and not any(_overwrites(later, piece) for later in done)
    ]  # fmt: skip


def _overwrites(later, earlier):
    return (
        later.number > earlier.number
        and later.offset < earlier.offset + len(earlier.data)
        and earlier.offset < later.offset + len(later.data)
    )


class MemoryDisk:
    """A device over a bytearray: what is written is there, at once and for good."""

    def __init__(self, content, name="disk", writable=True):
        self.name = name
        self.writable = writable
        self.can_trim = True
        self.content = content
        self._view = memoryview(content)

    @property
    def size(self):
        return len(self._view)

    def read_into(self, view, offset):
        if offset + len(view) > len(self._view):
            raise DeviceError(f"{self.name} ends at byte {self.size}: it has been truncated")
        view[:] = self._view[offset : offset + len(view)]

    def read_uncached_into(self, view, offset):
        self.read_into(view, offset)

    def write(self, views, offset):
        if not self.writable:
            raise DeviceError(f"cannot write to {self.name}", errno.EROFS)
        for view in views:
            if offset + len(view) > len(self._view):
                raise DeviceError(f"cannot write to {self.name} beyond its end", errno.ENOSPC)
            self._view[offset : offset + len(view)] = view
            offset += len(view)

    def sync(self):
        """All is durable as it is."""

    def zero(self, offset, length, may_trim):
        self.write([memoryview(bytes(length))], offset)

    def extents(self, offset, length, most=None):
        return [(offset, length, False, False)] if length else []

    def prefetch(self, offset, length):
        """There is nothing to read ahead."""

    def grow(self, length):
        self._view.release()
        self.content.extend(bytes(length - len(self.content)))
        self._view = memoryview(self.content)

    @property
    def settles_at(self):
        return 0.0

    def suspect_requests(self, ended_at):
        """What is written is there at once."""

    def interrupt(self):
        """Nothing here waits."""

    def close(self):
        """Nothing to release: the content outlives the device."""


@dataclass
class Faults:
    """What goes wrong with a disk; to be changed at any time. Sets hold "read", "write", "sync" or "zero"."""

    failing: set = field(default_factory=set)
    errno_value: int = errno.EIO
    after: int = 0
    """So many more requests of the failing kinds go well."""
    times: int | None = None
    """So many requests fail, None for all."""
    shorten: bool = False
    """A failing write leaves its first half."""
    lose_syncs: bool = False
    """A sync says that all is well and does nothing."""
    space_bytes: int | None = None
    """New places to write to, in whole pages; a write that needs more fails with ENOSPC."""
    bad_pages: set = field(default_factory=set)
    """Numbers of pages of 4096 bytes that cannot be written. A write that has one writes what is before it."""
    flipped_bits: set = field(default_factory=set)
    """Bit numbers of the disk that are read wrong."""

    def strikes(self, kind):
        """Whether this request fails."""
        if kind not in self.failing or self.times == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times:
            self.times -= 1
        return True


class SimulatedDisk(MemoryDisk):
    """A disk with a volatile write cache.

    `content` is what reads return, `durable` what certainly survives. `pause(kind)`, where given, is called during
    each request, after it has begun, and decides how long it takes; requests of other threads go on meanwhile.
    """

    def __init__(self, image, name="disk", journal=None, number=0, pause=None):
        """`image` is copied; a number is the size of a blank disk."""
        super().__init__(bytearray(image), name)
        self.durable = bytearray(image)
        self.faults = Faults()
        self._journal = journal
        self._disk = number
        self._pause = pause or (lambda kind: None)
        self._lock = threading.Lock()
        self._count = 0
        self._running = set()
        self._unsynced = []
        self._uncovered = {}
        """By number, where every write is that no sync has covered: elsewhere `content` and `durable` are the same."""
        self._given_up = set()
        self._used_pages = set()

    def read_into(self, view, offset):
        self._pause("read")
        if self.faults.strikes("read"):
            raise self._error("read")
        super().read_into(view, offset)
        for bit in self.faults.flipped_bits:
            if offset <= bit // 8 < offset + len(view):
                view[bit // 8 - offset] ^= 1 << bit % 8

    def write(self, views, offset):
        self._change("write", offset, b"".join(views))

    def zero(self, offset, length, may_trim):
        self._change("zero", offset, bytes(length))

    def _change(self, kind, offset, data):
        refused = self._first_bad(offset, len(data))
        fails = refused is not None or self.faults.strikes(kind)
        if refused is not None:
            data = data[:refused] if kind == "write" else b""
        elif fails:
            half = len(data) // 2
            data = data[: half - half % SECTOR] if self.faults.shorten else b""
        self._take_space(offset, len(data))
        number = self._begin(offset, data) if data else None
        self._pause(kind)
        with self._lock:
            self._running.discard(number)
        if fails:
            raise self._error(kind)

    def inherit(self, pieces):
        """Writes of a process that died: they are there, and were never synced."""
        for piece in pieces:
            self._running.discard(self._begin(piece.offset, piece.data))

    def _first_bad(self, offset, length):
        """Bytes of a write before the first page that cannot be written; None where there is none."""
        touched = range(offset // 4096, (offset + length + 4095) // 4096)
        bad = [page * 4096 for page in touched if page in self.faults.bad_pages]
        return max(bad[0] - offset, 0) if bad else None

    def _begin(self, offset, data):
        """A write is on its way from now on; returns its number."""
        with self._lock:
            super().write([data], offset)
            self._count += 1
            piece = Piece(self._count, offset, data)
            self._running.add(piece.number)
            self._unsynced.append(piece)
            self._uncovered[piece.number] = slice(offset, offset + len(data))
            if self._journal is not None:
                self._journal.events.append(Event(self._disk, piece, frozenset()))
            return piece.number

    def _take_space(self, offset, length):
        if self.faults.space_bytes is None:
            return
        pages = set(range(offset // 4096, (offset + length + 4095) // 4096)) - self._used_pages
        if len(pages) * 4096 > self.faults.space_bytes:
            raise DeviceError(f"cannot write to {self.name}: no space left", errno.ENOSPC)
        self.faults.space_bytes -= len(pages) * 4096
        self._used_pages |= pages

    def sync(self):
        with self._lock:
            covered = frozenset(piece.number for piece in self._unsynced) - self._running - self._given_up
        self._pause("sync")
        if self.faults.strikes("sync"):
            # As Linux has it: a later sync knows nothing of what this one did not get to the disk.
            self._given_up |= covered
            raise self._error("sync")
        if self.faults.lose_syncs:
            return
        with self._lock:
            self._unsynced = settle(self.durable, self._unsynced, covered)
            for number in covered:
                self._uncovered.pop(number, None)
            if self._journal is not None:
                self._journal.events.append(Event(self._disk, None, covered))

    def _error(self, verb):
        return DeviceError(f"cannot {verb} {self.name}: {errno.errorcode[self.faults.errno_value]}",
                           self.faults.errno_value)  # fmt: skip

    def crash(self, seed, style="mixed"):
        """What is there after a power cut now."""
        image = bytearray(self.durable)
        put(image, survivors(self._unsynced, random.Random(seed), style))
        return image

    def restart(self, seed, style="mixed"):
        """The disk, with what crash() returns, after a power cut now: in the same memory, so that only what was not
        synced is copied. This one must not be used any more."""
        pieces = survivors(self._unsynced, random.Random(seed), style)
        for place in self._uncovered.values():
            self.content[place] = self.durable[place]
        put(self.content, pieces)
        put(self.durable, pieces)
        after = SimulatedDisk(b"", self.name, self._journal, self._disk, self._pause)
        after.content, after.durable, after._view = self.content, self.durable, self._view
        self.content = self.durable = self._view = None
        return after
