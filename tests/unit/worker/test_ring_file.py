# SPDX-License-Identifier: BSD-3-Clause
"""What a worker gets from the ring of its server, and what it does not."""

import os

import pytest

from wbcache_core.device.shared_memory import SharedFile
from wbcache_core.format.shared_ring import Layout
from wbcache_core.memory.segment_table import Located
from wbcache_core.units import PAGE_BYTES
from wbcache_core.worker.ring_file import OpenRing, RingFile

PAGES = 16
LAYOUT = Layout(PAGES, 8)


def page_of(lsn):
    return lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)


class Ring:
    """The server's side: LSN 4 to 19 are in the slots, in segments of four."""

    def __init__(self, path):
        self.shared = SharedFile.create(path, LAYOUT.file_bytes)
        self.slots = self.shared.map(LAYOUT.journal_bytes, PAGES * PAGE_BYTES)
        for lsn in range(4, 20):
            self.put(lsn, page_of(lsn))
        self.floor = 4
        self.opened = OpenRing(self.shared.open_again(), LAYOUT)
        self.file = RingFile(self.opened, lambda: self.floor)

    def put(self, lsn, page):
        at = lsn % PAGES * PAGE_BYTES
        self.slots[at : at + PAGE_BYTES] = page

    def copy(self, first, end=20):
        """The number of segments that have to come from the log, and the image."""
        segments = [Located(lsn, lsn, False) for lsn in range(first, end, 4)]
        image = memoryview(bytearray((end - first) * PAGE_BYTES))
        return self.file.copy_newest(segments, end, image), bytes(image)


@pytest.fixture
def ring(tmp_path):
    made = Ring(str(tmp_path / "ring"))
    yield made
    made.opened.file.close()
    made.shared.close()


def image(first, end):
    return b"".join(map(page_of, range(first, end)))


def test_segments_around_the_end_of_the_slots(ring):
    assert ring.copy(8) == (0, image(8, 20))
    assert ring.copy(12, 16) == (0, image(12, 16))


def test_what_the_ring_has_no_more_is_left_to_the_log(ring):
    assert ring.copy(4) == (0, image(4, 20))
    ring.floor = 5
    assert ring.copy(4) == (1, bytes(4 * PAGE_BYTES) + image(8, 20))
    ring.floor = 12
    assert ring.copy(4)[0] == 2


def test_nothing_is_there_any_more(ring):
    ring.floor = 30
    assert ring.copy(8) == (3, bytes(12 * PAGE_BYTES))


def test_what_was_used_again_meanwhile_comes_from_the_log(ring):
    floors = iter([4, 13])
    ring.file = RingFile(ring.opened, lambda: next(floors))
    missing, found = ring.copy(8)
    assert missing == 2
    assert found[8 * PAGE_BYTES :] == image(16, 20)


def test_a_file_that_has_become_shorter(ring, tmp_path):
    os.truncate(tmp_path / "ring", LAYOUT.journal_bytes + 2 * PAGE_BYTES)
    missing, _ = ring.copy(8)
    assert missing == 3


def test_it_does_not_share_the_lock(ring, tmp_path):
    ring.shared.close()
    SharedFile.find(str(tmp_path / "ring")).close()


def test_it_cannot_be_written(ring):
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(ring.opened.file.fd, b"x", 0)


def test_reading_what_has_no_memory_takes_none(ring, tmp_path):
    fd = os.open(tmp_path / "ring", os.O_RDWR)
    os.truncate(fd, 0)
    os.truncate(fd, LAYOUT.file_bytes)
    assert ring.copy(8) == (0, bytes(12 * PAGE_BYTES))
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)
