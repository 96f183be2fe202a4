# SPDX-License-Identifier: BSD-3-Clause
"""What the log of a standby takes, what it refuses, and what it says of itself."""

import threading
import time

import pytest

from tests.support.shipped_log import LOG_BYTES, ShippedLog
from tests.support.standby_on_disk import StandbyOnDisk, refused
from wbcache_core.errors import DeviceError, NotOwnerError, ShipmentError, StoppedError, SyncFailedError
from wbcache_core.format import standby_state
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.superblock import SLOT_OFFSETS, encode
from wbcache_core.log import standby_log as standby_log_module
from wbcache_core.log.shipment import segment_in
from wbcache_core.log.standby_log import Sender
from wbcache_core.shipping.joining import as_of
from wbcache_core.units import PAGE_BYTES


def test_a_blank_log_says_so():
    standby = StandbyOnDisk()
    assert standby.state.is_blank
    assert standby.state.log_bytes == LOG_BYTES


def test_the_first_superblock_formats_it(owner):
    standby = StandbyOnDisk()
    standby.tell(owner.page())
    assert [slot.is_copy for slot in standby.superblocks] == [True, True]
    assert standby.superblocks[0].epoch == owner.superblock.epoch


@pytest.mark.parametrize("level", [None, 1])
def test_what_was_durable_is_there_after_a_power_cut(level):
    owner, standby = ShippedLog(zstd_level=level), StandbyOnDisk()
    standby.tell(owner.page())
    standby.send(owner.commit(3, 20))
    standby.send(owner.commit(1))
    standby.restart(standby.disk.crash(0, "none"))
    state = standby.state
    assert (state.head, state.previous) == (owner.head, owner.writer.end.previous)
    assert state.head_place == owner.ends[-1].place


def test_what_was_only_received_is_said_as_durable_once_it_is(standby, owner):
    standby.send(owner.commit(4), durable=False)
    assert standby.log.cursors == (owner.head, owner.ends[1].place + 1)
    standby.log.flush(standby.sender)
    assert standby.log.cursors == (owner.head, owner.head)


def test_asking_for_the_state_makes_it_durable(standby, owner):
    standby.send(owner.commit(4), durable=False)
    assert standby_state.decode(memoryview(standby.log.state(standby.sender))).head == owner.head
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_a_generation_is_durable_before_the_next_is_written(standby, owner):
    first, second = owner.commit(4), owner.commit(4)
    standby.send(first, durable=False)
    before = standby.log.cursors[0]
    standby.send(second, durable=False)
    assert standby.log.cursors[1] == before


def test_everything_is_durable_before_a_superblock_is_written(standby, owner, monkeypatch):
    standby.send(owner.commit(4), durable=False)
    write, unsynced = standby.disk.write, []

    def note(views, offset):
        unsynced.append((offset, len(standby.disk._unsynced)))
        write(views, offset)

    monkeypatch.setattr(standby.disk, "write", note)
    standby.tell(owner.page(committed=owner.head))
    assert unsynced and all(offset in SLOT_OFFSETS and not count for offset, count in unsynced)


def test_segments_before_a_superblock_are_refused(standby, owner):
    standby.restart()
    parcels = owner.commit(1)
    refused(standby, ShipmentError, "before a superblock", lambda: standby.send(parcels))


@pytest.mark.parametrize("at", [5, 100, PAGE_BYTES + 7, 3 * PAGE_BYTES + 4095])
def test_a_damaged_segment_is_refused(standby, owner, at):
    (offset, content), = owner.commit(3)
    damaged = bytearray(content)
    damaged[at] ^= 1
    refused(standby, ShipmentError, "segment", lambda: standby.send([(offset, bytes(damaged))]))


def test_a_damaged_compressed_segment_is_refused():
    owner, standby = ShippedLog(zstd_level=1), StandbyOnDisk()
    standby.tell(owner.page())
    (offset, content), = owner.commit(40)
    assert len(content) < 40 * PAGE_BYTES
    damaged = bytearray(content)
    damaged[PAGE_BYTES + 30] ^= 1
    refused(standby, ShipmentError, "damaged", lambda: standby.send([(offset, bytes(damaged))]))


@pytest.mark.parametrize("length", [100, 4095, 2 * PAGE_BYTES])
def test_a_segment_of_another_length_is_refused(standby, owner, length):
    (offset, content), = owner.commit(3)
    refused(standby, ShipmentError, "segment|bytes", lambda: standby.send([(offset, content[:length])]))


def test_a_segment_at_another_place_is_refused(standby, owner):
    (offset, content), = owner.commit(3)
    refused(standby, ShipmentError, "not its place", lambda: standby.send([(offset + PAGE_BYTES, content)]))


def test_a_segment_that_is_there_already_is_refused(owner):
    standby = StandbyOnDisk()
    standby.tell(owner.page())
    parcels = owner.commit(3)
    standby.send(parcels)
    refused(standby, ShipmentError, "does not follow", lambda: standby.send(parcels))


def test_a_segment_of_another_chain_is_refused(standby, owner):
    other = ShippedLog(owner.superblock)
    other.commit(5, 3)
    parcels = other.commit(1)
    refused(standby, ShipmentError, "does not follow", lambda: standby.send(parcels))


def test_a_segment_of_another_volume_is_refused(standby, owner):
    (offset, content), = owner.commit(3)
    owner.writer._encoder._uuid = b"another volume!!"
    (offset, content), = owner.commit(3)
    refused(standby, ShipmentError, "of another volume", lambda: standby.send([(offset, content)]))


def test_a_segment_of_an_epoch_that_no_superblock_announced_is_refused(standby, owner):
    owner.writer.end = owner.writer.end._replace(epoch=Epoch(7, 7))
    parcels = owner.commit(3)
    refused(standby, ShipmentError, "epoch 7", lambda: standby.send(parcels))


def test_a_segment_of_an_epoch_that_the_history_lacks_is_refused(standby, owner):
    """It would look like one of somebody else's later."""
    standby.send(owner.commit(3))
    owner.next_epoch(owner.head, owner.writer.end.previous)
    parcels = owner.commit(3)
    standby.tell(memoryview(encode(as_of(owner.superblock, 1))))
    refused(standby, ShipmentError, "epoch 2 .* does not know", lambda: standby.send(parcels))


def test_blocks_beyond_the_volume_are_refused(standby, owner):
    parcels = owner.commit(2, block=10_000)
    refused(standby, ShipmentError, "beyond the end of the volume", lambda: standby.send(parcels))


def test_a_segment_without_its_predecessor_is_refused_after_a_while(standby, owner, monkeypatch):
    monkeypatch.setattr(standby_log_module, "TURN_SECONDS", 0.1)
    owner.commit(2)
    parcels = owner.commit(2)
    refused(standby, ShipmentError, "came without those", lambda: standby.send(parcels))


def test_nothing_is_written_over_that_the_superblocks_need(standby, owner):
    while owner.writer.end.place + 110 < owner.data_pages + 1:
        standby.send(owner.commit(100), durable=False)
    parcels = owner.commit(100)
    refused(standby, ShipmentError, "superblocks here still need", lambda: standby.send(parcels))


def test_places_that_both_superblocks_gave_up_are_used_again(standby, owner):
    for _ in range(40):
        end = owner.ends[-1]
        parcels = owner.commit(100)
        page = owner.page(
            oldest=owner.head - 101, oldest_place=end.place, destaged=owner.head - 101, destaged_place=end.place,
            destaged_previous=end.previous, batch_end=owner.head - 101, committed=owner.head - 101,
        )  # fmt: skip
        standby.tell(page)
        standby.send(parcels)
    assert owner.writer.end.place > 3 * owner.data_pages
    assert {slot.oldest for slot in standby.superblocks} == {owner.head - 101}
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_segments_of_one_connection_may_come_in_any_order(standby, owner):
    parcels = [owner.commit(1)[0] for _ in range(12)]
    threads = [threading.Thread(target=standby.send, args=([parcel],)) for parcel in reversed(parcels)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert standby.log.cursors == (owner.head, owner.head)


def waiting(standby, parcels):
    """Threads that send a segment each, all of which have arrived and wait for the one before; and their failures."""
    failures = []

    def send(parcel):
        try:
            standby.send([parcel])
        except (ShipmentError, NotOwnerError) as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(parcel,)) for parcel in parcels]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while len(standby.log._arrivals._by_lsn) < len(parcels):
        assert time.monotonic() < until
        time.sleep(0.001)
    return threads, failures


def test_what_has_arrived_is_written_at_once(standby, owner, monkeypatch):
    first, *others = owner.commit(3, 1, 9, 2)
    threads, failures = waiting(standby, others)
    write, sizes = standby.disk.write, []
    monkeypatch.setattr(standby.disk, "write", lambda views, offset: (sizes.append(len(views)), write(views, offset)))
    standby.send([first])
    for thread in threads:
        thread.join(20)
    assert (sizes, failures) == ([4], [])
    assert standby.log.cursors == (owner.head, owner.head)
    standby.restart(standby.disk.crash(0, "none"))
    assert standby.state.head == owner.head


def test_a_generation_is_not_written_with_the_next(standby, owner, monkeypatch):
    first, second, third = owner.commit(3), owner.commit(1, 2), owner.commit(1)
    threads, failures = waiting(standby, [*second, *third])
    disk, write, unsynced = standby.disk, standby.disk.write, []
    monkeypatch.setattr(
        disk, "write", lambda views, offset: (unsynced.append(len(disk._unsynced)), write(views, offset))
    )
    standby.send(first, durable=False)
    for thread in threads:
        thread.join(20)
    assert (unsynced, failures) == ([0, 0, 0], [])


def test_what_does_not_follow_is_not_written_with_what_does(standby, owner):
    strange = ShippedLog()
    strange.commit(3, 5)
    first, _ = owner.commit(3, 2)
    _, second = strange.commit(3, 2)
    threads, failures = waiting(standby, [second])
    standby.send([first])
    for thread in threads:
        thread.join(20)
    assert [type(error) for error in failures] == [ShipmentError]
    assert standby.log.cursors[0] == owner.head - 3


def test_what_another_connection_sent_is_not_taken_along(standby, owner):
    first, (offset, content) = owner.commit(3, 2)
    arrived = standby.log._arrivals.put(
        Sender(), segment_in(memoryview(content), owner.superblock.uuid), memoryview(content), offset
    )
    standby.send([first])
    assert not arrived.is_taken
    assert standby.log.cursors[0] == arrived.descriptor.first_lsn


def test_those_that_wait_are_refused_together(standby, owner):
    first, second, third = owner.commit(1), owner.commit(1), owner.commit(1)
    failures = []

    def send(parcels):
        try:
            standby.send(parcels)
        except (ShipmentError, NotOwnerError) as error:
            failures.append(type(error))

    threads = [threading.Thread(target=send, args=(parcels,)) for parcels in (second, third)]
    for thread in threads:
        thread.start()
    send([(first[0][0], b"x" * len(first[0][1]))])
    for thread in threads:
        thread.join(20)
    assert failures.count(ShipmentError) == 1 and len(failures) == 3


def test_a_second_connection_takes_the_place_of_the_first(standby, owner):
    first, parcels = standby.sender, owner.commit(2)
    standby.sender = Sender()
    standby.log.state(standby.sender)
    with pytest.raises(NotOwnerError, match="another connection has taken its place"):
        standby.log.take_segment(first, memoryview(parcels[0][1]), parcels[0][0], True)
    standby.tell(owner.page())
    standby.send(parcels)


def test_who_is_not_heard_any_more_learns_that_from_the_report(standby):
    """It may have nothing to send for long."""
    first, second = Sender(), Sender()
    standby.log.state(first)
    page = standby.log.report(first)
    assert standby.log.report(second) == page
    standby.log.state(second)
    with pytest.raises(NotOwnerError, match="another connection has taken its place"):
        standby.log.report(first)
    assert standby.log.report(second) == page


def test_who_has_not_asked_for_the_state_is_not_heard(standby, owner):
    with pytest.raises(NotOwnerError, match="not asked for the state"):
        standby.log.take_superblock(Sender(), owner.page())


def test_a_write_that_fails_changes_nothing(standby, owner):
    parcels = owner.commit(2)
    standby.disk.faults.failing = {"write"}
    before = standby.log.cursors
    with pytest.raises(DeviceError):
        standby.send(parcels)
    assert standby.log.cursors == before
    standby.disk.faults.failing = set()
    standby.restart()
    standby.tell(owner.page())
    standby.send(parcels)


def test_after_a_failed_sync_nothing_is_durable_any_more(standby, owner):
    parcels = owner.commit(2)
    standby.disk.faults.failing = {"sync"}
    with pytest.raises(SyncFailedError):
        standby.send(parcels)
    standby.disk.faults.failing = set()
    with pytest.raises(SyncFailedError):
        standby.log.state(Sender())


def test_a_stop_sends_everybody_away(standby, owner):
    owner.commit(1)
    parcels = owner.commit(1)
    failures = []

    def send():
        try:
            standby.send(parcels)
        except StoppedError as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    standby.log.stop()
    thread.join(20)
    assert failures
    with pytest.raises(StoppedError):
        standby.log.state(Sender())
