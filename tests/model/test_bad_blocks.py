# SPDX-License-Identifier: BSD-3-Clause
"""Bad sectors of the origin: everything else is destaged, they stay in the log, and what clients read is right."""

import contextlib
import threading
import time

import pytest

from tests.support.abandon import abandon
from tests.support.bad_sectors import BadSectors
from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.matching import same
from wbcache_core.device import origin
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import ControlError, DeviceError, OriginFailedError, OutsideWindowError, SnapshotEndedError
from wbcache_core.flow import bad_blocks, origin_writer
from wbcache_core.flow.admission import only_carried_below
from wbcache_core.flow.carrier import Carrier
from wbcache_core.flow.destager import Destager
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.tools.salvage.salvage import run_salvage
from wbcache_core.units import MIB, PAGE_BYTES

EAGER = {"destage_delay": "0", "commit_interval": "10ms", "log_size": "4M"}
BLOCKS = MIB // PAGE_BYTES


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(origin_writer, "_RETRY_PAUSES", (0.0,))
    monkeypatch.setattr(bad_blocks, "_FIRST_REST", 0.3)


@pytest.fixture
def bad(pair):
    """Starts a cache on the pair with an origin that has bad sectors."""
    pair.make_origin(b"o" * MIB)

    def start(*blocks, **settings):
        device = BadSectors(pair.origin, blocks)
        cache = pair.start(device, **{**EAGER, **settings})
        return cache, device

    return start


def write(cache, block, letter, count=1):
    cache.volume.write((letter * PAGE_BYTES)[:PAGE_BYTES] * count, block * PAGE_BYTES)


def read(volume, block):
    found = bytearray(PAGE_BYTES)
    volume.read_into(found, block * PAGE_BYTES)
    assert found == found[:1] * PAGE_BYTES
    return bytes(found[:1])


def on_origin(pair, block):
    return pair.origin.read_bytes()[block * PAGE_BYTES :][:1]


def settle(cache):
    """Wait until nothing is left to destage but what the origin refuses."""
    cache.volume.flush()
    line = cache._line

    def settled():
        with line.lock:
            return line.head == line.committed and only_carried_below(line, line.committed)

    wait_until(settled)


def assert_at_rest(cache):
    """Nothing is written over and over; a try or two of what is bad may be due."""
    before = cache._line.head
    time.sleep(1)
    assert cache._line.head - before < 20


def bad_bytes(cache):
    return cache.status()["bad_blocks"]["bytes"]


def test_everything_else_is_destaged_and_log_space_comes_back(bad, pair, caplog):
    cache, _ = bad(7)
    for turn in range(40):
        for block in range(BLOCKS):
            write(cache, block, b"%c" % (97 + turn % 26))
    settle(cache)
    facts = cache.status()
    assert [(one["offset"], one["length"]) for one in facts["bad_blocks"]["ranges"]] == [(7 * PAGE_BYTES, PAGE_BYTES)]
    assert facts["bytes"]["dirty"] <= 4 * PAGE_BYTES and facts["errors"]["origin"] is None
    last = b"%c" % (97 + 39 % 26)
    assert {read(cache.volume, block) for block in range(BLOCKS)} == {last}
    same(pair.origin.read_bytes()[8 * PAGE_BYTES :], last * (BLOCKS - 8) * PAGE_BYTES)
    assert on_origin(pair, 7) == b"o"
    wait_until(lambda: f"does not accept the 4096 bytes at {7 * PAGE_BYTES}: cannot write" in caplog.text)


@pytest.mark.parametrize("fast", [True, False], ids=["bulk", "parallel"])
def test_many_bad_blocks_in_one_batch(bad, pair, fast, monkeypatch):
    """More of them than requests that fail at once otherwise, so that a large share of the log is carried."""
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", 1000.0 if fast else 0.0)
    blocks = set(range(3, 200, 7))
    cache, _ = bad(*blocks)
    write(cache, 0, b"a", BLOCKS)
    settle(cache)
    assert bad_bytes(cache) == len(blocks) * PAGE_BYTES
    for block in range(BLOCKS):
        assert on_origin(pair, block) == (b"o" if block in blocks else b"a")
        assert read(cache.volume, block) == b"a"


@pytest.mark.parametrize("may_trim", [True, False])
def test_a_bad_block_in_a_cleared_range(bad, pair, may_trim):
    cache, _ = bad(20, 30)
    write(cache, 30, b"a")
    cache.volume.zero(100 * PAGE_BYTES, 10 * PAGE_BYTES, may_trim=may_trim)
    write(cache, 12, b"b")
    settle(cache)
    assert bad_bytes(cache) == 2 * PAGE_BYTES
    expected = bytearray(b"o" * MIB)
    expected[10 * PAGE_BYTES : 110 * PAGE_BYTES] = bytes(100 * PAGE_BYTES)
    expected[12 * PAGE_BYTES : 13 * PAGE_BYTES] = b"b" * PAGE_BYTES
    volume = bytearray(MIB)
    cache.volume.read_into(volume, 0)
    same(bytes(volume), bytes(expected))
    expected[20 * PAGE_BYTES : 21 * PAGE_BYTES] = expected[30 * PAGE_BYTES : 31 * PAGE_BYTES] = b"o" * PAGE_BYTES
    same(pair.origin.read_bytes(), bytes(expected))


def test_a_volume_at_rest_does_not_write_on_and_on(bad, monkeypatch):
    monkeypatch.setattr(bad_blocks, "_FIRST_REST", 30.0)
    cache, device = bad(7)
    write(cache, 7, b"a")
    settle(cache)
    before, refusals = cache._line.head, len(device.refusals)
    time.sleep(2.5)
    assert cache._line.head == before and len(device.refusals) == refusals


def test_the_rest_between_tries_grows(bad):
    cache, device = bad(7)
    write(cache, 7, b"a")
    settle(cache)
    wait_until(lambda: cache._bad._blocks[7].rest >= 4 * 0.3)
    tries = len(device.refusals)
    time.sleep(0.5)
    assert len(device.refusals) == tries
    assert read(cache.volume, 7) == b"a"


def test_a_sector_that_becomes_good_is_destaged_and_vanishes(bad, pair, caplog):
    cache, device = bad(7)
    write(cache, 6, b"a", 3)
    settle(cache)
    assert bad_bytes(cache)
    device.bad.clear()
    wait_until(lambda: on_origin(pair, 7) == b"a" and not bad_bytes(cache))
    wait_until(lambda: f"accepts the 4096 bytes at {7 * PAGE_BYTES} again" in caplog.text)
    wait_until(lambda: cache._line.destaged == cache._line.committed)
    cache.volume.flush()
    cache.drain()


def test_a_restart_finds_it_again_from_the_log_alone(bad, pair):
    cache, _ = bad(7)
    write(cache, 6, b"a", 3)
    settle(cache)
    in_background(cache.stop).result(PATIENCE_S)
    check_pair(pair.log, pair.origin)
    cache, _ = bad(7)
    assert read(cache.volume, 7) == b"a"
    wait_until(lambda: bad_bytes(cache) == PAGE_BYTES)
    abandon(cache)
    check_pair(pair.log, pair.origin)
    cache, _ = bad()
    wait_until(lambda: on_origin(pair, 7) == b"a")


def test_a_drain_at_the_end_ends_and_says_what_is_missing(bad, pair, caplog):
    cache, _ = bad(7, 8, on_exit="destage", destage_delay="1h")
    write(cache, 0, b"a", 100)
    in_background(cache.stop).result(PATIENCE_S)
    assert "the origin is not complete" in caplog.text
    assert f"does not accept 8192 bytes (the 8192 bytes at {7 * PAGE_BYTES})" in caplog.text
    assert [on_origin(pair, block) for block in (6, 7, 8, 9)] == [b"a", b"o", b"o", b"a"]
    check_pair(pair.log, pair.origin)


@pytest.mark.parametrize("kind", ["bad sector", "whole origin"])
def test_a_batch_that_was_under_way_is_not_the_drain_at_the_end(bad, pair, monkeypatch, kind):
    """It failed before the stop began, and the origin has been mended since."""
    monkeypatch.setattr(bad_blocks, "_FIRST_REST", 60.0)
    cache, device = bad(7, on_exit="destage")
    has_failed, may_go_on, drain_has_begun = threading.Event(), threading.Event(), threading.Event()
    retry_all = cache._bad.retry_all

    def hold_up(self):
        has_failed.set()
        assert may_go_on.wait(PATIENCE_S)
        if kind == "whole origin" and not device.has_failed:
            device.has_failed = True
            raise DeviceError("cannot sync origin: as the test wants it")

    def note_drain(self):
        retry_all()
        drain_has_begun.set()

    device.has_failed = False
    monkeypatch.setattr(BadSectors, "sync", hold_up)
    monkeypatch.setattr(bad_blocks.BadBlocks, "retry_all", note_drain)
    write(cache, 6, b"a", 3)
    assert has_failed.wait(PATIENCE_S)
    device.bad.clear()
    stop = in_background(cache.stop)
    assert drain_has_begun.wait(PATIENCE_S)
    may_go_on.set()
    stop.result(PATIENCE_S)
    assert [on_origin(pair, block) for block in (6, 7, 8)] == [b"a"] * 3


def test_who_waits_for_the_origin_is_told(bad):
    cache, device = bad(7, flush="origin")
    write(cache, 6, b"a", 3)
    with pytest.raises(OriginFailedError, match=f"the 4096 bytes at {7 * PAGE_BYTES}"):
        in_background(cache.volume.flush).result(PATIENCE_S)
    device.bad.clear()
    wait_until(lambda: not bad_bytes(cache))
    in_background(cache.volume.flush).result(PATIENCE_S)


def test_the_log_does_not_say_that_the_origin_has_it(bad, pair):
    """The superblock's generation is the last that is there as a whole."""
    cache, _ = bad(7)
    write(cache, 1, b"a")
    settle(cache)
    whole = cache._store.current.destaged_generation
    assert whole
    for letter in b"bcd":
        write(cache, 7, b"%c" % letter)
        write(cache, 9, b"%c" % letter)
        settle(cache)
    in_background(cache.stop).result(PATIENCE_S)
    log = FileDevice(str(pair.log), "log")
    superblock = newest(read_slots(log))
    log.close()
    assert superblock.destaged_generation == whole and superblock.batch_end > superblock.destaged
    check_pair(pair.log, pair.origin)


def test_giving_up(bad, pair):
    cache, _ = bad(7, 8, 100)
    write(cache, 6, b"a", 100)
    settle(cache)
    with pytest.raises(ControlError, match="no bytes from 0 to 4096 are bad"):
        cache.give_up(0, PAGE_BYTES)
    assert in_background(cache.give_up, 0, 8 * PAGE_BYTES).result(PATIENCE_S) == (PAGE_BYTES, True)
    assert [read(cache.volume, block) for block in (6, 7, 8, 9)] == [b"a", b"o", b"a", b"a"]
    assert bad_bytes(cache) == 2 * PAGE_BYTES
    assert in_background(cache.give_up, 0, MIB).result(PATIENCE_S) == (2 * PAGE_BYTES, True)
    assert read(cache.volume, 100) == b"o"
    in_background(cache.stop).result(PATIENCE_S)
    check_pair(pair.log, pair.origin)
    cache, _ = bad(7, 8, 100)
    assert [read(cache.volume, block) for block in (6, 7, 8, 9)] == [b"a", b"o", b"o", b"a"]
    assert bad_bytes(cache) == 0


def test_what_is_written_anew_after_giving_up_is_not_given_up(bad):
    cache, _ = bad(7)
    write(cache, 7, b"a")
    settle(cache)
    with cache._line.lock:
        cache._bad.give_up(7, 8)
    write(cache, 7, b"b")
    settle(cache)
    assert_at_rest(cache)
    assert read(cache.volume, 7) == b"b"
    assert bad_bytes(cache) == PAGE_BYTES
    assert in_background(cache.give_up, 0, MIB).result(PATIENCE_S) == (PAGE_BYTES, True)
    assert read(cache.volume, 7) == b"o"


def test_what_is_trimmed_after_giving_up_is_not_given_up(bad, pair):
    """Also with an LSN that is the same as that of the write before."""
    cache, _ = bad(7, commit_interval="1h", commit_size="1M", destage_delay="0")
    write(cache, 7, b"a")
    settle(cache)
    write(cache, 7, b"b")
    with cache._line.lock:
        assert cache._bad.give_up(7, 8) == [7]
    cache.volume.trim(PAGE_BYTES, 7 * PAGE_BYTES)
    settle(cache)
    assert_at_rest(cache)
    assert read(cache.volume, 7) == b"\0"
    assert bad_bytes(cache) == PAGE_BYTES


def test_what_is_written_while_it_is_dropped_is_read(bad, pair, monkeypatch):
    """The batch that drops a block is on its way: what comes meanwhile is newer than what is given up."""
    real = Destager._new_samples

    def new_samples(destager, batch, dropped):
        if dropped:
            write(cache, 7, b"b")
        return real(destager, batch, dropped)

    cache, _ = bad(7, commit_interval="1h", commit_size="1M")
    write(cache, 7, b"a")
    settle(cache)
    monkeypatch.setattr(Destager, "_new_samples", new_samples)
    assert in_background(cache.give_up, 0, MIB).result(PATIENCE_S) == (PAGE_BYTES, True)
    assert read(cache.volume, 7) == b"b"
    settle(cache)
    assert read(cache.volume, 7) == b"b"
    assert_at_rest(cache)


def test_what_is_just_being_carried_forward_can_be_given_up(bad, pair, monkeypatch):
    """Between what the carrier decides and what it does."""
    real, chosen = Carrier._append, []

    def append(carrier, blocks, *arguments):
        if not chosen:
            with carrier._line.lock:
                # Not known for bad yet, or known for long.
                carrier._bad._blocks.setdefault(7, None)
                chosen.extend(carrier._bad.give_up(7, 8))
        real(carrier, blocks, *arguments)

    cache, _ = bad(7)
    write(cache, 6, b"a", 3)
    settle(cache)
    monkeypatch.setattr(Carrier, "_append", append)
    cache.volume.write(b"b" * PAGE_BYTES, 7 * PAGE_BYTES)
    cache.volume.flush()
    wait_until(lambda: chosen == [7] and not bad_bytes(cache))
    assert read(cache.volume, 7) == b"o"
    assert_at_rest(cache)
    cache.stop()
    check_pair(pair.log, pair.origin)


def test_a_snapshot_is_not_ended_by_what_was_bad_before(bad):
    cache, _ = bad(7)
    write(cache, 7, b"a")
    settle(cache)
    snapshot = cache.open_snapshot("last-flush")
    write(cache, 7, b"b")
    write(cache, 9, b"b")
    cache.volume.flush()
    time.sleep(2)
    assert [read(snapshot, block) for block in (7, 9)] == [b"a", b"o"]
    snapshot.close()
    settle(cache)
    assert [read(cache.volume, block) for block in (7, 9)] == [b"b", b"b"]


@pytest.mark.parametrize("history_full", ["drop", "hold"])
def test_a_snapshot_that_needs_what_the_origin_refuses(bad, pair, history_full, caplog):
    """It ends when that is found out, as it does for damage in the log; with hold it is kept, and destaging waits."""
    cache, _ = bad(7, history_full=history_full, destage_delay="1h")
    write(cache, 7, b"a")
    write(cache, 8, b"a")
    cache.volume.flush()
    snapshot = cache.open_snapshot("last-flush")
    write(cache, 8, b"b")
    cache.volume.flush()
    if history_full == "hold":
        wait_until(lambda: "a snapshot or tag needs an earlier moment" in caplog.text)
        assert [read(snapshot, block) for block in (7, 8)] == [b"a", b"a"]
        snapshot.close()
        settle(cache)
    else:
        settle(cache)
        with pytest.raises(SnapshotEndedError):
            read(snapshot, 8)
        snapshot.close()
    assert [read(cache.volume, block) for block in (7, 8)] == [b"a", b"b"]
    assert [on_origin(pair, block) for block in (7, 8)] == [b"o", b"b"]


def test_no_moment_can_be_opened_that_the_origin_has_passed_without_the_block(bad):
    """The batch that found it bad ended at a snapshot; there are commits between that and where it was carried to."""
    cache, _ = bad(7, destage_delay="1h")
    write(cache, 7, b"a")
    cache.volume.flush()
    snapshot = cache.open_snapshot("last-flush")
    for letter in (b"b", b"c", b"d"):
        write(cache, 9, letter)
        cache.volume.flush()
    wait_until(lambda: cache._line.carried)
    wait_until(lambda: cache._line.destaged >= snapshot.generation.end_lsn)
    moments = [one.number for one in cache.window()[0]]
    for number in moments:
        with contextlib.suppress(OutsideWindowError, SnapshotEndedError):
            assert read(cache.open_snapshot(str(number)), 7) == b"a"
    snapshot.close()


def test_more_than_a_share_of_the_log_is_a_failing_origin(bad, pair, caplog):
    cache, device = bad(*range(0, 240, 2))
    write(cache, 0, b"a", BLOCKS)
    cache.volume.flush()
    wait_until(lambda: "destaging is stalled" in caplog.text)
    assert "(byte " in caplog.text
    assert bad_bytes(cache) == 0
    device.bad.clear()
    wait_until(lambda: on_origin(pair, 0) == b"a")


def test_an_origin_that_takes_nothing_is_a_failing_one(bad, pair, caplog):
    cache, device = bad(*range(BLOCKS))
    write(cache, 5, b"a")
    cache.volume.flush()
    wait_until(lambda: "destaging is stalled: cannot write to origin: bad sector (byte 20480)" in caplog.text)
    assert bad_bytes(cache) == 0
    device.bad.clear()
    wait_until(lambda: on_origin(pair, 5) == b"a")


def test_salvage_writes_everything_else_names_the_rest_and_keeps_the_log(bad, pair, monkeypatch, capsys):
    cache, _ = bad(7, destage_delay="1h")
    for block in range(5, 10):
        write(cache, block, b"a%c" % block)
    cache.volume.flush()
    # A later commit, or the damage could be a torn write.
    write(cache, 4, b"o")
    cache.volume.flush()
    abandon(cache)
    log = bytearray(pair.log.read_bytes())
    log[log.index(b"a\x08" * 64)] ^= 1
    pair.log.write_bytes(log)

    def salvage(*blocks):
        monkeypatch.setattr(origin, "FileDevice", lambda path, *_, **__: BadSectors(path, blocks))
        return run_salvage(str(pair.log), str(pair.origin), True, frozenset(), False), capsys.readouterr().err

    status, told = salvage(7)
    assert status == 1 and f"(byte {7 * PAGE_BYTES})" in told and "everything else is on the origin" in told, told
    assert [on_origin(pair, block) for block in range(4, 11)] == [b"o", b"a", b"a", b"o", b"o", b"a", b"o"]
    status, told = salvage()
    assert status == 0, told
    assert [on_origin(pair, block) for block in range(4, 11)] == [b"o", b"a", b"a", b"a", b"o", b"a", b"o"]
