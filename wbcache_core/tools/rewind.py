# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache rewind`: makes a past moment the present one, by one more generation at the end of the log.

It has every block that changed since, as it was then. Nothing is removed, so
the moment before it is a past moment like any other.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, LogFullError, LogRefusedError, UncommittedError, WbcacheError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.log.epochs import new_epoch
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.takeover import FoundData, take_over
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import describe
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import tell
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, format_size
from wbcache_core.volume.changed_extents import Change, Kind
from wbcache_core.volume.one_generation import RING_BYTES, OneGeneration


class Rewound(NamedTuple):
    """What was done: `before` is the generation that was the newest."""

    before: Generation
    target: Generation
    after: Generation
    page_count: int
    cleared_blocks: int


def run_rewind(path: str, when: str, origin: str | None) -> int:
    """Print how it went; returns the exit status. Raises WbcacheError if log or WHEN are invalid."""
    with ExitStack() as stack:
        log = FileDevice(path, "log", direct=True)
        stack.callback(log.close)
        try:
            rewind = Rewind(log, when)
            rewind.history.check_no_copy()
            if rewind.history.uncommitted:
                raise UncommittedError(
                    f"{rewind.history.uncommitted}; nothing has been changed; let one of them take them over first, or "
                    "remove that file to give them up"
                )
            if rewind.is_there_already:
                print(f"the volume is as of {describe(rewind.target)}: there is nothing to rewind")
                return 0
            if origin or rewind.needs_origin:
                rewind.origin = stack.enter_context(rewind.history.paired_origin(origin, log))
        except LogRefusedError as error:
            tell(f"wbcache: {error}")
            return 1
        try:
            done = rewind.perform()
        except DeviceError as error:
            unsure = f"unless generation {rewind.history.recovered.end.generation + 1} is there (wbcache info)"
            tell(f"wbcache: {error}; the volume is as it was, {unsure}")
            return 1
        except WbcacheError as error:
            tell(f"wbcache: {error}; the volume is as it was")
            return 1
    _report(path, done)
    return 0


def _report(path: str, done: Rewound) -> None:
    size = format_size(done.page_count + done.cleared_blocks << PAGE_SHIFT)
    print(
        f"the volume is as of {describe(done.target)} again, from generation {done.after.number} on: {size} in "
        f"{done.page_count} pages and {done.cleared_blocks} cleared blocks were brought back"
    )
    print(
        f"to undo it, as long as the log covers generation {done.before.number}: "
        f"wbcache rewind '{path}' {done.before.number}"
    )


class Rewind:
    """A log, and the moment to which it is to be rewound. Writes nothing before perform()."""

    def __init__(self, log: Device, when: str) -> None:
        """Raises LogRefusedError, MomentError, DeviceError."""
        self._log = log
        self.history = history = LogHistory(log)
        self.target = history.resolve(when)
        self.origin: Device | None = None
        """Set by whoever finds that it is needed."""
        self._head = history.recovered.head
        self._volume_bytes = history.superblock.origin_bytes
        self._then = history.map_at(self.target)
        self._changed = history.map_between(self.target.end_lsn, self._head)

    @property
    def is_there_already(self) -> bool:
        return self.target.end_lsn == self._head

    @property
    def needs_origin(self) -> bool:
        return any(change.kind is Kind.ON_ORIGIN for change in self.history.changes(self._changed, self._then))

    def perform(self) -> Rewound:
        """Append the generation. If it raises WbcacheError, the volume is unchanged."""
        history = self.history
        # If there is no origin, none is needed, and the log stands in for it.
        reader = history.reader(self._then, self.origin or self._log)

        def read(view: memoryview, block: int) -> None:
            offset = block << PAGE_SHIFT
            reader.read_into(view[: min(len(view), self._volume_bytes - offset)], offset)

        generation = OneGeneration(self._head, self._changes, read)
        amount = generation.count()
        self._check_room(amount.lsns)
        superblock, end = history.superblock, history.recovered.end
        store = self._give_up_clean_part()
        ring = RingBuffer(RING_BYTES)
        end = end._replace(epoch=store.current.epoch)
        writer = LogWriter(self._log, superblock.data_pages, superblock.uuid, ring, end, None)
        with Progress("rewinding", amount.pages << PAGE_SHIFT) as progress:
            segments = generation.segments(ring, progress.advance)
            new_end = writer.write_whole(segments, self._head, store.reclaimed_place)
        new_head = self._head + amount.lsns
        store.write(committed=new_head)
        before = history.recovered.covered.generations.newest
        assert before and before.end_lsn == self._head
        after = Generation(new_end.generation, new_head, new_end.time.wall_ns)
        return Rewound(before, self.target, after, amount.pages, amount.cleared)

    def _check_room(self, lsns: int) -> None:
        """Raises LogFullError."""
        superblock = self.history.superblock
        place = self.history.recovered.end.place
        free = superblock.data_pages - (place - superblock.destaged_place)
        # Room for a segment is left for later writers.
        needed = lsns + MAX_SEGMENT_PAGES
        if needed > superblock.data_pages - place % superblock.data_pages:
            # What may stay unused before the end of the log.
            needed += MAX_SEGMENT_PAGES
        if needed > free:
            raise LogFullError(
                f"going back to {describe(self.target)} needs {format_size(needed * PAGE_BYTES)} of free log, and log "
                f"'{self._log.name}' has {format_size(free * PAGE_BYTES)}; a later moment may need less; or copy that "
                f"moment (nbdcopy from the export @{self.target.number}) and write the copy over the volume"
            )

    def _give_up_clean_part(self) -> SuperblockStore:
        """As a server does at start, before anything is written after the end of the log, in a new epoch. Raises
        DeviceError, LogRefusedError."""
        history, superblock = self.history, self.history.superblock
        store = SuperblockStore(self._log, history.slots)
        oldest, oldest_place = superblock.destaged, superblock.destaged_place
        end = history.recovered.end
        changes = {"oldest": oldest, "oldest_place": oldest_place, "committed": self._head}
        changes |= new_epoch(store.current, self._head, end.previous)
        take_over(self._log, store, FoundData(), end.place, **changes)
        return store

    def _changes(self) -> Iterator[Change]:
        return self.history.changes(self._changed, self._then, self.origin)
