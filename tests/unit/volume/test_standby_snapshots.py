# SPDX-License-Identifier: BSD-3-Clause
"""Past moments of a standby that has an origin of its own: which are shown, and what they hold back."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.standby_pair import BLOCKS, POLICY, StandbyPair
from tests.support.standby_past import commit, filled, no_disk, number_of, opened, page, ship, written
from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.errors import DeviceError, OutsideWindowError, PassingNameError, SnapshotEndedError, TagError
from wbcache_core.format import peer_standing
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.superblock import Tag
from wbcache_core.log.standby_log import Sender
from wbcache_core.memory import moments
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.server.history import Query
from wbcache_core.units import MIB, PAGE_BYTES

LIMIT_S = 30
NS = 10**9


@pytest.fixture
def pair():
    return filled()


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


def test_a_former_owner_shows_nothing_before_it_has_heard_of_the_next(pair):
    """It may have left out its peers, and destaged what none of them has."""
    first = commit(pair, 0)
    pair.destage()
    commit(pair, 1)
    with pair.log.lock:
        pair.log.copy.change(twice=True, is_copy=False)
    pair.restart()
    assert pair.past.window_ends() == (None, None, ())
    with pytest.raises(OutsideWindowError, match="the newest that it shows is none"):
        opened(pair, first)
    pair.tell()
    assert pair.past.window_ends()[1].end_lsn == first


@pytest.mark.parametrize("is_started_again", [True, False])
def test_what_an_owner_lacks_is_not_shown_until_one_has_it(pair, is_started_again):
    """Even if it is on the origin, or an owner before has said that it was in all logs."""
    first, second = commit(pair, 0), commit(pair, 1)
    pair.destage()
    third = commit(pair, 2)
    if is_started_again:
        pair.restart()
    assert pair.past.window_ends()[1].end_lsn == (second if is_started_again else third)
    one = pair.owner.superblock
    parted = Standing(one.uuid, one.epoch, first, False, False, 1000, has_parted=True)
    pair.log.take_standing(pair.sender, memoryview(peer_standing.encode(parted)))
    assert pair.past.window_ends() == (None, None, ())
    pair.tell()
    pair.say_safe(third, third)
    assert pair.past.window_ends()[1].end_lsn == third


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


def test_a_tag_of_a_moment_that_a_batch_was_to_pass_and_did_not(pair, monkeypatch):
    """It may come after the superblock could not be written that announces the batch."""
    first = commit(pair, 0)
    number = number_of(pair, first)
    commit(pair, 0)
    with monkeypatch.context() as context, pytest.raises(DeviceError):
        context.setattr(pair.log.copy, "change", no_disk)
        pair.destage()
    tag = Tag("before", number, first, 5)
    pair.owner.superblock = pair.owner.superblock.with_changes(tags=(tag,), committed=first)
    pair.tell()
    export = pair.past.open_export("before")
    pair.destage()
    assert pair.superblock.destaged == first and page(export, 0) == written(first - 1)


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


class TwoMachines:
    """The clocks of an owner and of a standby, which were booted at other times: one is read at a time."""

    def __init__(self):
        self.passed_ns, self.of_owner = 0, True

    def read(self):
        boot, since_boot_ns = (7, 9000 * NS) if self.of_owner else (8, 100 * NS)
        return Reading(1_800_000_000 * NS + self.passed_ns, since_boot_ns + self.passed_ns, boot)


def test_history_by_time_passes_while_an_owner_elsewhere_writes_nothing(monkeypatch):
    """Its readings say nothing about this machine's clock: what passed since the last one came is measured here."""
    clocks = TwoMachines()
    monkeypatch.setattr(clock, "read", clocks.read)
    pair = filled(dataclasses.replace(POLICY, history_ns=60 * NS))
    first = commit(pair, 0)
    clocks.passed_ns += 40 * NS
    second = commit(pair, 1)
    clocks.of_owner = False
    assert pair.next_end() == 0
    with pair.log.lock:
        assert pair.destager._idle_seconds() == 20
    clocks.passed_ns += 19 * NS
    assert pair.next_end() == 0
    clocks.passed_ns += NS
    assert pair.next_end() == first
    pair.destage()
    with pair.log.lock:
        assert pair.destager._idle_seconds() == 40
    clocks.passed_ns += 40 * NS
    pair.destage()
    assert pair.superblock.destaged == second


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


def test_the_history_ends_with_the_newest_that_is_shown(pair):
    ends = [commit(pair, block) for block in range(5)]
    ship(pair, 9)
    for limit in 40, 2:
        found = pair.past.history(Query(limit))
        assert found["window"]["newest"]["end_lsn"] == ends[-1] == found["rows"][-1]["end_lsn"]
        assert found["window"]["generations"] == 5


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
