# SPDX-License-Identifier: BSD-3-Clause
"""What a standby has in memory of its log is what recovery would find there: appended, destaged, cut, read again."""

import random

import pytest

from tests.support.hot_log_check import check_hot_log
from tests.support.shipped_log import LOG_BYTES, ShippedLog, disk
from wbcache_core.errors import DeviceError, NotOwnerError, ShipmentError
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.peer_standing import encode as peer_standing_encode
from wbcache_core.format.segment import decode
from wbcache_core.format.superblock import encode
from wbcache_core.log import hot_log
from wbcache_core.log.standby_log import Sender, StandbyLog
from wbcache_core.shipping.joining import beginning
from wbcache_core.units import PAGE_BYTES

BLOCKS = 64


class Standby:
    def __init__(self, owner):
        self.owner, self.disk = owner, disk()
        self.log, self.sender = StandbyLog(self.disk, None), Sender()
        self.log.state(self.sender)
        self.tell()

    def tell(self, **changes):
        self.log.take_superblock(self.sender, self.owner.page(**changes))

    def send(self, parcels):
        for offset, content in parcels:
            self.log.take_segment(self.sender, memoryview(content), offset, False)

    def check(self):
        check_hot_log(self.log, self.disk, BLOCKS)


@pytest.fixture
def standby():
    return Standby(ShippedLog())


def destaged(owner, number):
    """A superblock that says that the origin has the first commits."""
    end = owner.ends[number]
    return {"destaged": owner.heads[number], "batch_end": owner.heads[number], "destaged_place": end.place,
            "destaged_previous": end.previous, "destaged_generation": end.generation,
            "destaged_time_ns": end.time.wall_ns, "committed": owner.heads[number]}  # fmt: skip


def test_a_log_that_begins_in_the_middle_of_a_commit(standby):
    """The origin has part of it: there is no moment where the log begins."""
    owner = standby.owner
    _, second = owner.commit(2, 3)
    began = decode(memoryview(second[1])[:PAGE_BYTES])
    end = began.first_lsn
    place = owner.writer.end.place - began.log_pages
    superblock = owner.superblock.with_changes(
        destaged=end, destaged_place=place, destaged_previous=began.previous, destaged_generation=0,
        destaged_time_ns=1, batch_end=end, committed=end,
    )  # fmt: skip
    standby.log.take_superblock(standby.sender, memoryview(encode(beginning(superblock))))
    standby.send([second])
    standby.check()


@pytest.mark.parametrize("lag", [1, 40, 4096])
def test_whatever_happens_it_is_what_recovery_finds(standby, lag, monkeypatch, seed):
    monkeypatch.setattr(hot_log, "_LAG_LSNS", lag)
    choose, owner = random.Random(seed), standby.owner
    owner.heads = [owner.head]
    done = 0
    for _ in range(60):
        counts = [choose.choice((1, 2, 7, 20)) for _ in range(choose.choice((1, 1, 2)))]
        if owner.head + sum(counts) > 900:
            break
        standby.send(owner.commit(*counts, block=choose.randrange(BLOCKS - 20)))
        owner.heads.append(owner.head)
        if choose.random() < 0.3:
            done = choose.randrange(done, len(owner.heads))
            standby.tell(**destaged(owner, done))
        if choose.random() < 0.3:
            standby.check()
    standby.check()


def test_after_a_part_was_destaged_nothing_older_is_in_the_map(standby, monkeypatch):
    monkeypatch.setattr(hot_log, "_PART_OF_LOG", 1000)
    owner = standby.owner
    owner.heads = [owner.head]
    for block in range(40):
        standby.send(owner.commit(20, block=block))
        owner.heads.append(owner.head)
    standby.log._copy._hot._enter()
    assert len(standby.log._copy._hot._locations)
    standby.tell(**destaged(owner, 40))
    standby.send(owner.commit(1, block=63))
    standby.log._copy._hot._enter()
    assert standby.log._copy._hot._locations.get(0) == 0


def test_what_is_taken_is_whole_and_nothing_follows(standby):
    owner = standby.owner
    standby.send(owner.commit(9))
    more = owner.commit(2)
    taken = standby.log.take()
    assert taken.recovered.head == 11 and taken.recovered.locations.get(8) == 10
    assert taken.recovered.page_count == 9 and len(taken.slots) == 2
    with pytest.raises(NotOwnerError, match="taking over"):
        standby.send(more)
    with pytest.raises(NotOwnerError, match="taking over"):
        standby.log.state(Sender())


def test_a_blank_log_cannot_be_taken():
    with pytest.raises(ShipmentError, match="is blank"):
        StandbyLog(disk(), None).take()


def test_what_could_not_be_read_again_is_read_before_anything_is_taken(standby):
    """After a cut the log has to be read; if that fails, the next connection does it."""
    owner = standby.owner
    standby.send(owner.commit(3))
    head, end = owner.head, owner.ends[-1]
    standby.send(owner.commit(2))
    owner.head, owner.writer.end = head, end
    page = owner.next_epoch(head, end.previous, committed=head)
    read, standby.disk.read_uncached_into = standby.disk.read_uncached_into, failing
    reads, standby.disk.read_into = standby.disk.read_into, failing
    with pytest.raises(DeviceError):
        standby.log.take_superblock(standby.sender, page)
    standby.disk.read_uncached_into, standby.disk.read_into = read, reads
    with pytest.raises(NotOwnerError):
        standby.send(owner.commit(1))
    owner.head, owner.writer.end = head, end._replace(epoch=owner.superblock.epoch)
    standby.sender = Sender()
    standby.log.state(standby.sender)
    standby.log.take_superblock(standby.sender, page)
    standby.send(owner.commit(4))
    standby.check()


def failing(*_):
    raise DeviceError("the log cannot be read")


def standing(owner, **changes):
    fields = {"uuid": owner.superblock.uuid, "epoch": owner.superblock.epoch, "lsn": owner.head, "is_complete": True,
              "may_be_left_out": False, "sign_ms": 1000} | changes  # fmt: skip
    return Standing(**fields)


def test_a_standing_counts_in_its_epoch(standby):
    owner = standby.owner
    standby.send(owner.commit(3))
    assert standby.log.standing is None
    told = standing(owner)
    standby.log.take_standing(standby.sender, page_of(told))
    assert standby.log.standing == told
    # A second connection in the same epoch changes nothing, another epoch does.
    standby.sender = Sender()
    standby.log.state(standby.sender)
    standby.tell()
    assert standby.log.standing == told
    end = owner.ends[-1]
    standby.log.take_superblock(standby.sender, owner.next_epoch(owner.head, end.previous, committed=owner.head))
    assert standby.log.standing is None


def page_of(told):
    return memoryview(peer_standing_encode(told))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uuid": bytes(16)}, "another volume or epoch"),
        ({"lsn": 99}, "calls this log complete up to LSN 99, and it ends at 5"),
        ({"has_parted": True, "lsn": 99}, "part at LSN 99, which they cannot"),
        ({"has_parted": True, "lsn": 3}, "no segment of this log begins at LSN 3"),
        ({"has_parted": True, "uuid": bytes(16)}, "another volume"),
    ],
    ids=str,
)
def test_a_standing_that_does_not_fit_is_refused(standby, changes, words):
    standby.send(standby.owner.commit(3))
    with pytest.raises(ShipmentError, match=words):
        standby.log.take_standing(standby.sender, page_of(standing(standby.owner, **changes)))
    with pytest.raises(NotOwnerError):
        standby.tell()
    assert standby.log.standing is None


def test_of_a_tail_that_is_given_up_a_copy_is_kept(standby, tmp_path):
    owner = standby.owner
    standby.send(owner.commit(3))
    standby.send(owner.commit(2))
    with pytest.raises(ShipmentError, match="has not said"):
        standby.log.give_up_tail(str(tmp_path / "tail"))
    standby.log.take_standing(standby.sender, page_of(standing(owner, has_parted=True, is_complete=False, lsn=5)))
    tail = standby.log.tail()
    assert (tail.lsn, tail.head, tail.byte_count, tail.commits, tail.epoch_number) == (5, 8, 8192, 1, 1)
    assert standby.log.give_up_tail(str(tmp_path / "tail")) == tail
    copy = (tmp_path / "tail").read_bytes()
    assert len(copy) == LOG_BYTES
    offset = owner.offset(4)
    kept = memoryview(bytearray(3 * 4096))
    standby.disk.read_into(kept, offset)
    assert copy[offset : offset + 3 * 4096] == kept
