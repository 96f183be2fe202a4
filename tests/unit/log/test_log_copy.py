# SPDX-License-Identifier: BSD-3-Clause
"""What superblocks of the owner do to the log of a standby: cuts, new beginnings, and disks that fail half-way."""

import contextlib
import itertools

import pytest

from tests.support.shipped_log import LOG_BYTES
from tests.support.standby_on_disk import StandbyOnDisk, refused
from tests.support.standby_pair import StandbyPair
from wbcache_core.errors import DeviceError, NotOwnerError, ShipmentError, SyncFailedError
from wbcache_core.format import standby_state
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.format.superblock import DATA_START, encode
from wbcache_core.log.standby_log import Sender, StandbyLog
from wbcache_core.shipping.joining import as_of
from wbcache_core.units import PAGE_BYTES


def test_no_superblock(standby):
    refused(standby, ShipmentError, "no superblock", lambda: standby.tell(memoryview(bytes(PAGE_BYTES))))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"uuid": b"another volume!!"}, NotOwnerError, "of another volume"),
        ({"log_bytes": LOG_BYTES * 2}, ShipmentError, "give this standby a log of the same size"),
        ({"origin_bytes": 4096}, ShipmentError, "another size"),
        ({"committed": 100}, ShipmentError, "calls LSN 100 committed"),
        ({"epoch": Epoch(1, 99), "history": ()}, NotOwnerError, "has taken over since"),
    ],
    ids=str,
)
def test_a_superblock_that_does_not_fit_is_refused(standby, owner, changes, error, words):
    refused(standby, error, words, lambda: standby.tell(owner.page(**changes)))


def test_an_older_epoch_is_refused(standby, owner):
    page = owner.page()
    standby.tell(owner.next_epoch(owner.head, owner.writer.end.previous, committed=owner.head))
    refused(standby, NotOwnerError, "has taken over since", lambda: standby.tell(page))


def test_an_older_superblock_is_refused(standby, owner):
    end = owner.ends[-1]
    standby.tell(
        owner.page(destaged=owner.head, destaged_place=end.place, destaged_previous=end.previous, batch_end=owner.head,
                   committed=owner.head)
    )  # fmt: skip
    refused(standby, ShipmentError, "older", lambda: standby.tell(owner.page()))


def cut(standby, owner, power_fails=False):
    """The owner comes back without its last segment, and goes on from the end of the one before."""
    end = owner.ends[-1]
    head = owner.head
    standby.send(owner.commit(2, 7))
    standby.restart()
    owner.head, owner.writer.end = head, end
    standby.tell(owner.next_epoch(head, end.previous, committed=head))
    if power_fails:
        standby.restart(standby.disk.crash(0, "none"))
        standby.tell(owner.page())
    assert standby.log.cursors == (head, head)
    standby.send(owner.commit(4))
    assert standby.log.cursors[1] == owner.head


@pytest.mark.parametrize("power_fails", [False, True])
def test_a_tail_that_the_owner_never_had_is_cut_off(standby, owner, power_fails):
    cut(standby, owner, power_fails)
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_a_tail_is_not_cut_off_where_the_logs_differ(standby, owner):
    head, end = owner.head, owner.ends[-1]
    standby.send(owner.commit(2))
    standby.restart()
    page = owner.next_epoch(head, end.previous ^ 1, committed=head)
    refused(standby, NotOwnerError, "differ before", lambda: standby.tell(page))


def test_a_tail_is_not_cut_off_within_a_segment(standby, owner):
    head, end = owner.head, owner.ends[-1]
    standby.send(owner.commit(9))
    standby.restart()
    page = owner.next_epoch(head + 3, end.previous, committed=head + 3)
    refused(standby, NotOwnerError, "no segment that ends", lambda: standby.tell(page))


def beginning(owner):
    """A superblock with which a log begins where the owner's ends."""
    end = owner.ends[-1]
    return owner.page(
        destaged=owner.head, destaged_place=end.place, destaged_previous=end.previous, batch_end=owner.head,
        committed=owner.head, oldest=owner.head, oldest_place=end.place,
    )  # fmt: skip


def test_a_log_that_is_too_far_behind_begins_again(standby, owner):
    for _ in range(3):
        owner.commit(20)
    page = beginning(owner)
    standby.tell(page)
    assert standby.log.cursors == (owner.head, owner.head)
    standby.send(owner.commit(2))
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_it_does_not_begin_again_with_a_gap(standby, owner):
    owner.commit(20)
    end = owner.ends[-1]
    page = owner.page(
        destaged=owner.head, destaged_place=end.place, destaged_previous=end.previous, batch_end=owner.head,
        committed=owner.head,
    )  # fmt: skip
    refused(standby, ShipmentError, "does not begin", lambda: standby.tell(page))


def test_what_was_discarded_does_not_come_back(standby, owner):
    """The owner sends again what is still there from before: what followed it then must not follow it now."""
    owner.head, owner.writer.end = 1, owner.ends[0]
    common = owner.commit(2, 4)
    standby.log = StandbyLog(standby.disk, None)
    standby.log.state(standby.sender)
    standby.tell(owner.page())
    standby.send(common)
    head, end = owner.head, owner.writer.end
    standby.send(owner.commit(3, 5))
    owner.head, owner.writer.end = head, end
    owner.next_epoch(head, end.previous)
    standby.log = StandbyLog(standby.disk, None)
    standby.log.state(standby.sender)
    standby.tell(memoryview(encode(as_of(owner.superblock, 1))))
    standby.send(common[:1])
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == 1 + 1 + 2
    standby.tell(memoryview(encode(as_of(owner.superblock, standby.state.head))))
    standby.send(common[1:])
    standby.tell(owner.page(committed=head))
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == head


def fails_half_way(standby, page, after):
    """The disk takes so many more writes, and is well again; the owner connects again and sends the same."""
    standby.disk.faults.failing, standby.disk.faults.after = {"write"}, after
    with pytest.raises(DeviceError):
        standby.tell(page)
    with contextlib.suppress(DeviceError):
        standby.log.state(Sender())
    standby.disk.faults.failing, standby.disk.faults.after = set(), 0
    standby.sender = Sender()
    standby_state.decode(memoryview(standby.log.state(standby.sender)))
    standby.tell(page)


@pytest.mark.parametrize("after", range(3))
def test_a_cut_that_fails_half_way(standby, owner, after):
    head, end = owner.head, owner.ends[-1]
    standby.send(owner.commit(2, 7))
    standby.restart()
    owner.head, owner.writer.end = head, end
    fails_half_way(standby, owner.next_epoch(head, end.previous, committed=head), after)
    assert standby.log.cursors == (head, head)
    standby.send(owner.commit(4))
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


@pytest.mark.parametrize("after", range(3))
def test_a_new_beginning_that_fails_half_way(standby, owner, after):
    for _ in range(3):
        owner.commit(20)
    page = beginning(owner)
    fails_half_way(standby, page, after)
    standby.send(owner.commit(2))
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_a_superblock_whose_sync_fails_needs_a_restart(standby, owner):
    standby.disk.faults.failing = {"sync"}
    with pytest.raises(SyncFailedError):
        standby.tell(owner.next_epoch(owner.head, owner.writer.end.previous, committed=owner.head))
    standby.disk.faults.failing = set()
    with pytest.raises(SyncFailedError):
        standby.log.state(Sender())
    standby.restart()


@pytest.mark.parametrize("style", ["none", "all"])
def test_what_a_tail_of_several_commits_says_does_not_count(standby, owner, style):
    """The former owner had committed them; also if the power fails before they are overwritten."""
    end, head = owner.ends[-1], owner.head
    for _ in range(3):
        standby.send(owner.commit(2, 7))
    standby.tell(owner.page(committed=owner.head))
    standby.restart()
    owner.head, owner.writer.end = head, end
    page = owner.next_epoch(head, end.previous, committed=head)
    write = standby.disk.write

    def write_superblocks(views, offset):
        if offset >= DATA_START:
            raise DeviceError("the power fails")
        write(views, offset)

    standby.disk.write = write_superblocks
    with pytest.raises(DeviceError):
        standby.tell(page)
    standby.restart(standby.disk.crash(0, style))
    assert standby.state.head == head
    standby.tell(owner.page())
    standby.send(owner.commit(4))
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_the_origin_may_count_as_older_at_a_new_owner(standby, owner):
    """It took over before it heard of the last batches, and writes them once more: they have to be in the log."""
    standby.send(owner.commit(5))
    end, head = owner.ends[-1], owner.head
    standby.send(owner.commit(2))
    place = {"destaged_place": end.place, "destaged_previous": end.previous, "destaged_generation": end.generation}
    newer = {"destaged": head, "batch_end": head, "committed": owner.head, "oldest": head, "oldest_place": end.place}
    standby.tell(owner.page(**newer, **place))
    page = owner.next_epoch(owner.head, owner.ends[-1].previous, committed=owner.head)
    standby.tell(page)
    assert standby.log.superblock.destaged == 1
    standby.send(owner.commit(3))
    standby.restart(standby.disk.crash(0, "none"))
    assert (standby.state.destaged, standby.state.oldest) == (1, 1)


def test_the_origin_may_count_as_older_for_a_log_that_was_empty_at_its_start(standby, owner):
    """What it reaches back to says of which epoch its last segment is, and nothing of it is cut off."""
    end, head = owner.ends[-1], owner.head
    place = {"destaged_place": end.place, "destaged_previous": end.previous, "destaged_generation": end.generation}
    newer = {"destaged": head, "batch_end": head, "committed": head}
    standby.tell(owner.page(**newer, **place))
    standby.restart(standby.disk.crash(0, "none"))
    standby.tell(owner.next_epoch(head, end.previous, committed=head))
    standby.send(owner.commit(3))
    standby.restart(standby.disk.crash(0, "none"))
    assert (standby.state.destaged, standby.state.head) == (1, owner.head)


def discarded(standby, owner):
    """A standby that has given up a dead tail (force=discard-log), and what the owner sends it of what both had; the
    owner has begun an epoch before the tail."""
    common = [*owner.commit(2), *owner.commit(*[1] * 40)]
    standby.send(common)
    head, end = owner.head, owner.writer.end
    for count in (3, 5):
        standby.send(owner.commit(count))
    owner.head, owner.writer.end = head, end
    owner.next_epoch(head, end.previous)
    standby.log = StandbyLog(standby.disk, None)
    return common, head


def begin_again(standby, owner):
    standby.sender = Sender()
    standby.log.state(standby.sender)
    standby.tell(memoryview(encode(as_of(owner.superblock, 1))))


@pytest.mark.parametrize("power_fails", [False, True])
@pytest.mark.parametrize("buried", [1, 3, 17, 30])
def test_a_discarded_tail_that_was_not_buried_whole_does_not_come_back(owner, buried, power_fails):
    """The disk fails when some of the chain are buried; then the power may fail. What was written is kept."""
    standby = StandbyOnDisk()
    standby.tell(owner.page())
    common, head = discarded(standby, owner)
    write, count = standby.disk.write, itertools.count(1)

    def fail(views, offset):
        if offset >= DATA_START and next(count) > buried:
            raise DeviceError("no more")
        write(views, offset)

    standby.disk.write = fail
    with pytest.raises(DeviceError):
        begin_again(standby, owner)
    standby.disk.write = write
    if power_fails:
        standby.restart(standby.disk.crash(0, "all"))
        standby.log = StandbyLog(standby.disk, None)
    begin_again(standby, owner)
    standby.send(common)
    assert standby.log.cursors == (head, head)
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == head


def test_a_tail_is_given_up_for_the_owner_that_lacks_it(standby, owner):
    """One of before that is still running has it, and its superblocks may be behind."""
    lsn, previous = owner.head, owner.writer.end.previous
    standby.send(owner.commit(4))
    standby.log._given_up_from, standby.log._parted_in = lsn, owner.superblock.epoch.number + 1
    standby.tell(owner.page())
    assert standby.log.cursors[0] == owner.head
    standby.tell(owner.next_epoch(lsn, previous, committed=lsn))
    assert standby.log.cursors[0] == lsn


def test_the_smallest_log_leaves_the_owner_room_to_write():
    """It lets a segment in if there is room for it, and for one more that does not fit before the end of the log."""
    pair = StandbyPair()
    pair.fill(1)
    for _ in range(60):
        pair.commit(30)
        pair.say_safe(pair.owner.head)
        pair.destage()
        with pair.log.lock:
            pair.destager.reclaim()
        current = pair.superblock
        free = current.data_pages - (pair.log.copy.end_place - current.oldest_place)
        assert free >= 2 * MAX_SEGMENT_PAGES
