# SPDX-License-Identifier: BSD-3-Clause
"""What changed between two moments of a running server: the export @A..B, and the list in pages."""

import itertools
import os
import random

import pytest

from tests.model.test_pins import EAGER, fill, numbers, page_of, write_page
from tests.support.checker import check_pair
from tests.support.comparisons import as_export, as_list, changed_blocks, extents_of, listed
from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.invariants import check_pins
from tests.support.local_pair import QUIET
from wbcache_core.errors import (
    MalformedMomentError,
    OutOfRangeError,
    OutsideWindowError,
    PassingNameError,
    SnapshotEndedError,
    TagError,
)
from wbcache_core.flow.admission import wait_for_destaged
from wbcache_core.server import diff_pages
from wbcache_core.server.diff_pages import DiffPages
from wbcache_core.server.history import Query
from wbcache_core.units import GIB, MIB, PAGE_BYTES

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "1"))
HOLE, DATA = (True, False), (False, False)


def whole(volume):
    found = bytearray(volume.size)
    volume.read_into(found, 0)
    return found


def until_destaged(cache, lsn):
    """As a request that waits for the origin; its snapshots and tags give way, as few as possible."""
    with cache._line.lock:
        wait_for_destaged(cache._line, lsn)


def clear(cache, kind, block, count):
    getattr(cache.volume, kind)(count * PAGE_BYTES, block * PAGE_BYTES)


def test_each_kind_of_change_is_data_and_the_rest_is_a_hole_that_is_not_zero(pair):
    pair.make_origin(b"o" * (32 * PAGE_BYTES + 512))
    cache = pair.start(**QUIET)
    write_page(cache, b"a", 1)
    write_page(cache, b"a", 2)
    cache.volume.zero(2 * PAGE_BYTES, 4 * PAGE_BYTES, may_trim=False)
    clear(cache, "trim", 6, 2)
    cache.volume.write(b"a" * PAGE_BYTES, 2 * PAGE_BYTES)
    cache.volume.write(b"xx", 10 * PAGE_BYTES + 4095)
    cache.volume.write(b"END", 32 * PAGE_BYTES)
    cache.volume.flush()
    clear(cache, "trim", 1, 1)
    cache.volume.flush()
    export = cache.open_export("2..3")
    assert extents_of(export) == [
        (0, 8192, *HOLE), (8192, 4096, *DATA), (12288, 4096, *HOLE), (16384, 16384, *DATA), (32768, 8192, *HOLE),
        (40960, 8192, *DATA), (49152, 81920, *HOLE), (131072, 512, *DATA),
    ]  # fmt: skip
    assert listed(export) == [("data", 2, 1), ("zero", 4, 2), ("hole", 6, 2), ("data", 10, 2), ("data", 32, 1)]
    assert listed(cache.open_export("3..4")) == [("hole", 1, 1)] and changed_blocks(cache.open_export("3..4")) == [1]
    assert listed(cache.compare("4", "3")) == [("data", 1, 1)]
    assert listed(cache.compare("3", "2")) == [("data", 2, 1), ("data", 4, 4), ("data", 10, 2), ("data", 32, 1)]
    assert extents_of(cache.open_export("4..4")) == [(0, export.size, *HOLE)] and listed(cache.compare("4", "4")) == []
    assert page_of(export, 0) == b"o" and page_of(export, 1) == b"a" and page_of(export, 6) == b"\0"
    assert export.extents(5000, 9000) == [(9000, 3288, *DATA), (12288, 1712, *HOLE)]
    for count, offset in ((1, export.size), (-1, 0), (1, -1)):
        with pytest.raises(OutOfRangeError):
            export.extents(count, offset)


def test_what_the_origin_has_at_the_earlier_moment_is_told_apart(pair):
    """Backwards. A block of which only a part is zero is data."""
    pair.make_origin(16 * PAGE_BYTES)
    with open(pair.origin, "r+b") as file:
        file.seek(3 * PAGE_BYTES + 5)
        file.write(b"x")
    cache = pair.start(**QUIET)
    cache.volume.write(b"n" * (4 * PAGE_BYTES), 2 * PAGE_BYTES)
    cache.volume.flush()
    assert listed(cache.compare("1", "0")) == [("hole", 2, 1), ("data", 3, 1), ("hole", 4, 2)]


def test_a_trim_of_a_large_volume_is_one_extent(pair):
    pair.make_origin(3 * GIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    clear(cache, "trim", 7, (3 * GIB >> 12) - 7)
    cache.volume.flush()
    export = cache.open_export("1..2")
    assert listed(export) == [("hole", 7, (3 * GIB >> 12) - 7)]
    assert export.extents(2 * GIB, 28672, only_one=True) == [(28672, GIB, *DATA)]
    assert listed(cache.compare("2", "1")) == [("hole", 7, (3 * GIB >> 12) - 7)]


def test_two_maps_of_any_two_moments(pair):
    """Random requests, with commits between them, destaging and restarts: whatever A and B are, A with what is said to
    have changed is B."""
    print(f"seed {SEED}")
    choose = random.Random(f"comparisons {SEED}")
    for number in range(ROUNDS):
        size = choose.choice((600 * PAGE_BYTES, 1500 * PAGE_BYTES + 512))
        pair.origin.unlink(missing_ok=True)
        pair.log.unlink(missing_ok=True)
        pair.make_origin(choose.randbytes(size))
        parameters = QUIET | {"log_size": "16M", "history": "1h", "compress": choose.choice(("off", "zstd"))}
        cache = pair.start(**parameters)
        for turn in range(14):
            for _ in range(choose.randrange(1, 12)):
                _change(cache.volume, choose, size)
            cache.volume.flush()
            if turn == 4:
                cache.drain()
            if turn == choose.randrange(7, 11):
                cache.stop()
                cache = pair.start(**parameters)
        known = numbers(cache)
        states = {one: whole(cache.open_snapshot(str(one))) for one in known}
        assert len(known) > 5
        for start, end in choose.sample(list(itertools.combinations(known, 2)), 12):
            export = cache.open_export(f"{start}..{end}")
            as_export(export, states[start], states[end], choose.choice((None, 10**5, 10**9)))
            as_list(export, states[start], states[end])
            back = cache.compare(str(end), str(start))
            as_list(back, states[end], states[start])
            export.close()
            back.close()
        cache.stop()
        check_pair(pair.log, pair.origin)
        print(f"round {number}: generations {known[0]} to {known[-1]}")


def _change(volume, choose, size):
    offset = choose.randrange(size)
    count = min(choose.choice((1, 700, 4096, 20_000, 300_000)), size - offset)
    if choose.random() < 0.5:
        offset -= offset % PAGE_BYTES
    kind = choose.random()
    if kind < 0.6:
        volume.write(choose.randbytes(1) * count, offset)
    elif kind < 0.8:
        volume.trim(count, offset)
    else:
        volume.zero(count, offset, may_trim=choose.random() < 0.5)


def test_both_moments_are_held_until_it_is_closed(pair):
    pair.make_origin(MIB)
    cache = pair.start(**EAGER)
    write_page(cache, b"a")
    cache.tag("A")
    write_page(cache, b"b")
    cache.tag("B")
    exports = [cache.open_export("A..B"), cache.open_export("1..2")]
    cache.untag("A")
    cache.untag("B")
    write_page(cache, b"c")
    assert [(one["generation"], one["opened"]) for one in cache.status()["snapshots"]] == [(1, 2), (2, 2)]
    assert [cache._line.destaged, cache._pins.floor] <= [exports[0].start.end_lsn] * 2
    with cache._line.lock:
        assert cache._pins.limit() == exports[0].start.end_lsn
        check_pins(cache._pins)
    exports[0].close()
    exports[0].close()
    with cache._line.lock:
        assert cache._pins.limit() == exports[1].start.end_lsn
    assert changed_blocks(cache.open_export("1..2")) == [0] and page_of(exports[1]) == b"b"
    exports[1].close()
    for image in list(cache._snapshots._images.values()):
        cache._snapshots.release(image)
    assert cache.status()["snapshots"] == [] and not cache._pins.snapshots
    wait_until(lambda: pair.origin.read_bytes()[:1] == b"c")


def test_where_only_the_first_moment_has_to_give_way_the_copy_goes_on(pair):
    """Nobody can open it any more, but what is open knows all that changed; then the second one goes too."""
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    write_page(cache, b"b", 3)
    before = whole(cache.open_snapshot("1"))
    after = whole(cache.open_snapshot("2"))
    for image in list(cache._snapshots._images.values()):
        cache._snapshots.release(image)
    export = cache.open_export("1..2")
    write_page(cache, b"c", 5)
    in_background(until_destaged, cache, export.end.end_lsn).result(PATIENCE_S)
    assert cache._line.destaged == export.end.end_lsn
    with pytest.raises(OutsideWindowError):
        cache.open_export("1..2")
    as_export(export, before, after)
    as_list(export, before, after)
    in_background(fill, cache).result(PATIENCE_S)
    for look in (lambda: page_of(export), lambda: export.extents(MIB, 0), lambda: listed(export)):
        with pytest.raises(SnapshotEndedError, match=r"generation 2 .*has ended"):
            look()
    export.close()
    cache.stop()
    check_pair(pair.log, pair.origin)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("2..1", MalformedMomentError, r"generation 2 .* is later than generation 1 .*; open '@1..2'"),
        ("1..9", OutsideWindowError, "'9' is outside the window; the log covers generation 0"),
        ("gone..2", TagError, "no tag 'gone'"),
        ("1..", MalformedMomentError, "'' is not a moment"),
        ("..2", MalformedMomentError, "'' is not a moment"),
        ("1...2", TagError, "no tag '.2'"),
        ("1..last-flush", PassingNameError, r"since generation 1 .* open '@1..2' instead"),
        ("-0s..2", PassingNameError, r"open '@2..2' instead"),
    ],
)
def test_what_cannot_be_opened(pair, name, error, said):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    write_page(cache, b"b")
    with pytest.raises(error, match=said):
        cache.open_export(name)
    assert not cache._pins.snapshots


def test_names(pair):
    """Tags, times and numbers; a tag of an earlier version that looks like two moments is still that tag."""
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    cache.tag("A day")
    write_page(cache, b"b")
    cache.tag("B")
    write_page(cache, b"c")
    time = cache.history(Query(each=True))["rows"][1]["begin"]
    for name in ("1..2", "A day..B", f"{time}..B", "A day..2"):
        export = cache.open_export(name)
        assert (export.start.number, export.end.number) == (1, 2) and export.is_final
        assert "not changed since generation 1 (" in export.description
        assert [one.number for one in cache.resolve(name)] == [1, 2]
    with pytest.raises(TagError, match=r"'\.\.'"):
        cache.tag("1..2")
    with cache._line.lock:
        cache._pins.replace_tags(tuple(tag._replace(name="1..3") for tag in cache._pins.tags if tag.name == "B"))
    assert cache.open_export("1..3").generation.number == 2
    assert [one.number for one in cache.resolve("1..3")] == [2]


@pytest.fixture
def many(pair, monkeypatch):
    """A cache with six changes in generation 2, and answers of at most two."""
    monkeypatch.setattr(diff_pages, "MOST_EXTENTS", 2)
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    for block in range(1, 60, 11):
        cache.volume.write(b"b" * PAGE_BYTES, block * PAGE_BYTES)
    return cache


def offsets(facts):
    return [one["offset"] // PAGE_BYTES for one in facts["extents"]]


def test_pages_of_a_list(many):
    """What is only in the ring is committed first. The moments stay open from page to page, and no longer."""
    pages = DiffPages(many.compare)
    facts = pages.page("1", "last-flush", 0)
    assert (facts["start"]["generation"], facts["end"]["generation"], facts["volume_bytes"]) == (1, 2, MIB)
    assert facts["extents"][0] == {"offset": 4096, "length": 4096, "kind": "data"}
    opened = pages._open
    found = offsets(facts)
    while facts["next"] is not None:
        assert pages._open is opened and len(many._pins.snapshots) == 2
        facts = pages.page("1", "2", facts["next"])
        found += offsets(facts)
    assert found == [1, 12, 23, 34, 45, 56]
    assert not many._pins.snapshots


def test_who_does_not_ask_for_the_next_page_holds_nothing_for_long(many, monkeypatch):
    pages = DiffPages(many.compare)
    facts = pages.page("1", "last-flush", 0)
    pages.tick()
    assert many._pins.snapshots
    monkeypatch.setattr(diff_pages, "_IDLE_SECONDS", -1)
    with pages._lock:
        pages.tick()
    assert many._pins.snapshots
    pages.tick()
    assert not many._pins.snapshots
    assert offsets(pages.page("1", "2", facts["next"])) == [23, 34]
    assert offsets(pages.page("0", "1", 0)) == [0]
    assert not many._pins.snapshots


def test_a_moment_that_ends_between_two_pages(many):
    pages = DiffPages(many.compare)
    facts = pages.page("1", "last-flush", 0)
    in_background(fill, many).result(PATIENCE_S)
    for error in (SnapshotEndedError, OutsideWindowError):
        with pytest.raises(error):
            pages.page("1", "2", facts["next"])
        assert pages._open is None
