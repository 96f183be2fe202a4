# SPDX-License-Identifier: BSD-3-Clause
"""Cursors, limits, and waiting for them."""

import dataclasses
import errno

import pytest

from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.invariants import check_line
from tests.support.policies import policy_with
from wbcache_core.errors import LogFailedError, OriginFailedError, ReadOnlyError, StoppedError
from wbcache_core.flow import failure
from wbcache_core.flow.admission import only_carried_below, wait_for_destaged, wait_for_room
from wbcache_core.flow.failure import fail, raise_if_log_failed
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.memory.cursors import NumberLine

RING, DATA, HIGH, COMMIT = 500, 2000, 1500, 100
POLICY = policy_with(DATA, high_pages=HIGH, commit_pages=COMMIT)


@pytest.fixture
def line():
    line = NumberLine(RING, DATA, POLICY)
    line.writable = True
    line.refresh_limits()
    return line


def locked(line, method, *arguments):
    with line.lock:
        return method(*arguments)


def wait_in_background(line, method, *arguments):
    """The call's Future, when the call waits."""
    future = in_background(locked, line, method, *arguments)
    wait_until(lambda: line.moved._waiters)
    assert not future.done()
    return future


def advance(line, head=None, committed=None):
    with line.lock:
        line.head = head or line.head
        if committed:
            line.note_committed(committed, committed - 1)
        check_line(line)


def test_it_begins_empty(line):
    check_line(line)
    assert (line.free_pages, line.dirty_pages, line.ring_floor) == (DATA, 0, 1)
    assert not line.throttled


def test_the_ring_holds_the_newest_pages(line):
    line.ring_start = 10
    for head, floor in [(10, 10), (510, 10), (511, 11), (2000, 1500)]:
        line.head = head
        assert line.ring_floor == floor


def test_the_head_may_not_leave_the_ring_or_the_log(line):
    assert (line.limit, line.soft_limit) == (1 + RING, 1 + COMMIT)
    advance(line, head=1500, committed=1500)
    assert line.free_pages == DATA - 1499
    assert line.limit == 1500 + DATA - 1499 - MAX_SEGMENT_PAGES
    advance(line, head=1754, committed=1754)
    assert line.limit == 1754, "what is left may have to stay unused at the end of a lap"
    assert line.throttled
    assert line.soft_limit == 0


def test_volatile_pages_count_as_dirty(line):
    line.head = 301
    line.committed, line.write_place = 201, 200
    assert line.dirty_pages == 300
    line.destaged_place = 50
    assert line.dirty_pages == 250


def test_a_writer_waits_for_the_commit_that_empties_the_ring(line):
    advance(line, head=490)
    writer = wait_in_background(line, wait_for_room, line, 20)
    assert line.commit_requested
    assert line.room_waiters == 0, "destaging cannot help"
    advance(line, committed=480)
    writer.result(PATIENCE_S)


def test_a_writer_waits_for_the_destager_when_the_log_is_full(line):
    advance(line, head=1700, committed=1700)
    writer = wait_in_background(line, wait_for_room, line, 200)
    assert line.room_waiters == 1
    with line.lock:
        line.note_destaged(1000, 999)
        line.reclaimed_place = 999
        line.refresh_limits()
        line.moved.notify_all()
    writer.result(PATIENCE_S)
    assert line.room_waiters == 0


def test_a_commit_is_requested_when_enough_is_pending(line):
    advance(line, head=1 + COMMIT - 5)
    locked(line, wait_for_room, line, 5)
    assert not line.commit_requested
    locked(line, wait_for_room, line, 6)
    assert line.commit_requested


def test_the_first_volatile_page_starts_the_clock(line):
    assert line.pending_since == 0
    segment = locked(line, line.open_next_segment)
    assert (segment.first_lsn, line.head) == (1, 2)
    since = line.pending_since
    assert since > 0
    locked(line, line.close_segment)
    assert list(line.closed_segments) == [segment]
    locked(line, line.open_next_segment)
    assert line.pending_since == since
    advance(line, committed=3)
    assert line.pending_since == 0


def test_the_timeline_tells_how_old_dirty_data_is(line, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("wbcache_core.memory.cursors.time.monotonic", lambda: clock[0])
    line.head = 400
    for lsn in (10, 20, 30):
        advance(line, committed=lsn)
        clock[0] += 0.0625
    clock[0] += 10.0
    advance(line, committed=40)
    assert list(line.timeline) == [(30, 100.0), (40, 110.1875)], "commits close together share the oldest time"
    locked(line, line.note_destaged, 25, 24)
    assert len(line.timeline) == 2
    locked(line, line.note_destaged, 30, 29)
    assert list(line.timeline) == [(40, 110.1875)]


def test_the_timeline_of_what_is_held_back_for_long_has_a_limit(line, monkeypatch):
    """A tag can hold the log for weeks. Then the age of what it holds need not be exact to a second."""
    clock, count = [0.0], 50_000
    monkeypatch.setattr("wbcache_core.memory.cursors.time.monotonic", lambda: clock[0])
    for lsn in range(1, count):
        line.head, clock[0] = lsn, float(lsn)
        locked(line, line.note_committed, lsn, 0)
    assert len(line.timeline) <= 4096
    for lsn in range(1, count, 1000):
        locked(line, line.note_destaged, lsn, 0)
        end, time = line.timeline[0]
        # The oldest that is not destaged was committed at lsn + 1.
        assert lsn < end and lsn + 1 - 64 <= time <= lsn + 1
    locked(line, line.note_destaged, count - 1, 0)
    assert not line.timeline
    for lsn in range(count, count + 100):
        line.head, clock[0] = lsn, clock[0] + 0.3
        locked(line, line.note_committed, lsn, 0)
        locked(line, line.note_destaged, max(count, lsn - 10), 0)
    assert len(line.timeline) == 10, "once it is short it is exact again"


WAITS = pytest.mark.parametrize("method", [wait_for_room, wait_for_destaged])


@WAITS
def test_a_stop_wakes_everybody(line, method):
    advance(line, head=1700, committed=1700)
    waiter = wait_in_background(line, method, line, 200)
    line.stop(drain=False)
    with pytest.raises(StoppedError):
        waiter.result(PATIENCE_S)
    assert (line.limit, line.soft_limit) == (0, 0)


@WAITS
def test_a_failed_log_wakes_everybody(line, method):
    advance(line, head=1700, committed=1700)
    waiter = wait_in_background(line, method, line, 200)
    fail(line, LogFailedError("the first failure", errno.ENOSPC))
    fail(line, LogFailedError("a later one"))
    with pytest.raises(LogFailedError, match="the first failure") as raised:
        waiter.result(PATIENCE_S)
    assert raised.value.errno_value == errno.ENOSPC
    with pytest.raises(LogFailedError):
        raise_if_log_failed(line)
    assert line.destager_must_stop


@WAITS
def test_an_origin_that_fails_for_long_wakes_who_needs_it(line, monkeypatch, method):
    monkeypatch.setattr(failure, "ORIGIN_PATIENCE", 0.1)
    advance(line, head=1700, committed=1700)
    waiter = wait_in_background(line, method, line, 200)
    fail(line, OriginFailedError("the origin fails", errno.ENOSPC))
    with pytest.raises(OriginFailedError, match="the origin fails") as raised:
        waiter.result(PATIENCE_S)
    assert raised.value.errno_value == errno.ENOSPC


@WAITS
def test_an_origin_that_comes_back_soon_is_waited_for(line, method):
    advance(line, head=1700, committed=1700)
    fail(line, OriginFailedError("the origin fails"))
    waiter = wait_in_background(line, method, line, 200)
    with line.lock:
        line.origin_error = None
        line.note_destaged(1700, 1699)
        line.reclaimed_place = 1699
        line.refresh_limits()
        line.moved.notify_all()
    waiter.result(PATIENCE_S)


def test_while_the_log_has_room_a_failing_origin_is_no_writers_business(line, monkeypatch):
    monkeypatch.setattr(failure, "ORIGIN_PATIENCE", 0.0)
    fail(line, OriginFailedError("the origin fails"))
    locked(line, wait_for_room, line, 20)


def test_who_waits_for_the_origin_is_seen_by_the_destager(line):
    advance(line, head=100, committed=100)
    locked(line, line.note_destaged, 50, 49)
    locked(line, wait_for_destaged, line, 50)
    assert line.origin_target == 0
    waiter = wait_in_background(line, wait_for_destaged, line, 80)
    assert line.origin_target == 80
    locked(line, line.note_destaged, 80, 79)
    waiter.result(PATIENCE_S)


def test_a_volume_that_is_not_writable_takes_nothing():
    line = NumberLine(RING, DATA, POLICY)
    with pytest.raises(ReadOnlyError):
        locked(line, wait_for_room, line, 1)


@pytest.mark.parametrize(
    "field", [{"destaged": 2}, {"oldest": 0}, {"committed": 5}, {"destaged_place": 1}, {"head": 1000}]
)
def test_check_finds_cursors_out_of_order(line, field):
    check_line(line)
    for name, value in field.items():
        setattr(line, name, value)
    with pytest.raises(AssertionError):
        check_line(line)


def test_writers_leave_room_for_what_has_to_be_carried(line):
    carrying = NumberLine(RING, DATA, POLICY, carry_pages=50)
    carrying.writable = True
    for one in (line, carrying):
        advance(one, head=1800, committed=1700)
    assert carrying.limit == line.limit - 50 == 1700 + carrying.free_pages - MAX_SEGMENT_PAGES - 50
    waiter = wait_in_background(carrying, wait_for_room, carrying, carrying.limit - 1800 + 1)
    assert carrying.room_waiters == 1, "who waits because of that waits for log space"
    carrying.stop(drain=False)
    with pytest.raises(StoppedError):
        waiter.result(PATIENCE_S)


def test_writers_leave_the_ring_to_what_is_just_being_carried(line):
    line.carry_ring = 65
    locked(line, line.refresh_limits)
    assert line.limit == 1 + RING - 65


def test_what_was_carried_is_all_that_the_origin_lacks(line):
    advance(line, head=300, committed=300)
    line.carried.extend([(100, 150), (150, 200), (250, 300)])
    for destaged, end, expected in [
        (50, 100, False), (100, 150, True), (100, 200, True), (120, 200, True), (100, 201, False), (200, 250, False),
        (250, 300, True), (300, 300, True),
    ]:  # fmt: skip
        line.destaged = destaged
        assert only_carried_below(line, end) == expected, (destaged, end)
    locked(line, line.note_destaged, 150, 149)
    assert list(line.carried) == [(150, 200), (250, 300)]


def test_who_waits_for_what_the_origin_refuses_is_told(line):
    advance(line, head=300, committed=300)
    line.origin_incomplete = "the 4096 bytes at 7"
    line.carried.append((200, 300))
    waiter = wait_in_background(line, wait_for_destaged, line, 300)
    locked(line, line.note_destaged, 200, 199)
    with pytest.raises(OriginFailedError, match="bytes at 7"):
        waiter.result(PATIENCE_S)
    line.origin_incomplete = None
    locked(line, line.note_destaged, 300, 299)
    locked(line, wait_for_destaged, line, 300)


def test_another_policy_is_in_force_at_once_and_as_a_whole(line):
    advance(line, head=1400, committed=1400)
    assert line.soft_limit == 1400 + COMMIT and not line.throttled
    line.apply(dataclasses.replace(POLICY, high_pages=1000, commit_pages=50))
    assert line.throttled and line.soft_limit == 0
    line.apply(dataclasses.replace(POLICY, high_pages=1450, commit_pages=50))
    assert not line.throttled and line.soft_limit == line.committed + 50


def test_another_policy_wakes_all_who_wait_for_what_it_says(line):
    conditions = [line.moved, line.commit_wanted, line.destage_wanted]
    waiters = [in_background(locked, line, condition.wait, PATIENCE_S) for condition in conditions]
    wait_until(lambda: all(condition._waiters for condition in conditions))
    line.apply(POLICY)
    assert all(waiter.result(PATIENCE_S) for waiter in waiters)
