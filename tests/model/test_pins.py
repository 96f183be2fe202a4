# SPDX-License-Identifier: BSD-3-Clause
"""What holds destaging back, when it gives way, and that nothing hangs because of it."""

import time

import pytest

from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, GatedOrigin, in_background, wait_until
from tests.support.local_pair import QUIET
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import (
    DamagedPageError,
    OutsideWindowError,
    ReadOnlyError,
    SnapshotEndedError,
    StoppedError,
    TagError,
)
from wbcache_core.format.superblock import SLOT_OFFSETS, TAG_COUNT, decode
from wbcache_core.server.cache import Cache
from wbcache_core.units import MIB, PAGE_BYTES

EAGER = {"destage_delay": "0", "commit_interval": "1h"}


def write_page(cache, letter, block=0):
    """One page that is a generation of its own, unless a background commit was faster."""
    cache.volume.write(letter * PAGE_BYTES, block * PAGE_BYTES)
    cache.volume.flush()


def page_of(volume, block=0):
    found = bytearray(PAGE_BYTES)
    volume.read_into(found, block * PAGE_BYTES)
    assert found == found[:1] * PAGE_BYTES
    return bytes(found[:1])


def numbers(cache):
    return [generation.number for generation in cache.window()[0]]


def fill(cache, total=12 * MIB, block=1):
    """Three times the log of 4 MiB, to a few blocks."""
    piece = b"f" * (64 * PAGE_BYTES)
    for _ in range(total // len(piece)):
        cache.volume.write(piece, block * PAGE_BYTES)


def superblock_of(path):
    """The newest one, whether a server runs or not."""
    image = memoryview(path.read_bytes())
    slots = [decode(image[offset : offset + PAGE_BYTES]) for offset in SLOT_OFFSETS]
    return max(slots, key=lambda slot: slot.sequence)


def test_the_origin_stays_where_a_snapshot_needs_it_and_goes_on_when_it_is_closed(pair):
    pair.make_origin(MIB)
    cache = pair.start(**EAGER)
    write_page(cache, b"a")
    wait_until(lambda: cache._line.destaged == cache._line.committed)
    snapshot = cache.open_snapshot("last-flush")
    write_page(cache, b"b")
    time.sleep(1.3)
    assert pair.origin.read_bytes()[:1] == b"a" and page_of(snapshot) == b"a" and page_of(cache.volume) == b"b"
    snapshot.close()
    wait_until(lambda: pair.origin.read_bytes()[:1] == b"b")


def test_everything_that_was_written_since_the_log_was_formatted(pair):
    pair.make_origin(b"o" * MIB)
    cache = pair.start(**QUIET)
    for letter in (b"a", b"b", b"c"):
        write_page(cache, letter)
    assert numbers(cache) == [0, 1, 2, 3]
    assert [page_of(cache.open_snapshot(str(number))) for number in range(4)] == [b"o", b"a", b"b", b"c"]


def test_who_opens_the_same_generation_shares_its_map(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    first, second = cache.open_snapshot("1"), cache.open_snapshot("last-flush")
    assert first._image is second._image
    first.close()
    first.close()
    assert page_of(second) == b"a"
    assert cache._pins.snapshots
    second.close()
    assert not cache._pins.snapshots and not cache._snapshots._images


def test_writers_come_first(pair):
    """history-full=drop: the snapshot ends with an error, the tag is removed for good, nobody waits for them."""
    pair.make_origin(MIB)
    cache = pair.start(**EAGER)
    write_page(cache, b"a")
    snapshot = cache.open_snapshot("last-flush")
    cache.tag("kept")
    in_background(fill, cache).result(PATIENCE_S)
    with pytest.raises(SnapshotEndedError, match=r"generation 1 .*has ended"):
        page_of(snapshot)
    with pytest.raises(SnapshotEndedError):
        snapshot.extents(MIB, 0)
    with pytest.raises(TagError, match="no tag 'kept'"):
        cache.open_snapshot("kept")
    assert superblock_of(pair.log).tags == ()
    snapshot.close()
    cache.stop()
    check_pair(pair.log, pair.origin)


def test_writers_wait_for_who_holds(pair):
    pair.make_origin(MIB)
    cache = pair.start(history_full="hold", **EAGER)
    write_page(cache, b"a")
    snapshot = cache.open_snapshot("last-flush")
    cache.tag("kept")
    writing = in_background(fill, cache)
    wait_until(lambda: cache._line.room_waiters)
    time.sleep(0.2)
    assert not writing.done() and page_of(snapshot) == b"a"
    snapshot.close()
    time.sleep(0.2)
    assert not writing.done() and page_of(cache.open_snapshot("kept")) == b"a"
    for one in list(cache._snapshots._images.values()):
        cache._snapshots.release(one)
    cache.untag("kept")
    writing.result(PATIENCE_S)


@pytest.mark.parametrize("on_exit", ["commit", "destage"])
def test_a_stop_while_writers_wait_for_who_holds(pair, on_exit):
    pair.make_origin(MIB)
    cache = pair.start(history_full="hold", on_exit=on_exit, **EAGER)
    write_page(cache, b"a")
    snapshot = cache.open_snapshot("last-flush")
    writing = in_background(fill, cache)
    wait_until(lambda: cache._line.room_waiters)
    cache.interrupt()
    with pytest.raises(StoppedError):
        writing.result(PATIENCE_S)
    in_background(cache.stop).result(PATIENCE_S)
    snapshot.close()
    check_pair(pair.log, pair.origin)


@pytest.mark.parametrize("parameters", [{"ack": "origin"}, {"fua": "origin"}, {"flush": "origin"}], ids=str)
def test_who_waits_for_the_origin_comes_first(pair, parameters):
    pair.make_origin(MIB)
    cache = pair.start(history="1h", **parameters, **EAGER)
    write_page(cache, b"a")
    snapshot = cache.open_snapshot("last-flush")

    def write():
        cache.volume.write(b"b" * PAGE_BYTES, 0, fua=True)
        cache.volume.flush()

    in_background(write).result(PATIENCE_S)
    assert pair.origin.read_bytes()[:1] == b"b"
    with pytest.raises(SnapshotEndedError):
        page_of(snapshot)


def test_who_waits_for_the_origin_waits_for_who_holds(pair):
    pair.make_origin(MIB)
    cache = pair.start(history_full="hold", ack="origin", **EAGER)
    write_page(cache, b"a")
    snapshot = cache.open_snapshot("last-flush")
    writing = in_background(cache.volume.write, b"b" * PAGE_BYTES, 0)
    time.sleep(0.3)
    assert not writing.done() and page_of(snapshot) == b"a"
    snapshot.close()
    writing.result(PATIENCE_S)


@pytest.mark.parametrize("history_full", ["drop", "hold"])
def test_a_drain_at_the_end_ends_snapshots_and_stops_at_the_first_tag(pair, history_full, caplog):
    pair.make_origin(MIB)
    cache = pair.start(on_exit="destage", history="1h", history_full=history_full, **QUIET)
    write_page(cache, b"a")
    snapshot = cache.open_snapshot("last-flush")
    write_page(cache, b"b")
    cache.tag("kept")
    write_page(cache, b"c")
    in_background(cache.stop).result(PATIENCE_S)
    assert pair.origin.read_bytes()[:1] == b"b"
    assert "not complete" in caplog.text and "tag 'kept'" in caplog.text
    with pytest.raises(SnapshotEndedError):
        page_of(snapshot)
    check_pair(pair.log, pair.origin)
    cache = pair.start(on_exit="destage", **QUIET)
    assert page_of(cache.open_snapshot("kept")) == b"b" and page_of(cache.volume) == b"c"
    cache.untag("kept")
    in_background(cache.stop).result(PATIENCE_S)
    assert pair.origin.read_bytes()[:1] == b"c"


def test_a_read_that_is_under_way_when_its_snapshot_ends_is_an_error(pair):
    """It has read the origin as it was, or as it became meanwhile: nobody can tell, so it fails."""
    pair.make_origin(b"o" * MIB)
    origin = GatedOrigin(pair.origin)
    cache = pair.start(origin, **QUIET)
    snapshot = cache.open_snapshot("0")
    origin.has_read.clear()
    origin.read_gate.clear()
    reading = in_background(page_of, snapshot)
    assert origin.has_read.wait(PATIENCE_S)
    writing = in_background(cache.volume.write, b"n" * PAGE_BYTES, 0)
    writing.result(PATIENCE_S)
    origin.read_gate.set()
    reading.result(PATIENCE_S)
    origin.has_read.clear()
    origin.read_gate.clear()
    reading = in_background(page_of, snapshot)
    assert origin.has_read.wait(PATIENCE_S)
    draining = in_background(cache.drain)
    wait_until(lambda: snapshot._pin.ended)
    origin.read_gate.set()
    with pytest.raises(SnapshotEndedError):
        reading.result(PATIENCE_S)
    draining.result(PATIENCE_S)
    assert pair.origin.read_bytes()[:1] == b"n"


def test_history_by_size(pair):
    """What is older than the last 400K is destaged, the rest is not, however long nobody writes."""
    pair.make_origin(MIB)
    cache = pair.start(history="400K", **EAGER)
    for number in range(300):
        write_page(cache, bytes([number % 256]), number % 200)
    line = cache._line
    wait_until(lambda: line.committed - line.destaged <= 102)
    time.sleep(1.2)
    assert 100 <= line.committed - line.destaged <= 102
    assert len(cache.window()[0]) == 51
    assert page_of(cache.open_snapshot("260"), 259 % 200) == bytes([259 % 256])


def test_history_by_time(pair):
    pair.make_origin(MIB)
    cache = pair.start(history="1.5s", **EAGER)
    write_page(cache, b"a")
    time.sleep(0.5)
    write_page(cache, b"b")
    assert numbers(cache) == [0, 1, 2]
    wait_until(lambda: numbers(cache) == [2])
    oldest, _, _ = cache.window_ends()
    assert time.time_ns() - oldest.time_ns >= 1.5e9
    with pytest.raises(OutsideWindowError, match=r"'1' is outside the window; the log covers generation 2 \(.*\) to"):
        cache.open_snapshot("1")


@pytest.mark.parametrize(("history", "history_full"), [("1h", "drop"), ("1T", "hold")])
def test_history_gives_way_before_writers_are_slowed(pair, history, history_full):
    pair.make_origin(MIB)
    cache = pair.start(history=history, history_full=history_full, log_size="16M", commit_size="64K", **{
        **EAGER, "commit_interval": "5ms"})  # fmt: skip
    line = cache._line
    slowed = 0
    for turn in range(1200):
        cache.volume.write(b"%4d" % turn * (8 * PAGE_BYTES // 4), turn % 20 * 8 * PAGE_BYTES)
        slowed += line.throttled
        time.sleep(0.002)
    assert line.head > 2 * line.data_pages
    # The destager can be late on a busy machine.
    assert slowed < 60
    wait_until(lambda: line.dirty_pages > 0.4 * line.data_pages)
    assert len(cache.window()[0]) > 10


def damage_page(cache, path, lsn):
    """Flip a bit of a page in the log."""
    segment = cache._table.locate(lsn)
    offset = cache._reader.offset_of(segment.place) + (lsn - segment.first_lsn) * PAGE_BYTES
    with open(path, "r+b") as log:
        log.seek(offset)
        byte = log.read(1)[0]
        log.seek(offset)
        log.write(bytes([byte ^ 1]))


def make_superseded_page(pair):
    """Generation 1: block 0 is a, damaged. 2: block 1. 3: block 2. 4: block 0 is b. The ring has nothing of it."""
    pair.make_origin(b"o" * MIB)
    cache = pair.start(**QUIET)
    for letter, block in ((b"a", 0), (b"x", 1), (b"y", 2), (b"b", 0), (b"z", 3)):
        write_page(cache, letter, block)
    damage_page(cache, pair.log, 2)
    cache.stop()


def destage_to(cache, lsn):
    """One batch up to there, as if history kept the rest."""
    with cache._line.lock:
        cache._pins.limit = lambda: max(lsn, cache._line.destaged)
        cache._line.origin_target = lsn
        cache._line.destage_wanted.notify()
    wait_until(lambda: cache._line.destaged >= lsn)


def test_no_moment_is_open_that_a_damaged_page_belongs_to_once_it_was_passed_over(pair):
    make_superseded_page(pair)
    cache = pair.start(**QUIET)
    assert numbers(cache) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DamagedPageError):
        page_of(cache.open_snapshot("2"))
    abandon(cache)
    cache = pair.start(**QUIET)
    destage_to(cache, 5)
    assert numbers(cache) == [4, 5]
    assert pair.origin.read_bytes()[:1] == b"o"
    assert page_of(cache.open_snapshot("4")) == b"b"
    abandon(cache)
    with pytest.raises(AssertionError, match=r"the page with LSN 2 .* cannot be read back"):
        check_pair(pair.log, pair.origin)
    cache = pair.start(**QUIET)
    assert numbers(cache) == [4, 5] and page_of(cache.open_snapshot("4")) == b"b"
    with pytest.raises(OutsideWindowError):
        cache.open_snapshot("3")
    cache.drain()
    assert pair.origin.read_bytes()[:1] == b"b"
    assert superblock_of(pair.log).batch_end == superblock_of(pair.log).destaged


@pytest.mark.parametrize("history_full", ["drop", "hold"])
def test_a_damaged_page_is_not_passed_over_while_a_snapshot_needs_it(pair, history_full):
    make_superseded_page(pair)
    cache = pair.start(history_full=history_full, **QUIET)
    snapshot = cache.open_snapshot("3")
    if history_full == "drop":
        in_background(cache.drain).result(PATIENCE_S)
        with pytest.raises(SnapshotEndedError):
            page_of(snapshot)
        return
    draining = in_background(cache.drain)
    wait_until(lambda: cache._line.origin_error)
    assert "snapshot" in str(cache._line.origin_error)
    assert page_of(snapshot, 1) == b"x"
    with pytest.raises(DamagedPageError):
        page_of(snapshot)
    snapshot.close()
    draining.result(PATIENCE_S)
    assert pair.origin.read_bytes()[:1] == b"b"


def test_a_clock_that_was_wrong_once(pair, monkeypatch):
    """Ages are right all the same, in the same server and after a restart; history lets go of what is old."""
    pair.make_origin(MIB)
    cache = pair.start(history="1s", **EAGER)
    write_page(cache, b"a")
    now = time.time_ns
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time_ns", lambda: now() + 10 * 365 * 86400 * 10**9)
        write_page(cache, b"b")
    time.sleep(0.2)
    write_page(cache, b"c")
    assert [cache.open_snapshot(when).generation.number for when in ("-0s", "-0.1s")] == [3, 2]
    for one in list(cache._snapshots._images.values()):
        for _ in range(one.users):
            cache._snapshots.release(one)
    wait_until(lambda: numbers(cache) == [3])
    wait_until(lambda: cache._line.destaged == cache._line.committed)
    cache.stop()
    times = [generation.time_ns for generation in cache.window()[0]]
    assert times[-1] < now() + 10**9


def test_what_a_killed_server_left_is_durable_before_a_moment_of_it_is_opened(pair, monkeypatch):
    """A server that nobody writes to would otherwise show what the next power cut takes away."""
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    abandon(cache)
    cache = Cache(pair.config(**QUIET))
    synced = []
    with monkeypatch.context() as watched:
        watched.setattr(cache._log, "sync", lambda: synced.append(cache._log))
        for look in (lambda: cache.open_snapshot("1").close(), lambda: cache.resolve("last-flush")):
            look()
            assert synced == [cache._log]
    cache.stop()


def test_tags(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    tag = cache.tag("first")
    assert (tag.name, tag.generation) == ("first", 1)
    cache.volume.write(b"b" * PAGE_BYTES, 0)
    assert cache.tag("what was not flushed yet").generation == 2
    cache.tag("again", "first")
    with pytest.raises(TagError, match="already"):
        cache.tag("first")
    for name in ("", " x", "a/b", "7", "-5m", "-x", "2026-11-22", "last-flush", "Last-Flush", "a\n", "x" * 65):
        with pytest.raises(TagError):
            cache.tag(name)
    with pytest.raises(TagError):
        cache.untag("missing")
    abandon(cache)
    cache = pair.start(**QUIET)
    assert [tag.name for tag in cache.window_ends()[2]] == ["first", "what was not flushed yet", "again"]
    assert page_of(cache.open_snapshot("again")) == b"a"
    for number in range(TAG_COUNT - 3):
        cache.tag(f"t{number}")
    with pytest.raises(TagError, match="all that a log can have"):
        cache.tag("one more")
    cache.untag("first")
    cache.tag("one more", "1")


def test_a_tag_needs_a_server_that_may_write(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    write_page(cache, b"a")
    cache.stop()
    pair.log.chmod(0o444)
    before = pair.log.read_bytes()
    log = FileDevice(str(pair.log), "log", read_only=True)
    origin = FileDevice(str(pair.origin), "origin", read_only=True)
    cache = Cache(pair.config(), origin, log)
    with pytest.raises(ReadOnlyError):
        cache.tag("x")
    assert page_of(cache.open_snapshot("1")) == b"a" and page_of(cache.open_snapshot("0")) == b"\0"
    cache.stop()
    assert pair.log.read_bytes() == before


@pytest.mark.parametrize("destaged", [True, False])
def test_no_past_moment_is_left_of_an_origin_that_others_wrote_to(pair, destaged):
    pair.make_origin(MIB)
    cache = pair.start(on_exit="destage" if destaged else "commit", **QUIET)
    for letter in (b"a", b"b", b"c"):
        write_page(cache, letter, 5)
    if not destaged:
        cache.tag("before", "2")
    cache.stop()
    with open(pair.origin, "r+b") as origin:
        origin.write(b"other")
    for _ in range(2):
        cache = pair.start(force="origin-changed", **QUIET)
        assert (numbers(cache), cache.window_ends()[2]) == ([3], ())
        abandon(cache)
    check_pair(pair.log, pair.origin)
    cache = pair.start(**QUIET)
    write_page(cache, b"d", 5)
    assert numbers(cache) == [3, 4] and page_of(cache.open_snapshot("3"), 5) == b"c"
