# SPDX-License-Identifier: BSD-3-Clause
"""Past moments of a standby that has an origin of its own: which are shown, what they hold back, and when they end."""

import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.standby_pair import BLOCKS, POLICY, StandbyPair
from wbcache_core import clock
from wbcache_core.errors import (
    DeviceError,
    OutsideWindowError,
    PassingNameError,
    SnapshotEndedError,
    StoppedError,
    TagError,
)
from wbcache_core.format.superblock import Tag, encode
from wbcache_core.log.standby_log import Sender
from wbcache_core.memory import moments
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.server.history import Query
from wbcache_core.units import MIB, PAGE_BYTES

LIMIT_S = 30
NS = 10**9


def filled(policy=POLICY):
    """A pair whose standby has an origin that is the volume: zeros."""
    pair = StandbyPair(policy)
    pair.tell()
    pair.piece(0, BLOCKS, 1, is_zero=True)
    pair.destager._note_filled()
    assert not pair.superblock.is_inconsistent
    return pair


@pytest.fixture
def pair():
    return filled()


def ship(pair, block, count=1):
    """A commit of so many pages; returns its end."""
    for offset, content in pair.owner.commit(count, block=block):
        pair.log.take_segment(pair.sender, memoryview(content), offset, True)
    return pair.owner.head


def commit(pair, block, count=1):
    """The same, and it is in all logs."""
    end = ship(pair, block, count)
    pair.say_safe(end, end)
    return end


def number_of(pair, end_lsn):
    """The generation that ends there."""
    return next(one.number for one in pair.log.copy.hot.covered.generations if one.end_lsn == end_lsn)


def opened(pair, end_lsn):
    return pair.past.open_export(str(number_of(pair, end_lsn)))


def page(export, block):
    content = bytearray(PAGE_BYTES)
    export.read_into(content, block * PAGE_BYTES)
    return bytes(content)


def written(lsn):
    return lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)


def begin_anew(pair):
    """The log begins anew where the owner's ends now, and the origin is to be filled."""
    head, place = pair.owner.head, pair.owner.writer.end.place
    one = pair.owner.superblock.with_changes(
        oldest=head, destaged=head, committed=head, batch_end=head, is_inconsistent=True, is_copy=True,
        oldest_place=place, destaged_place=place,
    )  # fmt: skip
    pair.log.take_superblock(pair.sender, memoryview(encode(one)))


def test_a_moment_is_what_it_was(pair):
    first = commit(pair, 3)
    export = opened(pair, first)
    second = commit(pair, 3)
    assert page(export, 3) == written(first - 1) and page(export, 4) == bytes(PAGE_BYTES)
    with pytest.raises(OutsideWindowError):
        pair.past.open_export(str(number_of(pair, second) + 1))
    newer = opened(pair, second)
    assert page(newer, 3) == written(second - 1)
    assert export.size == newer.size == MIB
    assert newer.extents(5 * PAGE_BYTES, 0) == [(0, 5 * PAGE_BYTES, False, False)]


def test_it_holds_the_origin_back_until_it_is_closed(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    second = commit(pair, 0)
    pair.destage()
    assert pair.superblock.destaged == first
    assert page(export, 0) == written(first - 1) == pair.page(0)
    again = opened(pair, first)
    export.close()
    pair.destage()
    assert pair.superblock.destaged == first and page(again, 0) == written(first - 1)
    again.close()
    pair.destage()
    assert pair.superblock.destaged == second


def test_what_could_not_be_opened_holds_nothing_back(pair, monkeypatch):
    first = commit(pair, 0)
    second = commit(pair, 0)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(SegmentTable, "part", fail)
    with pytest.raises(MemoryError):
        opened(pair, first)
    pair.destage()
    assert pair.superblock.destaged == second


def test_what_is_not_in_all_logs_is_not_shown(pair):
    """A later owner may lack it, and then its number names something else."""
    first = commit(pair, 0)
    number = number_of(pair, ship(pair, 1))
    ship(pair, 2)
    with pytest.raises(OutsideWindowError, match="not shown here yet"):
        pair.past.open_export(str(number))
    assert pair.past.window_ends()[1].end_lsn == first
    assert pair.past.resolve("last-flush")[0].end_lsn == first
    pair.destage()
    assert pair.superblock.destaged == first
    pair.say_safe(pair.owner.head, pair.owner.head)
    assert pair.past.open_export(str(number)).size == MIB


def test_a_commit_of_which_the_rest_may_come_is_not_shown(pair):
    """Safe up to the middle of a commit, as of a peer that is catching up."""
    segments = pair.owner.commit(2, 2, block=0)
    offset, content = segments[0]
    pair.log.take_segment(pair.sender, memoryview(content), offset, True)
    middle = pair.log.copy.head
    pair.say_safe(middle, pair.owner.head)
    assert pair.past.window_ends() == (None, None, ())
    offset, content = segments[1]
    pair.log.take_segment(pair.sender, memoryview(content), offset, True)
    pair.say_safe(pair.owner.head, pair.owner.head)
    assert pair.past.window_ends()[1].end_lsn == pair.owner.head


def test_what_was_safe_beyond_this_log_is_not_what_another_owner_writes_there(pair):
    """This one was catching up. The next owner lacks what it lacked, and goes on where both end: nothing is cut off."""
    first = commit(pair, 0)
    pair.say_safe(first + 100, first + 100)
    pair.log.take_superblock(pair.sender, pair.owner.next_epoch(first, pair.owner.writer.end.previous, committed=first))
    ship(pair, 1)
    end = ship(pair, 2)
    assert pair.past.window_ends()[1].end_lsn == first
    pair.say_safe(end, end)
    assert pair.past.window_ends()[1].end_lsn == end


def test_what_was_safe_stays_shown_when_the_connection_ends(pair):
    first = commit(pair, 0)
    pair.log.leave(pair.sender)
    pair.log.state(Sender())
    assert pair.log.safe == 0 and page(opened(pair, first), 0) == written(first - 1)


def test_after_a_start_the_origin_is_the_newest_that_is_shown(pair):
    first = commit(pair, 0)
    pair.destage()
    commit(pair, 1)
    pair.restart()
    assert pair.past.window_ends()[1].end_lsn == first
    assert page(opened(pair, first), 0) == written(first - 1)
    pair.tell()
    pair.say_safe(pair.owner.head, pair.owner.head)
    assert pair.past.window_ends()[1].end_lsn == pair.owner.head


def test_names_that_pass_are_refused(pair):
    commit(pair, 0)
    with pytest.raises(PassingNameError):
        pair.past.open_export("last-flush")


def test_a_time_after_the_newest_that_is_shown_is_a_name_that_passes(pair, monkeypatch):
    """Of what follows here, a later owner may have something else, written at another time."""
    now = clock.read()
    monkeypatch.setattr(clock, "read", lambda: now)
    commit(pair, 0)
    name = moments.iso(now.wall_ns)
    now = now._replace(wall_ns=now.wall_ns + NS, boot_ns=now.boot_ns + NS)
    end = ship(pair, 1)
    with pytest.raises(PassingNameError):
        pair.past.open_export(name)
    pair.say_safe(end, end)
    assert pair.past.open_export(name).description.startswith("generation 1 ")


def fill_log(pair):
    """So much is written, and destaged if it may be, that the log has been full once."""
    for number in range(pair.superblock.data_pages // 61):
        if pair.log.copy.end_place - pair.superblock.oldest_place + 61 > pair.superblock.data_pages:
            return
        commit(pair, number % 3 * 60, 60)
        with pair.log.lock:
            pair.destager.reclaim()
        pair.destage()


def test_it_gives_way_when_the_log_is_short_of_room(pair, caplog):
    first = commit(pair, 0)
    export = opened(pair, first)
    fill_log(pair)
    assert pair.superblock.destaged == pair.owner.head
    with pytest.raises(SnapshotEndedError, match="has ended"):
        page(export, 0)
    assert "has ended: its log needed the room" in caplog.text
    export.close()


def test_with_hold_it_does_not():
    pair = filled(dataclasses.replace(POLICY, hold=True))
    first = commit(pair, 0)
    export = opened(pair, first)
    fill_log(pair)
    assert pair.superblock.destaged == first and page(export, 0) == written(first - 1)


def test_what_is_open_has_ended_when_its_log_is_cut_off(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    end = pair.owner.writer.end
    commit(pair, 1)
    changed = pair.owner.next_epoch(first, end.previous, committed=first)
    pair.log.take_superblock(pair.sender, changed)
    assert pair.log.copy.head == first
    with pytest.raises(SnapshotEndedError, match="cut off"):
        page(export, 0)
    export.close()
    pair.owner.head, pair.owner.writer.end = first, end._replace(epoch=pair.owner.superblock.epoch)
    ship(pair, 1)
    ship(pair, 2)
    assert pair.past.window_ends()[1].end_lsn == first
    assert page(opened(pair, first), 0) == written(first - 1)


def test_nothing_is_shown_while_the_origin_is_filled(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    begin_anew(pair)
    assert pair.superblock.is_inconsistent
    with pytest.raises(SnapshotEndedError, match="has begun anew"):
        page(export, 0)
    with pytest.raises(OutsideWindowError, match="is being filled"):
        pair.past.open_export("1")
    with pytest.raises(OutsideWindowError, match="is being filled"):
        pair.past.compare("1", "1")
    assert pair.past.window_ends() == (None, None, ())
    assert pair.past.facts() == {"window": None, "snapshots": [], "tags": []}
    assert pair.past.history(Query())["window"] is None


def test_while_the_log_begins_anew_nothing_is_read_from_elsewhere(pair):
    """The superblock counts already, and its cursors are beyond what the origin has."""
    first = commit(pair, 3)
    export, sync, found = opened(pair, first), pair.device.sync, []
    commit(pair, 5)

    def sync_and_read():
        sync()
        if pair.superblock.is_inconsistent:
            found.append((page(export, 3), export.extents(4 * PAGE_BYTES, 0)))

    kinds = export.extents(4 * PAGE_BYTES, 0)
    pair.origin.extents = lambda offset, length, most: [(offset, length, True, True)]
    pair.device.sync = sync_and_read
    begin_anew(pair)
    assert found and all(one == (written(first - 1), kinds) for one in found)


def test_after_a_new_beginning_that_failed_nothing_is_read(pair):
    first = commit(pair, 3)
    export, sync = opened(pair, first), pair.device.sync
    commit(pair, 5)

    def fail():
        if pair.superblock.is_inconsistent:
            raise DeviceError("no disk")
        sync()

    pair.device.sync = fail
    with pytest.raises(DeviceError):
        begin_anew(pair)
    for use in (lambda: page(export, 3), lambda: export.extents(MIB, 0)):
        with pytest.raises(SnapshotEndedError):
            use()
    with pytest.raises(OutsideWindowError):
        opened(pair, first)


def test_after_a_cut_that_failed_nothing_is_read(pair):
    first = commit(pair, 0)
    end = pair.owner.writer.end
    export = opened(pair, commit(pair, 1))
    sync, changed = pair.device.sync, pair.owner.next_epoch(first, end.previous, committed=first)

    def fail():
        if pair.superblock.epoch == pair.owner.superblock.epoch:
            raise DeviceError("no disk")
        sync()

    pair.device.sync = fail
    with pytest.raises(DeviceError):
        pair.log.take_superblock(pair.sender, changed)
    with pytest.raises(SnapshotEndedError):
        page(export, 0)
    with pytest.raises(OutsideWindowError, match="read again"):
        opened(pair, first)
    assert pair.past.window_ends() == (None, None, ())


def test_a_tag_is_opened_by_its_name(pair):
    first = commit(pair, 0)
    tag = Tag("before", number_of(pair, first), first, 5)
    pair.owner.superblock = pair.owner.superblock.with_changes(tags=(tag,), committed=first)
    pair.tell()
    commit(pair, 0)
    pair.destage()
    assert pair.superblock.destaged == first and page(pair.past.open_export("before"), 0) == written(first - 1)
    assert pair.past.window_ends()[2] == (tag,) and pair.past.facts()["tags"][0]["name"] == "before"
    with pytest.raises(TagError):
        pair.past.open_export("after")


def test_a_tag_does_not_give_way(pair):
    """That is up to the owner, whose log is as full."""
    first = commit(pair, 0)
    tag = Tag("before", number_of(pair, first), first, 5)
    pair.owner.superblock = pair.owner.superblock.with_changes(tags=(tag,), committed=first)
    pair.tell()
    fill_log(pair)
    assert pair.superblock.destaged == first and pair.superblock.tags == (tag,)


def test_history_holds_the_origin_back():
    pair = filled(dataclasses.replace(POLICY, history_pages=10))
    ends = [commit(pair, block, 4) for block in range(0, 20, 4)]
    pair.destage()
    assert pair.superblock.destaged == ends[2]
    assert page(opened(pair, ends[2]), 8) == written(ends[2] - 4)


def test_history_gives_way_when_the_log_is_short_of_room():
    pair = filled(dataclasses.replace(POLICY, history_pages=1 << 20))
    first = commit(pair, 0)
    pair.destage()
    assert pair.superblock.destaged == 1
    fill_log(pair)
    assert pair.superblock.destaged > first


def test_history_does_not_hold_back_what_is_filled():
    pair = StandbyPair(dataclasses.replace(POLICY, history_pages=1 << 20))
    pair.tell()
    first = commit(pair, 0)
    pair.piece(0, BLOCKS, first, is_zero=True)
    pair.destage()
    assert pair.superblock.destaged == first and not pair.superblock.is_inconsistent


def test_a_reader_does_not_wait_for_what_the_owner_sends(pair):
    """The log's lock is held while its device writes."""
    first = commit(pair, 0)
    export = opened(pair, first)
    with ThreadPoolExecutor(1) as pool, pair.log.lock:
        assert pool.submit(page, export, 0).result(LIMIT_S) == written(first - 1)
        assert pool.submit(export.extents, PAGE_BYTES, 0).result(LIMIT_S)


def test_the_status_does_not_wait_for_the_log(pair):
    commit(pair, 0)
    before = pair.past.facts()
    with ThreadPoolExecutor(1) as pool, pair.log.lock:
        assert pool.submit(pair.past.facts).result(LIMIT_S) == before
    assert before["window"]["generations"] == 1


def test_two_moments_are_compared(pair):
    first = commit(pair, 0)
    second = commit(pair, 5, 2)
    compared = pair.past.compare(str(number_of(pair, first)), str(number_of(pair, second)))
    assert [(change.block, change.block_count) for change in compared.changes()] == [(5, 2)]
    compared.close()
    export = pair.past.open_export(f"{number_of(pair, first)}..{number_of(pair, second)}")
    assert [(start, length) for start, length, hole, _ in export.extents(MIB, 0) if not hole] == [
        (5 * PAGE_BYTES, 2 * PAGE_BYTES)
    ]


def test_a_comparison_ends_with_its_log_whether_or_not_it_is_read_to_its_end(pair):
    """A page of wbcache diff is a part of it."""
    first = commit(pair, 0)
    for block in range(10, 20, 2):
        last = commit(pair, block)
    compared = pair.past.compare(str(number_of(pair, first)), str(number_of(pair, last)))
    changes = compared.changes()
    assert next(changes).block == 10
    begin_anew(pair)
    for page_of_them in (changes, compared.changes(14 * PAGE_BYTES)):
        with pytest.raises(SnapshotEndedError):
            next(page_of_them)
    compared.close()


def test_the_history_ends_with_the_newest_that_is_shown(pair):
    ends = [commit(pair, block) for block in range(5)]
    ship(pair, 9)
    for limit in 40, 2:
        found = pair.past.history(Query(limit))
        assert found["window"]["newest"]["end_lsn"] == ends[-1] == found["rows"][-1]["end_lsn"]
        assert found["window"]["generations"] == 5


def test_closing_waits_for_what_is_being_read(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    is_reading, may_go_on, closed = threading.Event(), threading.Event(), threading.Event()
    read_into = pair.origin.read_into

    def slow(*arguments):
        is_reading.set()
        assert may_go_on.wait(LIMIT_S)
        read_into(*arguments)

    pair.origin.read_into = slow
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(page, export, 100)
        assert is_reading.wait(LIMIT_S)
        closing = pool.submit(pair.past.close)
        closing.add_done_callback(lambda _: closed.set())
        assert not closed.wait(0.1)
        may_go_on.set()
        closing.result(LIMIT_S)
        assert reading.result(LIMIT_S) == bytes(PAGE_BYTES)
    for use in (lambda: page(export, 0), lambda: export.extents(1, 0), lambda: export.prefetch(1, 0)):
        with pytest.raises(SnapshotEndedError, match="has taken over"):
            use()
    with pytest.raises(SnapshotEndedError):
        opened(pair, first)
    export.close()


def test_a_read_that_is_interrupted_says_why(pair):
    """By the stop of the server, whose clients get no answer before its end; or by a takeover, after which it goes
    on."""
    export = opened(pair, commit(pair, 0))

    def interrupted(*_):
        raise StoppedError("the server is shutting down")

    pair.origin.read_into = interrupted
    with pytest.raises(StoppedError):
        page(export, 100)

    def interrupted_by_a_takeover(*_):
        pair.past.end()
        interrupted()

    pair.origin.read_into = interrupted_by_a_takeover
    with pytest.raises(SnapshotEndedError, match="has taken over"):
        page(export, 100)


def test_an_origin_that_cannot_be_read_is_said(pair):
    export = opened(pair, commit(pair, 0))

    def fail(*_):
        raise DeviceError("no disk")

    pair.origin.read_into = fail
    with pytest.raises(DeviceError, match="no disk"):
        page(export, 100)


def test_what_was_given_up_of_the_log_is_read_from_the_origin(pair):
    """A moment that is as far as the origin keeps no log space."""
    first = commit(pair, 0)
    pair.destage()
    export = opened(pair, first)
    with pair.log.lock:
        pair.log.copy.change(twice=True, oldest=first, oldest_place=pair.superblock.destaged_place)
    assert page(export, 0) == written(first - 1)


def test_whoever_waits_for_time_to_pass_is_woken(pair):
    with pair.log.lock:
        assert pair.destager._idle_seconds() is None
    pair = filled(dataclasses.replace(POLICY, history_ns=3600 * 10**9))
    commit(pair, 0)
    with pair.log.lock:
        assert pair.destager._end_of_next_batch()[0] == 0
        assert 0 < pair.destager._idle_seconds() <= 60


@pytest.fixture(autouse=True)
def warnings_seen(caplog):
    caplog.set_level(logging.WARNING, "wbcache")
