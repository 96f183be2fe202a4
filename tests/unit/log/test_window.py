# SPDX-License-Identifier: BSD-3-Clause
"""Recovery's view of the log: the right pages wherever it goes, read ahead where that pays, and no error too many."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.device.device import aligned_buffer
from wbcache_core.errors import DeviceError
from wbcache_core.format.segment import MAGIC
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log import window as read_window
from wbcache_core.log.reader import LogReader
from wbcache_core.log.window import LogWindow
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT

FIRST, NEXT = read_window._FIRST_PAGES, read_window._NEXT_PAGES
DATA_PAGES = 3 * NEXT + 77


class NumberedLog:
    """Each page of the data area says which one it is. Notes every read: first page, count, and by which thread."""

    name = "log"

    def __init__(self):
        self.reads = []
        self.bad_pages = frozenset()

    def read_uncached_into(self, view, offset):
        first, count = (offset - DATA_START) >> PAGE_SHIFT, len(view) >> PAGE_SHIFT
        assert 0 <= first <= first + count <= DATA_PAGES, "outside the data area"
        self.reads.append((first, count, threading.current_thread()))
        if self.bad_pages & set(range(first, first + count)):
            raise DeviceError("unreadable")
        for index in range(count):
            start = index << PAGE_SHIFT
            view[start : start + 8] = (first + index).to_bytes(8, "little")


@pytest.fixture
def log():
    return NumberedLog()


def opened(log, reads_ahead=True):
    return LogWindow(log, LogReader(log, DATA_PAGES, bytes(16)), DATA_PAGES, reads_ahead)


def number_of(page):
    assert len(page) == PAGE_BYTES
    return int.from_bytes(page[:8], "little")


def assert_no_thread_is_left():
    assert not any(one.name == "wbcache-recovery" for one in threading.enumerate())


STEPS = st.lists(st.tuples(st.sampled_from([1, 2, 31, 32, 33, 100, 257, FIRST, NEXT, NEXT + 5]), st.booleans()))


@given(st.integers(0, 2 * DATA_PAGES), STEPS, st.integers(1, 400))
def test_the_page_at_a_place_is_that_page(place, steps, repeats):
    log = NumberedLog()
    with opened(log) as window:
        for size, is_repeated in steps:
            for _ in range(repeats if is_repeated else 1):
                assert number_of(window.page(place)) == place % DATA_PAGES
                window.expect(size)
                place += size
    assert_no_thread_is_left()


def test_small_segments_are_read_ahead(log):
    with opened(log) as window:
        for place in range(0, FIRST + FIRST + NEXT, 2):
            assert number_of(window.page(place)) == place
            window.expect(2)
    here = threading.current_thread()
    assert [(first, count) for first, count, who in log.reads if who is here] == [(0, FIRST), (FIRST, FIRST)]
    ahead = [(first, count) for first, count, who in log.reads if who is not here]
    assert ahead == [(2 * FIRST, NEXT), (2 * FIRST + NEXT, NEXT)], "from the second piece in a row on"


def test_of_large_segments_only_descriptors_are_read(log):
    with opened(log) as window:
        for place in range(0, DATA_PAGES, 257):
            assert number_of(window.page(place)) == place
            window.expect(257)
    assert [count for _, count, _ in log.reads] == [FIRST] + [1] * (len(log.reads) - 1)
    assert len({who for _, _, who in log.reads}) == 1


def test_a_log_that_ends_in_the_first_piece_is_not_read_ahead(log):
    with opened(log) as window:
        for place in range(FIRST):
            window.page(place)
    assert len(log.reads) == 1


@pytest.mark.parametrize("is_needed", [False, True])
def test_what_cannot_be_read_ahead_is_an_error_only_for_who_needs_it(log, is_needed):
    log.bad_pages = {2 * FIRST + NEXT - 1}
    with opened(log) as window:
        for place in range(3 * FIRST):
            assert number_of(window.page(place)) == place
        if is_needed:
            with pytest.raises(DeviceError, match="unreadable"):
                for place in range(3 * FIRST, 2 * FIRST + NEXT):
                    window.page(place)


def test_unless_told_nothing_is_read_that_is_not_needed(log):
    with opened(log, reads_ahead=False) as window:
        for place in range(0, 3 * FIRST, 2):
            assert number_of(window.page(place)) == place
    assert [(first, count) for first, count, _ in log.reads] == [(n * FIRST, FIRST) for n in range(3)]


@pytest.mark.parametrize("what", ["threading.Thread.start", "wbcache_core.log.window.aligned_buffer"])
def test_without_threads_or_memory_to_spare_it_goes_on(log, monkeypatch, what):
    def fail(*arguments):
        if what.endswith("start") or threading.current_thread() is not here:
            raise RuntimeError if what.endswith("start") else OSError
        return aligned_buffer(*arguments)

    here = threading.current_thread()
    monkeypatch.setattr(what, fail)
    with opened(log) as window:
        for place in range(0, 3 * FIRST, 2):
            assert number_of(window.page(place)) == place
    assert_no_thread_is_left()


def test_after_an_error_nothing_stale_is_served(log):
    with opened(log) as window:
        window.page(5)
        log.bad_pages = {FIRST + 9}
        for _ in range(2):
            with pytest.raises(DeviceError):
                window.page(FIRST + 9)
        log.bad_pages = frozenset()
        assert number_of(window.page(FIRST + 9)) == FIRST + 9
        assert number_of(window.page(5)) == 5


def test_an_error_of_the_reader_does_not_leave_a_thread_behind(log):
    with pytest.raises(KeyError), opened(log) as window:
        for place in range(2 * FIRST):
            window.page(place)
        raise KeyError
    assert_no_thread_is_left()


def test_the_search_finds_pages_that_begin_as_descriptors(log):
    marked = {3, FIRST - 1, FIRST, DATA_PAGES - 1}
    fill = log.read_uncached_into

    def with_magic(view, offset):
        fill(view, offset)
        for index in range(len(view) >> PAGE_SHIFT):
            start = index << PAGE_SHIFT
            page = int.from_bytes(view[start : start + 8], "little")
            if page in marked:
                view[start : start + 8] = MAGIC
                view[start + 8 : start + 16] = page.to_bytes(8, "little")

    log.read_uncached_into = with_magic
    window = opened(log)

    def found(first, last):
        return [int.from_bytes(page[8:16], "little") for page in window.pages_with_magic(first, last)]

    assert found(0, DATA_PAGES + 4) == [*sorted(marked), 3]
    assert found(4, DATA_PAGES - 1) == [FIRST - 1, FIRST]
    assert found(9, 9) == []
