# SPDX-License-Identifier: BSD-3-Clause
"""A log that cannot be written for a while: what fails meanwhile, and that all goes on afterwards.

A failed write leaves it known what is durable. A failed sync does not, and is for good.
"""

import contextlib
import errno
import threading
import time

import pytest

from tests.support.failing_log import FailingPair, fails_with
from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.injected_errors import error_at
from tests.support.simulated_disk import STYLES, MemoryDisk
from wbcache_core.errors import DeviceError, LogFailedError, OriginFailedError, TagError
from wbcache_core.flow import committer
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.units import PAGE_BYTES

SLOT_PAGES = {offset // PAGE_BYTES for offset in SLOT_OFFSETS}
ERRORS = pytest.mark.parametrize("value", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])


@pytest.fixture
def machine():
    made = FailingPair()
    yield made
    made.close()


def test_a_commit_that_failed_is_repeated_by_the_next_flush(machine):
    for number, (value, shorten) in enumerate([(errno.ENOSPC, False), (errno.EIO, True), (errno.ENOSPC, True)]):
        if number == 0:
            machine.start()
            machine.write(b"a", 0)
            machine.cache.volume.flush()
        machine.log.fail("write", value=value, shorten=shorten)
        machine.write(b"b", 1)
        machine.write(b"c", 2, count=5)
        for _ in range(2):
            with fails_with(value):
                machine.cache.volume.flush()
        with fails_with(value):
            machine.write(b"d", 9, fua=True)
        assert machine.cache.status()["errors"]["log"]
        assert machine.cache.status()["state"] == "writable"
        machine.write(b"e", 10)
        assert [machine.read(block) for block in (0, 1, 2, 9, 10)] == [b"a", b"b", b"c", b"d", b"e"]
        if number == 0:
            assert machine.after_a_cut([0, 1, 9]) == b"a\0\0"
        machine.log.heal()
        machine.cache.volume.flush()
        assert machine.after_a_cut([0, 1, 2, 6, 9, 10]) == b"abccde"
        assert machine.cache.status()["errors"]["log"] is None


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_the_same_bytes_go_to_the_same_places(machine, compress):
    """A repeat is not told from a write that takes long: whatever is torn of it, it is the same commit."""
    cache = machine.start(compress=compress, commit_size="1M")
    machine.write(b"a", 0, count=80)
    machine.log.fail("write", times=3, shorten=True)
    attempts = []
    for number in range(4):
        before = len(machine.journal)
        with contextlib.suppress(LogFailedError):
            cache.volume.flush()
            assert number == 3
        writes = [event.piece for event in machine.journal.events[before:] if event.piece]
        attempts.append([(piece.offset, piece.data) for piece in writes if piece.offset >= DATA_START])
        machine.write(b"b", 400 + number, count=5)
        time.sleep(0.002)
    repeated = attempts[-1]
    for attempt in attempts[:-1]:
        # The first half of the first write.
        (offset, data), = attempt
        assert offset == repeated[0][0] and data and repeated[0][1].startswith(data)
    assert cache.window_ends()[1].number == 2
    cache.volume.flush()
    assert machine.after_a_cut([0, 79, 400, 403]) == b"aabb"


@pytest.mark.parametrize("style", STYLES)
def test_a_cut_after_failures_and_a_repeat(machine, style):
    """The seeds that are tried here are few; the crash explorer has the many."""
    machine.start()
    machine.write(b"a", 0)
    machine.cache.volume.flush()
    machine.write(b"b", 1, count=8)
    machine.log.fail("write", shorten=True, times=2)
    for _ in range(2):
        with fails_with(errno.EIO):
            machine.cache.volume.flush()
    for seed in range(20):
        assert machine.after_a_cut([0, 1], seed, style) in (b"a\0", b"ab")
    machine.cache.volume.flush()
    machine.write(b"c", 30, fua=True)
    for seed in range(20):
        assert machine.after_a_cut([0, 1, 8, 30], seed, style) == b"abbc"


def test_who_came_while_an_attempt_was_under_way_does_not_fail_by_it(machine):
    cache = machine.start()
    machine.write(b"a", 0)
    machine.log.gate.clear()
    machine.log.fail("write", value=errno.ENOSPC, times=1)
    first = in_background(cache.volume.flush)
    assert machine.log.is_reached.wait(PATIENCE_S)
    others = [in_background(cache.volume.flush) for _ in range(5)]
    wait_until(lambda: len(cache._committer._waiters) == 5)
    machine.log.gate.set()
    with fails_with(errno.ENOSPC):
        first.result(PATIENCE_S)
    for other in others:
        other.result(PATIENCE_S)
    assert machine.after_a_cut([0]) == b"a"


def test_all_who_came_before_it_fail_by_it(machine):
    cache = machine.start()
    machine.write(b"a", 0)
    machine.log.gate.clear()
    machine.log.fail("write", value=errno.ENOSPC, times=2)
    first = in_background(cache.volume.flush)
    assert machine.log.is_reached.wait(PATIENCE_S)
    others = [in_background(cache.volume.flush) for _ in range(5)]
    wait_until(lambda: len(cache._committer._waiters) == 5)
    machine.log.gate.set()
    for one in (first, *others):
        with fails_with(errno.ENOSPC):
            one.result(PATIENCE_S)
    cache.volume.flush()


@ERRORS
def test_a_writer_that_finds_no_room_in_the_ring(machine, value):
    """It fails soon, with the error of the log; it can be sent again when there is room."""
    machine.start()
    machine.log.fail("write", value=value)
    written = 0
    with fails_with(value):
        for block in range(600):
            machine.write(b"w", block)
            written += 1
    assert 128 < written < 256, "the ring has 256 pages"
    with fails_with(value):
        machine.write(b"x" * 3, 1000, count=4)
    machine.log.heal()
    for block in range(written, 600):
        machine.write(b"w", block)
    machine.cache.volume.flush()
    assert machine.after_a_cut(range(600)) == b"w" * 600


def test_writers_wait_for_an_attempt_of_their_own(machine):
    """One that comes while an attempt is under way that is going to fail goes on with the next one."""
    cache = machine.start()
    machine.log.gate.clear()
    machine.log.fail("write", value=errno.ENOSPC, times=1)
    for block in range(250):
        machine.write(b"w", block)
    assert machine.log.is_reached.wait(PATIENCE_S)
    writers = [in_background(machine.write, b"v", 300 + 10 * number, 10) for number in range(4)]
    wait_until(lambda: len(cache._line.moved._waiters) == 4)
    machine.log.gate.set()
    for writer in writers:
        writer.result(PATIENCE_S)


def test_it_is_tried_again_with_nobody_waiting(machine):
    cache = machine.start(commit_interval="20ms")
    machine.log.fail("write", value=errno.ENOSPC)
    machine.write(b"a", 0)
    wait_until(lambda: cache._line.commits.failed >= 2)
    machine.log.heal()
    wait_until(lambda: cache._line.committed == cache._line.head)
    assert machine.after_a_cut([0]) == b"a"
    assert cache.status()["errors"]["log"] is None


def test_there_are_pauses_between_attempts(machine):
    """Also while writers, that do not wait yet, go on."""
    cache = machine.start(commit_interval="1ms", commit_size="4K", ring_size="4M")
    machine.log.fail("write")
    deadline = time.monotonic() + 0.5
    for number in range(500):
        machine.write(b"a", number % 100)
        time.sleep(max(deadline - time.monotonic(), 0) / (500 - number))
    assert 1 < cache._line.commits.begun < 8, "after 0.1, 0.3 and 0.7 seconds"


def test_a_full_log_does_not_hide_that_nothing_can_be_committed(machine):
    """Writers do not wait for log space that only a commit can bring."""
    machine.start(ring_size="8M")
    machine.log.fail("write", value=errno.ENOSPC)
    with fails_with(errno.ENOSPC):
        for block in range(1500):
            machine.write(b"a", block)
    machine.log.heal()
    for block in range(1500):
        machine.write(b"b", block)
    machine.cache.volume.flush()
    assert machine.after_a_cut([0, 1499]) == b"bb"


@ERRORS
def test_a_failed_sync_is_for_good(machine, value):
    cache = machine.start()
    machine.write(b"a", 0)
    machine.log.fail("sync", value=value, times=1)
    with fails_with(value):
        cache.volume.flush()
    for request in (cache.volume.flush, lambda: machine.write(b"b", 1), lambda: cache.tag("name")):
        with fails_with(value):
            request()
    assert machine.read(0) == b"a"
    assert cache.status()["state"] == "failed"


def test_nobody_takes_the_error_of_a_sync_from_another(machine):
    """The kernel tells one sync of it, here that of a superblock: that of the commit would say that all is well."""
    cache = machine.start()
    machine.write(b"a", 0)
    write = machine.log.write

    def write_and_let_a_superblock_come_first(views, offset):
        write(views, offset)
        machine.log.write = write
        machine.log.fail("sync", times=1)
        with fails_with(errno.EIO, DeviceError):
            in_background(cache._tags.write).result(PATIENCE_S)

    machine.log.write = write_and_let_a_superblock_come_first
    with fails_with(errno.EIO):
        cache.volume.flush()


def test_a_superblock_that_cannot_be_written_is_tried_again(machine, monkeypatch):
    """Destaging goes on afterwards, commits all the time; the slot that is intact is left alone."""
    monkeypatch.setattr("wbcache_core.flow.failure.ORIGIN_PATIENCE", 0.1)
    cache = machine.start()
    machine.write(b"a", 0, count=20)
    cache.volume.flush()
    before = read_slots(machine.log)
    machine.log.faults.bad_pages = SLOT_PAGES
    with fails_with(errno.EIO, OriginFailedError):
        in_background(cache.drain).result(PATIENCE_S)
    assert "cannot write log" in cache.status()["errors"]["origin"]
    assert read_slots(machine.log) == before
    machine.write(b"b", 30, fua=True)
    machine.log.faults.bad_pages = set()
    wait_until(lambda: cache._line.destaged == cache._line.committed)
    assert cache.status()["errors"]["origin"] is None
    after = read_slots(machine.log)
    assert newest(after).destaged == cache._line.destaged
    assert {slot.sequence for slot in after} == {newest(after).sequence, newest(after).sequence - 1}
    assert machine.origin.content[: 20 * PAGE_BYTES] == b"a" * 20 * PAGE_BYTES


def test_one_error_does_not_end_a_drain(machine):
    """Superblocks that say what is on the origin: each of them fails once."""
    machine.start(on_exit="destage")
    machine.write(b"a", 0, count=20)
    failing = FailingOnce(machine.log)
    machine.cache.stop()
    assert failing.struck >= 4, "a commit, two superblocks of a batch and that of the stop"
    assert machine.origin.content[: 20 * PAGE_BYTES] == b"a" * 20 * PAGE_BYTES
    superblock = newest(read_slots(machine.log))
    assert superblock.destaged == superblock.committed


class FailingOnce:
    """Every write to a new place of the log fails the first time."""

    def __init__(self, log):
        self.struck = 0
        self._is_next = True
        self._write, log.write = log.write, self._fail_or_write

    def _fail_or_write(self, views, offset):
        if self._is_next:
            self._is_next = False
            self.struck += 1
            raise DeviceError("cannot write to log: once", errno.EIO)
        self._is_next = True
        self._write(views, offset)


@pytest.mark.parametrize("good", [0, 1], ids=["first", "second"])
def test_log_space_comes_back_after_a_superblock_failed(machine, good):
    """Space is given up in both superblocks, one of which fails several times; none counts as free before."""
    cache = machine.start(destage_delay="0", commit_interval="5ms", compress="off")
    write, calls = cache._tags.write, []

    def fail_at_reclaiming(**changes):
        if "oldest" in changes:
            calls.append(cache._line.reclaimed_place)
            if good < len(calls) < 4:
                raise DeviceError("cannot write log: as the test wants it")
        write(**changes)

    cache._tags.write = fail_at_reclaiming
    for start in range(0, 1800, 100):
        machine.write(b"w", start, count=100)
        cache.volume.flush()
        reclaimed = cache._line.reclaimed_place
        assert reclaimed <= min(slot.oldest_place for slot in read_slots(machine.log) if slot)
    cache.drain()
    assert len(calls) > 4 and len(set(calls[:4])) == 1
    assert machine.origin.content[: 1800 * PAGE_BYTES] == b"w" * 1800 * PAGE_BYTES
    wait_until(lambda: cache.status()["errors"]["origin"] is None)


def test_nothing_is_committed_for_long_without_a_superblock(machine, monkeypatch):
    """Recovery looks for later segments no further than superblocks allow."""
    monkeypatch.setattr(committer, "SUPERBLOCK_PAGES", 50)
    cache = machine.start()
    machine.log.faults.bad_pages = SLOT_PAGES
    machine.write(b"a", 0, count=60)
    cache.volume.flush()
    machine.write(b"b", 100)
    for _ in range(2):
        with fails_with(errno.EIO):
            cache.volume.flush()
    machine.log.faults.bad_pages = set()
    cache.volume.flush()
    assert newest(read_slots(machine.log)).committed == cache._line.committed - 2
    assert machine.after_a_cut([0, 59, 100]) == b"aab"


@ERRORS
def test_a_tag_that_cannot_be_written(machine, value):
    cache = machine.start()
    machine.write(b"a", 0, fua=True)
    cache.tag("first")
    machine.log.fail("write", value=value)
    with fails_with(value, DeviceError):
        cache._tags.add("second", "last-flush")
    with fails_with(value, DeviceError):
        cache.untag("first")
    assert [tag.name for tag in cache.window_ends()[2]] == ["first"]
    machine.log.heal()
    cache.tag("second")
    cache.untag("first")
    assert [tag.name for tag in newest(read_slots(machine.log)).tags] == ["second"]
    assert [tag.name for tag in cache.window_ends()[2]] == ["second"]


def test_a_tag_of_the_present_while_nothing_can_be_committed(machine):
    cache = machine.start()
    machine.write(b"a", 0)
    machine.log.fail("write", value=errno.ENOSPC)
    with fails_with(errno.ENOSPC):
        cache.tag("name")
    assert cache.window_ends()[2] == ()
    machine.log.heal()
    cache.tag("name")
    assert machine.after_a_cut([0]) == b"a"


@pytest.mark.parametrize("function", ["add", "remove"])
def test_an_error_at_any_line_of_a_tag(machine, function):
    """What the server says of tags afterwards is what it respects, and what the next superblock says."""
    cache = machine.start()
    machine.write(b"a", 0, fua=True)
    for countdown in range(100):
        if function == "remove" and not cache.window_ends()[2]:
            cache.tag("name")
        before = cache.window_ends()[2]
        with error_at(countdown, ("flow/tags.py", "log/superblocks.py", "format/superblock.py"), (function,)) as strike:
            try:
                cache.tag("name", "last-flush") if function == "add" else cache.untag("name")
                has_failed = False
            except MemoryError:
                has_failed = True
        if strike.struck is None:
            break
        if has_failed and not any(words in strike.struck for words in ("_forget", "replace_tags", "return tags[-1]")):
            assert cache.window_ends()[2] == before, strike.struck
        cache._tags.write()
        assert newest(read_slots(machine.log)).tags == cache.window_ends()[2], strike.struck
        if function == "add" and cache.window_ends()[2]:
            with contextlib.suppress(TagError):
                cache.untag("name")
    else:
        raise AssertionError("the injection never ends")
    assert countdown > 5


class BadSector(MemoryDisk):
    """Block 1 cannot be written."""

    def write(self, views, offset):
        if offset <= PAGE_BYTES < offset + sum(map(len, views)):
            raise DeviceError("cannot write to origin: bad sector")
        super().write(views, offset)


def test_what_the_origin_refuses_is_carried_forward_when_the_log_is_back(machine, monkeypatch):
    """The commit that fails is the destager's own."""
    monkeypatch.setattr("wbcache_core.flow.origin_writer._RETRY_PAUSES", (0.0,))
    machine.origin = BadSector(machine.origin.content, "origin")
    cache = machine.start()
    write, failures = machine.log.write, []

    def fail_in_the_destager(views, offset):
        if threading.current_thread().name == "wbcache-destage" and offset >= DATA_START and len(failures) < 3:
            failures.append(offset)
            raise DeviceError("cannot write log: as the test wants it", errno.ENOSPC)
        write(views, offset)

    machine.log.write = fail_in_the_destager
    machine.write(b"a", 0, count=4)
    cache.volume.flush()
    with fails_with(errno.EIO, OriginFailedError):
        cache.drain()
    assert len(failures) == 3
    assert machine.origin.content[: 4 * PAGE_BYTES : PAGE_BYTES] == b"a\0aa"
    assert machine.after_a_cut(range(4)) == b"aaaa"


def test_a_stop_commits_what_can_be_written_again(machine):
    machine.start()
    machine.write(b"a", 0, count=100)
    machine.log.fail("write", value=errno.ENOSPC, times=3)
    with fails_with(errno.ENOSPC):
        machine.cache.volume.flush()
    machine.cache.stop()
    assert machine.after_a_cut([0, 99]) == b"aa"


def test_a_stop_gives_up_in_the_end(machine, monkeypatch, caplog):
    monkeypatch.setattr(committer, "_STOP_PATIENCE", 0.5)
    machine.start()
    machine.write(b"a", 0)
    machine.log.fail("write", value=errno.ENOSPC)
    started = time.monotonic()
    machine.cache.stop()
    assert 0.5 <= time.monotonic() - started < 5
    assert "could not be written and are lost" in caplog.text
    assert machine.after_a_cut([0]) == b"\0"
