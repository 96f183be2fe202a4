# SPDX-License-Identifier: BSD-3-Clause
"""A standby whose log begins anew: what its origin was before, which parts of it an owner may call unchanged, and what
it notes itself."""

import pytest

from tests.support.simulated_disk import SimulatedDisk
from tests.support.standby_pair import BLOCKS, OLD, StandbyPair
from wbcache_core.errors import DeviceError, ShipmentError
from wbcache_core.format.epoch import Epoch, Switch
from wbcache_core.format.superblock import NO_FILL, Fill, encode
from wbcache_core.log.standby_log import Sender
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.shipping.joining import as_of
from wbcache_core.units import MIB, PAGE_BYTES

BASE, BEGIN = 5, 60


@pytest.fixture
def pair():
    """Consistent; its origin has two pages that were written by the log, which ends at LSN 5."""
    pair = StandbyPair()
    pair.destager.reach_blocks = 0
    pair.fill(1)
    pair.destager._note_filled()
    pair.commit(2)
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert not pair.superblock.is_inconsistent and pair.superblock.destaged == pair.owner.head == BASE
    return pair


def restart(pair, style="none"):
    pair.restart(style)
    pair.destager.reach_blocks = 0


def noted(pair):
    with pair.log.lock:
        return pair.log.copy.regions()


def test_it_knows_up_to_where_it_was_the_volume(pair):
    pair.begin_at(BEGIN)
    assert pair.superblock.is_inconsistent and pair.superblock.fill == Fill(base=BASE, begin=BEGIN)
    restart(pair)
    assert pair.superblock.fill == Fill(base=BASE, begin=BEGIN)


def test_what_is_unchanged_is_right_as_it_is(pair):
    before = bytes(pair.origin.content)
    pair.begin_at(BEGIN)
    pair.unchanged(0, 100, BASE, BEGIN)
    pair.piece(100, 10, BEGIN, content=b"\x55")
    pair.unchanged(110, BLOCKS - 110, 2, BEGIN + 7)
    pair.destager._note_filled()
    assert pair.superblock.is_inconsistent and pair.superblock.fill.counted == 110
    pair.say_safe(BEGIN)
    pair.owner.head, pair.owner.writer.end = BEGIN, pair.owner.writer.end._replace(place=60, previous=7)
    pair.commit(6, block=200)
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert not pair.superblock.is_inconsistent and pair.superblock.fill == NO_FILL
    after = bytes(pair.origin.content)
    assert after[: 100 * PAGE_BYTES] == before[: 100 * PAGE_BYTES] != OLD * 100
    assert after[100 * PAGE_BYTES : 110 * PAGE_BYTES] == b"\x55" * 10 * PAGE_BYTES
    assert after[110 * PAGE_BYTES : 200 * PAGE_BYTES] == before[110 * PAGE_BYTES : 200 * PAGE_BYTES]


@pytest.mark.parametrize(("first", "end"), [(6, BEGIN), (5, BEGIN - 1), (60, 70)])
def test_what_may_have_changed_meanwhile_is_not_unchanged(pair, first, end):
    """The owner's map does not reach back to what this origin was, or not up to where its log begins."""
    pair.begin_at(BEGIN)
    with pytest.raises(ShipmentError, match="and this origin lacks what is between 5 and 60"):
        pair.unchanged(0, 1, first, end)
    pair.destager._note_filled()
    assert pair.superblock.fill.filled == 0


def test_nothing_is_unchanged_of_an_origin_that_was_something_else():
    pair = StandbyPair()
    with pytest.raises(ShipmentError, match="called unchanged"):
        pair.unchanged(0, 1, 1, 1)


def test_what_was_copied_in_an_earlier_filling_is_not_unchanged(pair):
    """It may have something that the owner of then had, and has lost."""
    pair.begin_at(BEGIN)
    pair.unchanged(0, 30, BASE, BEGIN)
    pair.piece(30, 40, BEGIN)
    pair.unchanged(70, 10, BASE, BEGIN)
    pair.destager._note_filled()
    assert pair.superblock.fill.reach == 70
    pair.begin_at(BEGIN + 5)
    assert pair.superblock.fill == Fill(base=BASE, begin=BEGIN + 5, reach=70)
    for block in (0, 30, 69):
        with pytest.raises(ShipmentError, match="copied in an earlier filling"):
            pair.unchanged(block, 1, BASE, BEGIN + 5)
    pair.unchanged(70, 1, BASE, BEGIN + 5)


def test_what_another_process_copied_is_not_unchanged(pair):
    pair.begin_at(BEGIN)
    pair.piece(0, 70, BEGIN)
    restart(pair)
    pair.tell()
    assert pair.superblock.fill == Fill(base=BASE, begin=BEGIN, reach=70)
    with pytest.raises(ShipmentError, match="copied in an earlier filling"):
        pair.unchanged(0, 1, BASE, BEGIN)


def test_that_something_is_copied_is_said_before_it_is(pair, monkeypatch):
    pair.begin_at(BEGIN)
    seen, write = [], pair.origin.write

    def look(*words):
        seen.append(newest(read_slots(pair.device)).fill.reach)
        return write(*words)

    monkeypatch.setattr(pair.origin, "write", look)
    pair.piece(0, 8, BEGIN)
    pair.piece(100, 8, BEGIN)
    pair.piece(8, 8, BEGIN)
    pair.destager.reach_blocks = 1000
    pair.piece(108, 8, BEGIN)
    assert seen == [8, 108, 108, BLOCKS]


def test_an_origin_without_a_base_has_no_reach():
    pair = StandbyPair()
    pair.fill(1, blocks=128)
    pair.destager._note_filled()
    assert pair.superblock.fill == Fill(128, 128, 1)


class TestBeginning:
    """What a log that begins anew knows of its origin."""

    def test_the_history_has_all_that_the_origin_has(self, pair):
        pair.owner.next_epoch(BASE, pair.owner.writer.end.previous)
        pair.begin_at(BEGIN)
        assert pair.superblock.fill.base == BASE

    def test_the_owner_lacks_the_epoch_that_wrote_it(self, pair):
        pair.begin_at(BEGIN, history=(Switch(Epoch(9, 9), 1, 0),), epoch=Epoch(9, 9))
        assert pair.superblock.fill == NO_FILL

    def test_another_epoch_began_before_what_the_origin_has(self, pair):
        first = pair.superblock.history
        pair.begin_at(BEGIN, history=(*first, Switch(Epoch(1000, 9), 4, 7)), epoch=Epoch(1000, 9))
        assert pair.superblock.fill == NO_FILL

    def test_a_batch_that_had_only_begun_counts(self, pair):
        pair.commit(2, block=10)
        with pair.log.lock:
            pair.log.copy.change(batch_end=9, committed=9)
        first = pair.superblock.history
        pair.begin_at(BEGIN, history=(*first, Switch(Epoch(1000, 9), BASE, 7)), epoch=Epoch(1000, 9))
        assert pair.superblock.fill == NO_FILL

    def test_the_origin_has_more_than_the_owners(self, pair):
        pair.begin_at(3, place=2)
        assert pair.superblock.fill == NO_FILL

    def test_the_volume_has_grown(self, pair):
        pair.origin_bytes = 2 * MIB
        pair.origin = SimulatedDisk(pair.origin.content + bytes(MIB), "origin")
        restart(pair)
        pair.begin_at(BEGIN, origin_bytes=2 * MIB)
        assert pair.superblock.fill == NO_FILL

    def test_it_grows_while_it_is_filled(self, pair):
        pair.begin_at(BEGIN)
        pair.unchanged(0, 30, BASE, BEGIN)
        pair.destager._note_filled()
        pair.origin_bytes = 2 * MIB
        restart(pair)
        grown = pair.owner.superblock.with_changes(origin_bytes=2 * MIB, committed=BEGIN)
        pair.log.take_superblock(pair.sender, memoryview(encode(as_of(grown, BEGIN))))
        assert pair.superblock.fill == Fill(30, 30, BEGIN)

    def test_what_was_not_known_is_not_known_later(self, pair):
        pair.begin_at(BEGIN, history=(Switch(Epoch(9, 9), 1, 0),), epoch=Epoch(9, 9))
        pair.begin_at(BEGIN + 9, history=(Switch(Epoch(9, 9), 1, 0),), epoch=Epoch(9, 9))
        assert pair.superblock.fill == NO_FILL

    @pytest.mark.parametrize("lsn", [BEGIN, 3])
    def test_what_was_noted_before_is_forgotten(self, pair, lsn):
        """Also if the log begins within that: it may be another history."""
        assert noted(pair).bits.bit_count() == 1
        pair.begin_at(lsn, place=lsn - 1)
        assert noted(pair) is None and all(slot.regions_sum == 0 for slot in read_slots(pair.device))


class TestNotes:
    def test_a_batch_is_noted_before_the_origin_is_touched(self, pair, monkeypatch):
        pair.commit(2, block=48)
        pair.say_safe(pair.owner.head)
        seen = []
        monkeypatch.setattr(pair.destager, "_write", lambda _: seen.append(noted(pair)))
        with pytest.raises(AttributeError):
            pair.destage()
        (found,) = seen
        assert (found.since, found.until) == (1, pair.owner.head) and found.bits == 1 | 1 << 3
        restart(pair)
        assert noted(pair) == found

    def test_what_all_nodes_have_is_not_noted_any_more(self, pair):
        pair.commit(2, block=48)
        pair.say_safe(pair.owner.head, everywhere=BASE)
        pair.destage()
        assert (noted(pair).since, noted(pair).bits) == (BASE, 1 << 3)


def test_a_log_that_has_failed_is_not_read_again_during_a_batch(pair):
    """The batch would go on over what another filling copies, and write superblocks of the log that was."""
    pair.commit(2, block=10)
    pair.say_safe(pair.owner.head)
    write, refusals = pair.destager._write, []

    def write_later(executor):
        with pair.log.lock:
            pair.log.copy.failure = DeviceError("a superblock could not be written")
        with pytest.raises(DeviceError, match="a batch is on its way"):
            pair.log.state(Sender())
        refusals.append(1)
        return write(executor)

    pair.destager._write = write_later
    with pytest.raises(DeviceError, match="has to be read again"):
        pair.destage()
    assert refusals
    pair.destager._write = write
    pair.sender = Sender()
    pair.log.state(pair.sender)
    pair.tell()
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert pair.superblock.destaged == pair.owner.head


def test_a_note_of_a_log_that_was_read_again_is_not_written(pair):
    """It would go to the superblocks of the log that was, beside those of the one that has begun anew."""
    pair.begin_at(BEGIN)
    pair.piece(0, 70, BEGIN)
    sync = pair.origin.sync

    def sync_and_read_again():
        sync()
        pair.origin.sync = sync
        with pair.log.lock:
            pair.log.copy.failure = DeviceError("a superblock could not be written")
        pair.sender = Sender()
        pair.log.state(pair.sender)
        pair.begin_at(BEGIN + 20)

    pair.origin.sync = sync_and_read_again
    with pytest.raises(DeviceError, match="read again meanwhile"):
        pair.destager._note_filled()
    assert [slot.destaged for slot in read_slots(pair.device)] == [BEGIN + 20] * 2
    assert newest(read_slots(pair.device)) == pair.superblock
