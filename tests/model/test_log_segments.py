# SPDX-License-Identifier: BSD-3-Clause
"""What a running server says about its log, segment by segment."""

import pytest

from tests.model.test_pins import fill, write_page
from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.local_pair import QUIET
from wbcache_core.errors import DamagedPageError
from wbcache_core.server import log_segments
from wbcache_core.units import MIB, PAGE_BYTES


def pages_of(cache):
    """All segments, a page after another, and how many pages there were."""
    found, start, count = [], 0, 0
    while start is not None:
        page = cache.log_segments.page(start)
        found += page["segments"]
        start, count = page["next"], count + 1
    return found, count


@pytest.fixture
def cache(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    for block in range(0, 100, 10):
        write_page(cache, b"a", block)
    return cache


def test_what_each_segment_has(cache):
    cache.volume.write(b"b" * (3 * PAGE_BYTES), 7 * PAGE_BYTES)
    cache.volume.write(b"b" * PAGE_BYTES, 50 * PAGE_BYTES)
    cache.volume.trim(4 * PAGE_BYTES, 60 * PAGE_BYTES)
    cache.volume.zero(PAGE_BYTES, 0)
    cache.volume.write(b"b" * PAGE_BYTES, 51 * PAGE_BYTES)
    before = cache.log_segments.page(0)["segments"]
    cache.volume.flush()
    facts = cache.log_segments.page(0)
    *earlier, last = facts["segments"]
    assert (facts["volume_bytes"], facts["next"], earlier) == (MIB, None, before)
    assert last["written"] == [(7 * PAGE_BYTES, 3 * PAGE_BYTES), (50 * PAGE_BYTES, 2 * PAGE_BYTES)]
    assert last["cleared"] == [(60 * PAGE_BYTES, 4 * PAGE_BYTES), (0, PAGE_BYTES)]
    assert [one["end_lsn"] for one in before] == [one["first_lsn"] for one in facts["segments"][1:]]
    newest = cache.window()[0][-1]
    assert (last["generation"], last["end_lsn"]) == (newest.number, newest.end_lsn)


def test_pages(cache, monkeypatch):
    whole, count = pages_of(cache)
    assert len(whole) == 10 and count == 1
    for name, value in (("MOST_RUNS", 3), ("MOST_SEGMENTS", 3), ("_MOST_SECONDS", 0.0)):
        with monkeypatch.context() as limited:
            limited.setattr(log_segments, name, value)
            limited.setattr(log_segments, "_AT_ONCE", 2)
            found, count = pages_of(cache) if name != "_MOST_SECONDS" else (whole, 4)
        assert found == whole and count == 4, name


def test_what_is_overwritten_meanwhile_is_left_out(cache, monkeypatch):
    """Before it is looked up, and between that and its being read."""
    monkeypatch.setattr(log_segments, "MOST_SEGMENTS", 1)
    first = cache.log_segments.page(0)
    segments = cache.log_segments._from(0)
    oldest = next(segments)
    in_background(fill, cache).result(PATIENCE_S)
    assert cache._line.oldest > first["next"] > oldest.first_lsn
    assert cache.log_segments._read(oldest) is None
    assert cache.log_segments.page(first["next"])["segments"][0]["first_lsn"] == cache._line.oldest


def test_damage_is_an_error(cache, pair):
    place = cache._table.some_from(0, 4)[-1].place
    with open(pair.log, "r+b") as log:
        log.seek(cache._reader.offset_of(place) + 200)
        log.write(b"damage")
    with pytest.raises(DamagedPageError, match="cannot be read back"):
        cache.log_segments.page(0)
