# SPDX-License-Identifier: BSD-3-Clause
"""What the log of a standby takes, what it refuses, and what it says of itself."""

import threading

import pytest

from tests.support.shipped_log import LOG_BYTES, ShippedLog, disk
from wbcache_core.errors import DeviceError, NotOwnerError, ShipmentError, StoppedError, SyncFailedError
from wbcache_core.format import standby_state
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.log import standby_log as standby_log_module
from wbcache_core.log.standby_log import Sender, recovered_log
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.units import PAGE_BYTES


class Standby:
    """A standby's log on a disk, and a connection to it that has asked for the state."""

    def __init__(self):
        self.disk = disk()
        self.restart()

    def restart(self, image=None):
        """On what is there after a crash."""
        if image is not None:
            self.disk = type(self.disk)(image, "standby log")
        slots = read_slots(self.disk)
        self.log = recovered_log(self.disk, slots if newest(slots) else None)
        self.log.prepare()
        self.sender = Sender()
        self.state = standby_state.decode(memoryview(self.log.state(self.sender)))

    def tell(self, page):
        self.log.take_superblock(self.sender, page)

    def send(self, parcels, durable=True):
        for offset, content in parcels:
            self.log.take_segment(self.sender, memoryview(content), offset, durable)

    @property
    def superblocks(self):
        return read_slots(self.disk)


@pytest.fixture
def owner():
    return ShippedLog()


@pytest.fixture
def standby(owner):
    """One that has the first superblock, and two segments."""
    standby = Standby()
    standby.tell(owner.page())
    standby.send(owner.commit(3, 5))
    return standby


def test_a_blank_log_says_so():
    standby = Standby()
    assert standby.state.is_blank
    assert standby.state.log_bytes == LOG_BYTES


def test_the_first_superblock_formats_it(owner):
    standby = Standby()
    standby.tell(owner.page())
    assert [slot.is_copy for slot in standby.superblocks] == [True, True]
    assert standby.superblocks[0].epoch == owner.superblock.epoch


@pytest.mark.parametrize("level", [None, 1])
def test_what_was_durable_is_there_after_a_power_cut(level):
    owner, standby = ShippedLog(zstd_level=level), Standby()
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


def refused(standby, error, words, call):
    """It is refused, and so is everything that this connection sends afterwards."""
    with pytest.raises(error, match=words):
        call()
    with pytest.raises(NotOwnerError, match="nothing of this connection is taken"):
        standby.log.flush(standby.sender)
    assert standby.log.refused == 1
    before = standby.log.cursors
    standby.restart()
    assert standby.state.head == before[0]


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
    owner, standby = ShippedLog(zstd_level=1), Standby()
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
    standby = Standby()
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


def test_who_has_not_asked_for_the_state_is_not_heard(standby, owner):
    with pytest.raises(NotOwnerError, match="not asked for the state"):
        standby.log.take_superblock(Sender(), owner.page())


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


def test_a_log_that_is_too_far_behind_begins_again(standby, owner):
    end = owner.ends[-1]
    for _ in range(3):
        owner.commit(20)
    end = owner.ends[-1]
    page = owner.page(
        destaged=owner.head, destaged_place=end.place, destaged_previous=end.previous, batch_end=owner.head,
        committed=owner.head, oldest=owner.head, oldest_place=end.place,
    )  # fmt: skip
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
