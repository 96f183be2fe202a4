# SPDX-License-Identifier: BSD-3-Clause
"""How the origin of a standby is filled and destaged to, step by step, and what does not count when."""

import pytest
from xxhash import xxh3_64_intdigest

from tests.support.shipped_log import disk, superblock
from tests.support.simulated_disk import SimulatedDisk
from tests.support.standby_pair import BLOCKS, OLD, StandbyPair
from wbcache_core.errors import DeviceError, NotOwnerError, ShipmentError, StoppedError
from wbcache_core.format import peer_standing, standby_state
from wbcache_core.format.epoch import Epoch, Switch
from wbcache_core.format.fill_piece import FillPiece
from wbcache_core.format.origin_facts import BLOCK, FILE, NBD, NO_FACTS, OriginFacts
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.superblock import NO_FILL, Fill, Tag, encode
from wbcache_core.log import log_copy, takeover
from wbcache_core.log.shipped_superblock import OwnOrigin
from wbcache_core.log.standby_log import Sender, StandbyLog
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.shipping.joining import as_of, beginning
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT


@pytest.fixture
def pair():
    return StandbyPair()


def test_a_new_one_is_inconsistent_in_both_superblocks(pair):
    assert all(slot.is_inconsistent and slot.has_own_origins and slot.is_copy for slot in read_slots(pair.device))


def test_nothing_is_destaged_beyond_what_all_have(pair):
    pair.commit(2)
    pair.destage()
    assert pair.page(0) == OLD and pair.superblock.destaged == 1
    first = pair.owner.head
    pair.commit(2, block=10)
    pair.say_safe(first)
    pair.destage()
    assert pair.page(0) != OLD and pair.page(10) == OLD and pair.superblock.destaged == first


def test_it_is_announced_before_the_origin_is_touched(pair, monkeypatch):
    pair.commit(2)
    pair.say_safe(pair.owner.head)
    seen = []
    monkeypatch.setattr(pair.destager, "_write", lambda _: seen.append(newest(read_slots(pair.device)).batch_end))
    with pytest.raises(AttributeError):
        pair.destage()
    assert seen == [pair.owner.head] and pair.superblock.destaged == 1


def test_a_copy_counts_when_all_is_destaged_that_the_owner_had(pair):
    pair.commit(2)
    first = pair.owner.head
    pair.commit(2, block=10)
    pair.fill(first, pair.owner.head)
    pair.say_safe(first)
    pair.destage()
    assert pair.superblock.fill == Fill(BLOCKS, 0, pair.owner.head) and pair.superblock.is_inconsistent
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert not pair.superblock.is_inconsistent and pair.superblock.fill == NO_FILL
    assert all(not slot.is_inconsistent for slot in read_slots(pair.device))
    assert pair.page(100) == b"\x77" * PAGE_BYTES and pair.page(10) != b"\x77" * PAGE_BYTES
    assert pair.marks == [pair.owner.superblock.uuid]


def test_what_was_copied_is_durable_before_it_is_said(pair):
    pair.fill(1, blocks=128)
    pair.destager._note_filled()
    pair.restart("none")
    assert pair.superblock.fill.filled == 128 and pair.page(127) == b"\x77" * PAGE_BYTES


def test_a_batch_says_only_what_was_copied_before_its_sync(pair, monkeypatch):
    pair.commit(2)
    pair.say_safe(pair.owner.head)
    write = pair.destager._write

    def and_then_copy(executor):
        written = write(executor)
        pair.destager._origin_lock.release()
        pair.fill(pair.owner.head, blocks=64)
        pair.destager._origin_lock.acquire()
        return written

    monkeypatch.setattr(pair.destager, "_write", and_then_copy)
    pair.destage()
    assert pair.superblock.destaged == pair.owner.head and pair.superblock.fill.filled == 0


def test_pieces_may_come_in_any_order(pair):
    pair.piece(64, 64, 1)
    pair.destager._note_filled()
    assert pair.superblock.fill.filled == 0
    pair.piece(0, 64, 1)
    pair.destager._note_filled()
    assert pair.superblock.fill.filled == 128


def test_zeros_are_zeros(pair):
    pair.piece(0, BLOCKS, 1, is_zero=True)
    pair.destager._note_filled()
    assert bytes(pair.origin.content) == bytes(MIB) and not pair.superblock.is_inconsistent


def test_a_new_epoch_copies_again_what_does_not_count(pair):
    """The owner may have lost what it had then."""
    pair.fill(1, blocks=64)
    pair.destager._note_filled()
    pair.commit(2)
    pair.piece(64, 64, pair.owner.head)
    pair.destager._note_filled()
    assert pair.superblock.fill == Fill(128, 64, pair.owner.head)
    pair.owner.next_epoch(pair.owner.head, pair.owner.writer.end.previous, committed=pair.owner.head)
    pair.tell()
    assert pair.superblock.fill == Fill(64, 64, 0)
    pair.destager._note_filled()
    assert pair.superblock.fill == Fill(64, 64, 0)


def test_a_log_that_begins_anew_begins_to_fill_anew(pair):
    """What was copied waits for something that is destaged no more."""
    pair.fill(1, blocks=128)
    end = pair.owner.head + 50
    pair.log.take_superblock(pair.sender, memoryview(encode(
        beginning(pair.owner.superblock.with_changes(destaged=end, destaged_place=60, destaged_previous=7,
                                                     batch_end=end, committed=end))
    )))  # fmt: skip
    assert pair.superblock.destaged == end and pair.superblock.fill == NO_FILL
    pair.piece(128, 64, end)
    pair.destager._note_filled()
    assert pair.superblock.fill.filled == 0


def test_a_piece_that_is_older_than_the_origin_is_refused(pair):
    """It would write over what was destaged since it was read."""
    pair.commit(2)
    pair.say_safe(pair.owner.head)
    pair.destage()
    before = pair.page(0)
    with pytest.raises(ShipmentError, match="and the origin is at"):
        pair.piece(0, 64, pair.owner.head - 1)
    assert pair.page(0) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"block": BLOCKS - 1, "count": 2}, "beyond the end"),
        ({"block": 0, "count": 1, "epoch": Epoch(9, 9)}, "another volume or epoch"),
    ],
    ids=str,
)
def test_a_piece_that_does_not_fit_is_refused(pair, arguments, words):
    with pytest.raises(ShipmentError, match=words):
        pair.piece(first=1, **arguments)
    assert bytes(pair.origin.content) == OLD * BLOCKS


def test_a_damaged_piece_is_refused(pair):
    one = pair.owner.superblock
    for piece, data, words in (
        (FillPiece(one.uuid, one.epoch, 0, 1, 1, 1, 5, False), OLD, "fails its checksum"),
        (FillPiece(one.uuid, one.epoch, 0, 2, 1, 1, xxh3_64_intdigest(OLD), False), OLD, "bytes sent"),
    ):
        with pytest.raises(ShipmentError, match=words):
            pair.destager.take_piece(piece, memoryview(data))


def test_nothing_is_copied_to_a_consistent_origin(pair):
    pair.fill(1)
    pair.destager._note_filled()
    with pytest.raises(ShipmentError, match="is not being filled"):
        pair.piece(0, 1, 1)


def test_a_log_is_not_cut_below_what_the_origin_has(pair):
    """Of a batch that is under way, too."""
    pair.commit(2)
    first, previous = pair.owner.head, pair.owner.writer.end.previous
    pair.commit(2, block=10)
    pair.log.copy.change(batch_end=pair.owner.head, committed=pair.owner.head)
    pair.owner.next_epoch(first, previous, committed=first)
    with pytest.raises(NotOwnerError, match="the origin has it up to"):
        pair.log.take_superblock(pair.sender, memoryview(encode(as_of(pair.owner.superblock, first))))


def test_a_log_does_not_begin_anew_during_a_batch(pair):
    pair.log.copy.is_destaging = True
    with pytest.raises(ShipmentError, match="a batch is on its way"):
        pair.log.take_superblock(pair.sender, memoryview(encode(
            beginning(pair.owner.superblock.with_changes(destaged=90, destaged_place=100, batch_end=90, committed=90))
        )))  # fmt: skip


def test_a_log_begins_anew_below_its_end_if_its_origin_is_to_be_filled(pair):
    """The owner's origin ends before a batch of this one, whose log has still more."""
    pair.commit(2)
    lower, end = pair.owner.head, pair.owner.writer.end
    pair.commit(2, block=10)
    pair.say_safe(pair.owner.head)
    pair.destage()
    pair.commit(2, block=20)
    begins = pair.owner.superblock.with_changes(
        destaged=lower, destaged_place=end.place, destaged_previous=end.previous, destaged_generation=end.generation,
        destaged_time_ns=1, batch_end=lower, committed=lower,
    )  # fmt: skip
    pair.log.take_superblock(pair.sender, memoryview(encode(beginning(begins))))
    assert pair.log.cursors == (lower, lower) and pair.superblock.fill == NO_FILL
    pair.restart("lost")
    assert pair.log.cursors == (lower, lower) and pair.superblock.is_inconsistent


FILE_FACTS = OriginFacts(FILE, inode=7, birth_ns=8, filesystem=bytes(range(16)))
DISK_FACTS = OriginFacts(BLOCK, start=512, hardware="0x5000c500a1b2c3d4", serial="QM00001")


@pytest.mark.parametrize("facts", [FILE_FACTS, DISK_FACTS], ids=["file", "disk"])
@pytest.mark.parametrize("is_forced", [False, True])
def test_the_disk_of_the_owner_is_refused(facts, is_forced):
    """Two hosts that reach the same one would each destage to it, at different times."""
    one = superblock(has_own_origins=True, origin_facts=facts)
    log, sender = StandbyLog(disk(), None, OwnOrigin("/dev/sdz", MIB, facts, is_forced)), Sender()
    log.state(sender)
    page = memoryview(encode(beginning(one)))
    if is_forced:
        log.take_superblock(sender, page)
        return
    with pytest.raises(ShipmentError, match="origin '/dev/sdz' of this standby is the disk that the owner uses"):
        log.take_superblock(sender, page)
    assert log.superblock is None


@pytest.mark.parametrize(
    ("facts", "other"),
    [
        (FILE_FACTS, FILE_FACTS._replace(birth_ns=9)),
        (FILE_FACTS._replace(birth_ns=0), FILE_FACTS._replace(birth_ns=0)),
        (DISK_FACTS, DISK_FACTS._replace(start=1024)),
        (DISK_FACTS._replace(hardware=""), DISK_FACTS._replace(hardware="")),
        (OriginFacts(NBD), OriginFacts(NBD)),
        (NO_FACTS, NO_FACTS),
    ],
    ids=["another file", "perhaps the same file", "another partition", "a serial number alone", "NBD", "unknown"],
)
def test_one_that_may_be_another_is_taken(facts, other):
    one = superblock(has_own_origins=True, origin_facts=facts)
    log, sender = StandbyLog(disk(), None, OwnOrigin("/dev/sdz", MIB, other)), Sender()
    log.state(sender)
    log.take_superblock(sender, memoryview(encode(beginning(one))))


def begin_at(pair, lsn, end, **changes):
    """The owner's origin ends there, and this log is to begin there."""
    pair.owner.superblock = pair.owner.superblock.with_changes(
        destaged=lsn, destaged_place=end.place, destaged_previous=end.previous, destaged_generation=end.generation,
        destaged_time_ns=1, batch_end=lsn, committed=max(lsn, pair.owner.superblock.committed), **changes,
    )  # fmt: skip
    pair.log.take_superblock(pair.sender, memoryview(encode(beginning(pair.owner.superblock))))


def log_with_more(pair):
    """What the log has beyond the LSN that is returned, with the end there, is not in the one that begins there."""
    pair.commit(2)
    lower, end = pair.owner.head, pair.owner.writer.end
    for block in range(10, 60, 10):
        pair.commit(2, block=block)
    return lower, end


@pytest.mark.parametrize("buried", [[0], [1], [0, 2], [3], [1, 2, 3]], ids=str)
def test_a_power_cut_while_the_former_log_is_buried(pair, monkeypatch, buried):
    """Any of it may be gone, and the rest claims what is not there any more."""
    lower, end = log_with_more(pair)

    def bury_some(device, current):
        places = list(takeover._places_of_chain(device, current))
        takeover.bury(device, current.data_pages, [places[number] for number in buried])
        device.sync()
        raise DeviceError("the power fails")

    monkeypatch.setattr(log_copy, "bury_chain", bury_some)
    with pytest.raises(DeviceError):
        begin_at(pair, lower, end)
    pair.restart()
    assert pair.superblock.destaged == lower <= pair.log.cursors[0] < pair.owner.head
    assert pair.superblock.is_inconsistent


def test_remains_of_another_lineage_claim_nothing(pair):
    """They do not follow what the log begins with, so nothing finds all of them."""
    lower, end = log_with_more(pair)
    begin_at(pair, lower, end._replace(previous=12345))
    pair.restart("lost")
    assert pair.log.cursors == (lower, lower)


def test_it_is_consistent_when_its_history_knows_the_epoch(pair):
    """Before, what the former log has left counts as a part of this one."""
    lower, end = log_with_more(pair)
    pair.owner.next_epoch(pair.owner.head, pair.owner.writer.end.previous, committed=pair.owner.head)
    begin_at(pair, lower, end)
    pair.fill(lower)
    pair.destager._note_filled()
    assert pair.superblock.is_inconsistent and pair.superblock.fill.counted == BLOCKS
    assert not pair.destager._has_news()
    pair.restart("lost")
    assert pair.log.cursors == (lower, lower) and not pair.destager._has_news()
    current = pair.superblock
    pair.log.copy.change(history=(*current.history[-3:], Switch(current.epoch, lower, end.previous)))
    assert pair.destager._has_news()
    pair.destager._note_filled()
    assert not pair.superblock.is_inconsistent


def test_what_has_been_copied_does_not_become_newer(pair):
    """It may count as of an earlier LSN."""
    pair.commit(2, block=200)
    pair.fill(1, pair.owner.head)
    pair.fill(1, pair.owner.head + 100, content=b"\x99")
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert not pair.superblock.is_inconsistent and pair.page(100) == b"\x77" * PAGE_BYTES


def test_pieces_that_overlap(pair):
    pair.piece(0, 64, 1)
    pair.piece(96, 32, 1)
    pair.piece(32, 70, 1, content=b"\x99")
    pair.destager._note_filled()
    assert pair.superblock.fill.filled == 128
    assert pair.page(63) == b"\x77" * PAGE_BYTES and pair.page(64) == b"\x99" * PAGE_BYTES


class Interrupted:
    """A lock; something happens before it is taken for the first time."""

    def __init__(self, lock, happens):
        self._lock, self._happens = lock, happens

    def __enter__(self):
        happens, self._happens = self._happens, lambda: None
        happens()
        return self._lock.__enter__()

    def __exit__(self, *error):
        return self._lock.__exit__(*error)


def test_a_note_of_a_former_filling_changes_nothing(pair):
    pair.piece(0, 64, 1)

    def begin_again():
        pair.owner.next_epoch(pair.owner.head, pair.owner.writer.end.previous)
        pair.tell()
        pair.piece(0, 64, 1)

    pair.destager._origin_lock = Interrupted(pair.destager._origin_lock, begin_again)
    pair.destager._note_filled()
    for block in range(64, BLOCKS, 64):
        pair.piece(block, 64, 1)
    pair.destager._note_filled()
    assert not pair.superblock.is_inconsistent


def test_a_tail_that_has_gone_to_the_origin_meanwhile_is_not_cut_off(pair, tmp_path):
    consistent(pair)
    pair.commit(2)
    lsn, previous = pair.owner.head, pair.owner.writer.end.previous
    pair.commit(2, block=10)
    one = pair.owner.superblock
    parted = Standing(one.uuid, one.epoch, lsn, False, False, 1000, has_parted=True)
    pair.log.take_standing(pair.sender, memoryview(peer_standing.encode(parted)))
    pair.log.give_up_tail(str(tmp_path / "tail"))
    pair.say_safe(pair.owner.head)
    pair.log.state(pair.sender)
    pair.destage()
    assert pair.superblock.destaged == 1, "another connection has not said what is safe"
    pair.say_safe(pair.owner.head)
    pair.destage()
    pair.owner.next_epoch(lsn, previous, committed=lsn)
    with pytest.raises(NotOwnerError, match="the origin has it up to"):
        pair.log.take_superblock(pair.sender, memoryview(encode(as_of(pair.owner.superblock, lsn))))
    assert pair.log.cursors[0] > lsn


def test_a_log_that_begins_anew_before_a_batch_has_begun(pair):
    lower, end = log_with_more(pair)
    pair.say_safe(pair.owner.head)
    assert pair.destager._end_of_next_batch()[0] == pair.owner.head
    begin_at(pair, lower, end)
    pair.destager._destage()
    assert pair.superblock.batch_end == pair.superblock.committed == lower


def test_after_a_stop_nothing_is_copied(pair):
    pair.destager.stop()
    with pytest.raises(StoppedError):
        pair.piece(0, 1, 1)
    assert pair.page(0) == OLD


def consistent(pair):
    pair.fill(1)
    pair.destager._note_filled()
    assert not pair.superblock.is_inconsistent


@pytest.mark.parametrize("size", [MIB, MIB - 512])
def test_what_is_new_of_an_origin_that_has_grown_is_filled(pair, size):
    consistent(pair)
    pair.log.copy.change(twice=True, origin_bytes=size)
    pair.origin = SimulatedDisk(bytes(pair.origin.content) + OLD * BLOCKS, "origin")
    pair.origin_bytes = 2 * MIB
    pair.restart()
    pair.owner.superblock = pair.owner.superblock.with_changes(origin_bytes=2 * MIB)
    pair.tell()
    assert all(slot.is_inconsistent and slot.origin_bytes == 2 * MIB for slot in read_slots(pair.device))
    first = size >> PAGE_SHIFT
    assert pair.superblock.fill == Fill(first, first, 0)
    for block in range(first, 2 * BLOCKS):
        pair.piece(block, 1, 1)
    pair.destager._note_filled()
    assert not pair.superblock.is_inconsistent and pair.page(2 * BLOCKS - 1) == b"\x77" * PAGE_BYTES


def test_a_tag_does_not_hold_back_an_origin_that_is_filled(pair):
    """No moment before its end can be opened there."""
    pair.commit(2)
    tagged = pair.owner.head
    tags = (Tag("early", 1, tagged, 1),)
    pair.owner.superblock = pair.owner.superblock.with_changes(tags=tags, committed=tagged)
    pair.tell()
    pair.commit(2, block=10)
    pair.fill(1, pair.owner.head)
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert not pair.superblock.is_inconsistent and pair.superblock.tags == ()


def test_a_tag_holds_back_a_consistent_origin(pair):
    consistent(pair)
    pair.commit(2)
    tagged = pair.owner.head
    tags = (Tag("late", 1, tagged, 1),)
    pair.owner.superblock = pair.owner.superblock.with_changes(tags=tags, committed=tagged)
    pair.tell()
    pair.commit(2, block=10)
    pair.say_safe(pair.owner.head)
    pair.destage()
    assert pair.superblock.destaged == tagged and pair.superblock.tags == tags


@pytest.mark.parametrize("rest", [0, 2])
def test_what_the_origin_has_and_the_owner_lacks_can_be_given_up(pair, rest, tmp_path):
    consistent(pair)
    pair.commit(2)
    lsn = pair.owner.head
    pair.commit(2, block=10)
    pair.say_safe(pair.owner.head)
    pair.destage()
    if rest:
        pair.commit(rest, block=20)
    pair.restart()
    one = pair.owner.superblock
    parted = Standing(one.uuid, one.epoch, lsn, False, False, 1000, has_parted=True)
    pair.log.take_standing(pair.sender, memoryview(peer_standing.encode(parted)))
    tail = pair.log.tail()
    on_origin = pair.superblock.destaged
    assert (tail.lsn, tail.head, tail.on_origin, tail.commits) == (lsn, pair.owner.head, on_origin, bool(rest))
    assert pair.log.give_up_tail(str(tmp_path / "tail")) == tail
    assert (tmp_path / "tail").exists() == bool(rest)
    assert standby_state.decode(memoryview(pair.log.report(pair.sender))).given_up_from == lsn


def test_log_space_is_given_up_without_a_batch(pair):
    """The owner may wait for it with a generation that is not whole yet."""
    pages = pair.superblock.data_pages
    while pair.log.copy.end_place < pages // 2:
        pair.commit(60)
    pair.say_safe(pair.owner.head)
    pair.destage()
    while not pair.log.copy.is_short_of_room:
        pair.commit(60)
    destaged = pair.superblock.destaged
    with pair.log.lock:
        pair.destager.reclaim()
    assert pair.superblock.destaged == destaged and all(slot.oldest > 1 for slot in read_slots(pair.device))
    assert pair.superblock.oldest <= destaged
