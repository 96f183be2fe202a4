# SPDX-License-Identifier: BSD-3-Clause
"""A log that was written commit by commit, with the volume's content after each, and ways to damage it."""

import contextlib
import random
from unittest import mock

from tests.support.abandon import abandon
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.flow import destager
from wbcache_core.format.segment import KIND_NAMES
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.log.superblocks import SuperblockStore, format_log, newest, read_slots
from wbcache_core.log.survey import Survey
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config

PAGE = 4096
LOG_BYTES = 8 << 20
QUIET = {
    "ring_size": "1M", "commit_interval": "1h", "commit_size": "512K", "destage_delay": "1h", "low_watermark": "90",
    "high_watermark": "95",
}  # fmt: skip


class SalvageDisk(MemoryDisk):
    """Stands in for the file that is the log."""

    def __init__(self, content, name="log"):
        super().__init__(content, name)
        self.unreadable = set()


class History:
    """`log` and `origin` are what a killed server left. `states` has the volume by the LSN at which a commit ended."""

    def __init__(self, seed, *, pages=200, commits=25, drained_at=(), compress="off", log_bytes=LOG_BYTES, largest=40):
        self.random = random.Random(f"history {seed}")
        self.origin = bytearray(self.random.randbytes(pages * PAGE))
        self.log = bytearray(log_bytes)
        self.model = bytearray(self.origin)
        self.states = {1: bytes(self.model)}
        self._settings = QUIET | {"compress": compress}
        self._compressible = compress != "off"
        self._largest = largest
        self.run(commits, drained_at)

    def run(self, commits, drained_at=()):
        """A server that is killed after so many commits; after some of them everything is destaged."""
        with self._server() as cache:
            for number in range(commits):
                self._commit(cache)
                if number in drained_at:
                    cache.drain()

    def go_round(self):
        """Servers until what the origin lacks, five segments at least, reaches beyond the end of the log."""
        while len(segments := self.segments()) < 5 or segments[0].page <= segments[-1].page:
            commits = min(max(400 // self._largest, 4), 40)
            self.run(commits, drained_at=(self.random.randrange(commits // 2),))

    def run_requests(self, *requests):
        """A server that is killed after a commit of these: ("write", "trim" or "zero", block, number of blocks)."""
        with self._server() as cache:
            for kind, block, count in requests:
                self._perform(cache.volume, kind, block, count)
            self._flush(cache)

    def write(self, offset, data):
        """A server that is killed after these bytes were written."""
        with self._server() as cache:
            for at in range(0, len(data), 64 * PAGE):
                cache.volume.write(data[at : at + 64 * PAGE], offset + at)
            self.model[offset : offset + len(data)] = data
            self._flush(cache)

    def tag(self, name):
        """A server that tags the present moment and is killed."""
        with self._server() as cache:
            cache.tag(name)

    def format_anew(self):
        """As force=discard-log does: nothing but the superblocks is written."""
        disk = MemoryDisk(self.log)
        first = self.superblock.with_changes(
            uuid=self.random.randbytes(16), oldest=1, oldest_place=0, destaged=1, destaged_place=0, destaged_previous=0,
            destaged_generation=0, batch_end=1, committed=1,
        )  # fmt: skip
        format_log(disk, first)

    @contextlib.contextmanager
    def _server(self):
        pairs = [("origin", "origin"), ("log", "log"), *self._settings.items()]
        # An idle second would move the origin on.
        with mock.patch.object(destager, "_IDLE_SECONDS", 3600.0):
            cache = Cache(Config.from_pairs(pairs), MemoryDisk(self.origin, "origin"), MemoryDisk(self.log, "log"))
            cache.activate()
            yield cache
            abandon(cache)

    def _commit(self, cache):
        budget = self._largest
        while budget > 0:
            budget -= self._change(cache.volume)
        self._flush(cache)

    def _flush(self, cache):
        cache.volume.flush()
        self.states[cache._line.committed] = bytes(self.model)

    def _change(self, volume):
        """One request; returns the pages that it takes in the log."""
        total = len(self.model) // PAGE
        count = self.random.choice((1, 1, 2, 5, 12))
        block = self.random.randrange(total - count)
        kind = self.random.choices(("write", "trim", "zero"), (80, 10, 10))[0]
        self._perform(volume, kind, block, count)
        return count if kind == "write" else 1

    def _perform(self, volume, kind, block, count):
        at, length = block * PAGE, count * PAGE
        data = bytes(length)
        if kind == "trim":
            volume.trim(length, at)
        elif kind == "zero":
            volume.zero(length, at, may_trim=False)
        else:
            data = self.random.randbytes(length // 16) * 16 if self._compressible else self.random.randbytes(length)
            volume.write(data, at)
        self.model[at : at + length] = data

    @property
    def superblock(self):
        return newest(read_slots(MemoryDisk(self.log)))

    def _survey(self):
        return Survey(MemoryDisk(self.log), self.superblock.data_pages, lambda count: None)

    def segments(self):
        """Those that the origin lacks, as wbcache_core.log.survey.Segment, in order; before any damage."""
        return self._survey().chain_from(self.superblock)

    def covered(self):
        """{number: end LSN} of the generations that can be had, in order; before any damage."""
        superblock = self.superblock
        found = {superblock.destaged_generation: superblock.destaged}
        return found | {segment.generation: segment.end_lsn for segment in self.segments()}

    def state_of(self, generation):
        """The volume's content at a generation that is covered; None where it ended within a request."""
        return self.states.get(self.covered()[generation])

    def first_segment(self):
        """The first one ever written; before any damage, and before the log has gone round."""
        return self._survey().segments_of(self.superblock.uuid)[0]

    def pages(self, segment):
        """(Index in the segment, block, whether nothing later in the log replaces it) of each; before any damage."""
        survey = self._survey()
        newest = {}
        for one in self.segments():
            for entry in survey.descriptor_of(one).entries():
                blocks = range(entry.block, entry.block + entry.blocks)
                newest |= dict.fromkeys(blocks, (KIND_NAMES[entry.kind], entry.lsn))
        return [
            (entry.lsn - segment.first_lsn - 1, entry.block, newest[entry.block] == ("page", entry.lsn))
            for entry in survey.descriptor_of(segment).entries()
            if entry.checksum is not None
        ]

    def begin_batch(self, end):
        """As a destager does before it writes a batch up to an LSN."""
        disk = MemoryDisk(self.log)
        SuperblockStore(disk, read_slots(disk)).write(batch_end=end)

    def flip(self, offset):
        """Damage one byte of the log."""
        self.log[offset] ^= 0x10

    def damage_descriptor(self, segment):
        self.flip(segment.offset + 200)

    def damage_page(self, segment, index=0):
        """Of a compressed segment it is the whole first frame."""
        self.flip(segment.offset + PAGE + (1 if segment.encoded else index * PAGE + 20))

    def damage_superblocks(self, at=1000):
        for offset in SLOT_OFFSETS:
            self.flip(offset + at)

    def damage_last_superblock(self):
        self.flip(SLOT_OFFSETS[self.superblock.sequence % 2] + 1000)

    def wipe_superblocks(self):
        self.log[:DATA_START] = bytes(DATA_START)

    def save(self, folder):
        """As files; returns the paths of log and origin."""
        paths = folder / "log", folder / "origin"
        for path, content in zip(paths, (self.log, self.origin), strict=True):
            path.write_bytes(content)
        return paths
