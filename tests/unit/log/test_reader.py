# SPDX-License-Identifier: BSD-3-Clause
"""Reading pages and segments back from a log that the real writer wrote."""

import itertools
import random

import pytest

from tests.support.simulated_disk import MemoryDisk
from wbcache_core.clock import Reading
from wbcache_core.device.device import aligned_buffer
from wbcache_core.errors import DamagedPageError, DeviceError
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.segment import TRIM
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.reader import LogPiece, LogReader, page_views
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.segment_table import Located
from wbcache_core.units import PAGE_BYTES

UUID = bytes(range(16))
DATA_PAGES = 300
RING_PAGES = 1024
COUNTS = (5, 1, 40, 16, 33, 100)
"""Pages in the segments of a log; more than one go into a commit."""


class StaleDisk(MemoryDisk):
    """Reads that may come from the page cache give the content as it was when `cached` was taken."""

    cached = None

    def read_into(self, view, offset):
        view[:] = (self.cached or self.content)[offset : offset + len(view)]

    def read_uncached_into(self, view, offset):
        view[:] = self.content[offset : offset + len(view)]


class Log:
    """A log with segments of the given page counts. `pages` has every page by its LSN, `segments` where they are."""

    def __init__(self, zstd_level=None, first_place=0, first_lsn=1):
        self.disk = StaleDisk(bytearray(DATA_START + DATA_PAGES * PAGE_BYTES), "log")
        self.reader = LogReader(self.disk, DATA_PAGES, UUID)
        self.ring = RingBuffer(RING_PAGES * PAGE_BYTES)
        self.pages, self.segments = {}, []
        end = LogEnd(first_place, 0, 0, Reading(0), Epoch(1, 1))
        writer = LogWriter(self.disk, DATA_PAGES, UUID, self.ring, end, zstd_level)
        pending = []
        for number, count in enumerate(COUNTS):
            pending.append(self._fill(pending[-1].end_lsn if pending else first_lsn, count, number))
        for commit in (pending[:2], pending[2:]):
            writer.prepare(commit, committed=1, reclaimed_place=first_place)
            self.segments += writer.write()
        self.end_lsn = pending[-1].end_lsn

    def _fill(self, first_lsn, count, number):
        """A segment with a trim before its pages. One in three compresses badly."""
        segment, rng = PendingSegment(first_lsn), random.Random(first_lsn)
        segment.add_range(TRIM, 0, 10)
        segment.add_pages(1000 * number, count)
        for lsn in range(first_lsn + 1, segment.end_lsn):
            page = rng.randbytes(PAGE_BYTES) if number % 3 == 1 else rng.randbytes(64) * 64
            self.pages[lsn] = page
            self.ring.page(lsn)[:] = page
        return segment

    def located(self, index):
        descriptor = self.segments[index].descriptor
        return Located(descriptor.first_lsn, self.segments[index].place, bool(descriptor.encoding))

    def piece(self, index, start, count):
        """count pages of a segment from page number start on."""
        first = self.segments[index].descriptor.first_lsn + 1 + start
        return LogPiece(first, self.located(index), self.segments[index].page_sums[start : start + count])

    def read(self, index, start, count):
        view = aligned_buffer(count * PAGE_BYTES)
        self.reader.read_into(self.piece(index, start, count), view)
        return bytes(view)

    def expected(self, index, start, count):
        first = self.segments[index].descriptor.first_lsn + 1 + start
        return b"".join(self.pages[lsn] for lsn in range(first, first + count))

    def change_byte(self, index, page, at=100):
        """Change a byte of a segment in the log; page 0 is the descriptor."""
        place = self.segments[index].place % DATA_PAGES
        self.disk.content[DATA_START + (place + page) * PAGE_BYTES + at] ^= 0x10


@pytest.fixture(params=[None, 1], ids=["plain", "zstd"])
def level(request):
    return request.param


@pytest.fixture
def log(level):
    return Log(level)


def test_the_writer_compresses_when_it_is_told_to(log, level):
    assert any(segment.descriptor.encoding for segment in log.segments) == bool(level)
    assert log.end_lsn == 1 + sum(COUNTS) + len(COUNTS)


def test_pages_of_each_segment(log):
    for index, count in enumerate(COUNTS):
        edges = sorted({0, 1, 4, 15, 16, 17, 31, count - 1, count} & set(range(count + 1)))
        for start, stop in itertools.combinations(edges, 2):
            assert log.read(index, start, stop - start) == log.expected(index, start, stop - start)


@pytest.mark.parametrize("first_place", [0, 7, DATA_PAGES - 50, 10 * DATA_PAGES - 3, 2**40])
def test_offsets_go_round(level, first_place):
    log = Log(level, first_place)
    assert log.reader.offset_of(first_place) == DATA_START + first_place % DATA_PAGES * PAGE_BYTES
    for index, count in enumerate(COUNTS):
        assert log.read(index, 0, count) == log.expected(index, 0, count)


@pytest.mark.parametrize("first_place", [0, DATA_PAGES - 50, DATA_PAGES - 6])
@pytest.mark.parametrize(("first", "stop"), [(0, 6), (0, 1), (1, 2), (2, 6), (3, 5)])
def test_load_puts_whole_segments_where_their_lsns_are(level, first_place, first, stop):
    log = Log(level, first_place)
    chosen = log.segments[first:stop]
    start_lsn, end_lsn = chosen[0].descriptor.first_lsn, chosen[-1].descriptor.end_lsn
    image = aligned_buffer((end_lsn - start_lsn) * PAGE_BYTES)
    log.reader.load([log.located(index) for index in range(first, stop)], end_lsn, image, start_lsn)
    views = page_views(image)
    for segment in chosen:
        first = segment.descriptor.first_lsn
        assert log.reader.decode(views[first - start_lsn], first).checksum == segment.descriptor.checksum
        for lsn in range(first + 1, segment.descriptor.end_lsn):
            assert views[lsn - start_lsn] == log.pages[lsn]


def test_a_changed_byte_is_never_returned(log):
    """Whatever byte of a segment's payload changes: the pages that it is in are refused, the others read."""
    descriptor = log.segments[2].descriptor
    for page in range(1, descriptor.log_pages):
        log.change_byte(2, page, at=50)
        refused = 0
        for start in range(descriptor.page_count):
            try:
                assert log.read(2, start, 1) == log.expected(2, start, 1)
            except DamagedPageError as error:
                assert error.lsn in (descriptor.first_lsn, descriptor.first_lsn + 1 + start)
                refused += 1
        assert 1 <= refused <= (16 if descriptor.encoding else 1)
        log.change_byte(2, page, at=50)
    assert log.read(2, 0, 40) == log.expected(2, 0, 40)


def test_the_first_bad_page_is_named():
    log = Log()
    first = log.segments[2].descriptor.first_lsn
    log.change_byte(2, 1 + 7)
    log.change_byte(2, 1 + 9)
    with pytest.raises(DamagedPageError, match=f"LSN {first + 8} in log 'log' fails its checksum") as failure:
        log.read(2, 5, 10)
    assert failure.value.lsn == first + 8


def test_a_damaged_descriptor_of_a_compressed_segment():
    log = Log(1)
    first = log.segments[2].descriptor.first_lsn
    log.change_byte(2, 0)
    with pytest.raises(DamagedPageError, match=f"segment with LSN {first}") as failure:
        log.read(2, 0, 1)
    assert failure.value.lsn == first


@pytest.mark.parametrize("page", [0, 1])
def test_load_refuses_a_compressed_segment_that_it_cannot_unpack(page):
    log = Log(1)
    for at in range(8):
        log.change_byte(0, page, at)
    with pytest.raises(DamagedPageError):
        log.reader.load([log.located(0)], 7, aligned_buffer(6 * PAGE_BYTES), 1)


def test_an_old_copy_in_the_page_cache_does_no_harm(log):
    """The log is written past the page cache; what that still has of an earlier lap is not the log."""
    stale = bytearray(random.Random(0).randbytes(len(log.disk.content)))
    log.disk.cached = stale
    for index, count in enumerate(COUNTS):
        assert log.read(index, 0, count) == log.expected(index, 0, count)


def test_decode_takes_only_the_segment_it_was_asked_for(log):
    page = aligned_buffer(PAGE_BYTES)
    log.disk.read_into(page, DATA_START)
    assert log.reader.decode(page, 1).checksum == log.segments[0].descriptor.checksum
    with pytest.raises(DamagedPageError, match="segment with LSN 2"):
        log.reader.decode(page, 2)
    with pytest.raises(DamagedPageError):
        LogReader(log.disk, DATA_PAGES, bytes(16)).decode(page, 1)
    with pytest.raises(DamagedPageError):
        log.reader.decode(aligned_buffer(PAGE_BYTES), 1)


def test_a_compressed_segment_in_a_place_that_was_used_again_is_refused():
    """As a reader finds it that was overtaken by the writer."""
    log = Log(1)
    log.disk.content[:] = Log(1, first_lsn=log.end_lsn).disk.content
    for index, count in enumerate(COUNTS):
        with pytest.raises(DamagedPageError):
            log.read(index, 0, count)


def test_tables_of_many_compressed_segments_are_not_all_kept(monkeypatch):
    monkeypatch.setattr("wbcache_core.log.reader._FRAME_CACHE_ENTRIES", 2)
    log = Log(1)
    for _ in range(2):
        for index, count in enumerate(COUNTS):
            assert log.read(index, 0, count) == log.expected(index, 0, count)
    assert len(log.reader._frame_tables) <= 2


def test_a_device_that_cannot_be_read_is_an_error(log):
    log.disk.read_into = log.disk.read_uncached_into = fail
    for index in range(3):
        with pytest.raises(DeviceError):
            log.read(index, 0, 1)


def fail(view, offset):
    raise DeviceError("cannot read")
