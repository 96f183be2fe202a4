# SPDX-License-Identifier: BSD-3-Clause
"""Compressing a segment's pages on several CPUs, and passing over what does not compress."""

import random

import pytest

from tests.support.injected_errors import threads_that_fail
from wbcache_core.format.frames import unpack
from wbcache_core.format.segment import FRAME_PAGES, MAX_ENTRIES
from wbcache_core.log.compressor import FrameCompressor
from wbcache_core.units import PAGE_BYTES

CHOOSE = random.Random(5)


@pytest.fixture
def compressor():
    one = FrameCompressor(1)
    yield one
    one.close()


def text(count):
    """Pages that shrink, no two the same."""
    return [memoryview((b"page %6d of a text. " % CHOOSE.randrange(10**6) * 205)[:PAGE_BYTES]) for _ in range(count)]


def noise(count):
    return [memoryview(CHOOSE.randbytes(PAGE_BYTES)) for _ in range(count)]


def assert_holds(frames, pages):
    assert len(frames) == -(-len(pages) // FRAME_PAGES)
    found = b"".join(bytes(unpack(frame, number, len(pages))) for number, frame in enumerate(frames))
    assert found == b"".join(pages)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [2, 16, 17, 63, 64, 65, 113, MAX_ENTRIES])
def test_frames_are_in_order(compressor, count, threads):
    compressor._threads = threads
    pages = text(count)
    for _ in range(3):
        assert_holds(compressor.compress(pages), pages)


@pytest.mark.parametrize("started", range(4))
def test_helpers_that_cannot_be_started_are_done_without(compressor, monkeypatch, started):
    compressor._threads = 4
    pages = text(MAX_ENTRIES)
    with threads_that_fail(monkeypatch, started):
        assert_holds(compressor.compress(pages), pages)
    for _ in range(3):
        assert_holds(compressor.compress(pages), pages)


def test_what_does_not_shrink_by_a_page_is_not_worth_it(compressor):
    assert compressor.compress(noise(100)) is None
    assert compressor.compress(text(1)) is None
    assert compressor.compress(text(2)) is not None


def test_after_noise_only_some_frames_are_tried(compressor, monkeypatch):
    """Two of the sixteen of a full segment, and all of them once one of the two shrinks."""
    tried = []
    pack_part = compressor._pack_part
    monkeypatch.setattr(
        compressor, "_pack_part", lambda number, pages: tried.append(len(pages)) or pack_part(number, pages)
    )
    assert compressor.compress(noise(MAX_ENTRIES)) is None
    assert sum(tried) == MAX_ENTRIES
    for _ in range(3):
        tried.clear()
        assert compressor.compress(noise(MAX_ENTRIES)) is None
        assert sum(tried) == 2 * FRAME_PAGES
    for pages in (text(MAX_ENTRIES), noise(128) + text(118), text(MAX_ENTRIES)):
        assert_holds(compressor.compress(pages), pages)


def test_after_close_it_goes_on_alone(compressor):
    compressor.close()
    compressor.close()
    pages = text(MAX_ENTRIES)
    assert_holds(compressor.compress(pages), pages)
