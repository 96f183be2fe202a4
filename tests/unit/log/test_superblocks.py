# SPDX-License-Identifier: BSD-3-Clause
"""The two superblocks of a log."""

import threading

import pytest

from tests.support.simulated_disk import STYLES, SimulatedDisk
from tests.unit.format.test_superblock import sealed
from wbcache_core.errors import DeviceError, LogVersionError
from wbcache_core.format.changed_regions import AREA_BYTES, AREA_OFFSETS, ChangedRegions
from wbcache_core.format.superblock import MIN_LOG_BYTES, SAMPLE_COUNT, SLOT_OFFSETS, VERSION, Superblock
from wbcache_core.log.superblocks import SuperblockStore, format_log, newest, read_slots
from wbcache_core.units import PAGE_BYTES

FIRST = Superblock(
    uuid=bytes(range(16)),
    sequence=1,
    log_bytes=MIN_LOG_BYTES,
    origin_bytes=10**6 * 512,
    origin_name="/dev/sdb",
    samples=(0,) * SAMPLE_COUNT,
)


@pytest.fixture
def disk():
    return SimulatedDisk(bytes(1024 * 1024), "log")


@pytest.fixture
def store(disk):
    return SuperblockStore(disk, format_log(disk, FIRST))


def test_a_blank_log_has_no_superblock(disk):
    assert read_slots(disk) == [None, None]
    assert newest([None, None]) is None


def test_format_writes_both(disk):
    slots = format_log(disk, FIRST)
    assert all(slots)
    assert read_slots(disk) == slots
    assert [slot.sequence for slot in slots] == [2, 1]
    assert newest(slots).with_changes(sequence=1, written_ns=0) == FIRST
    assert disk.content == disk.durable
    assert not any(disk.content[SLOT_OFFSETS[1] + PAGE_BYTES :])


def test_they_are_written_in_turn_and_the_other_one_stays(disk, store):
    for number in range(5):
        before = read_slots(disk)
        store.write(destaged=1 + number, committed=10 + number, batch_end=20)
        after = read_slots(disk)
        assert [old == new for old, new in zip(before, after, strict=True)].count(True) == 1
        assert newest(after) == store.current
        assert newest(after).sequence == newest(before).sequence + 1
        assert (newest(after).destaged, newest(after).committed) == (1 + number, 10 + number)
        assert after == store.slots
        assert disk.content == disk.durable


def test_what_is_not_changed_stays(store):
    store.write(oldest=3, destaged=4, committed=9, batch_end=9)
    store.write(committed=12)
    superblock = store.current
    assert (superblock.oldest, superblock.destaged, superblock.batch_end, superblock.committed) == (3, 4, 9, 12)
    assert superblock.origin_name == "/dev/sdb"


def test_committed_never_goes_back(store):
    """Threads read the cursor before they come to write it."""
    store.write(committed=50)
    store.write(committed=40)
    assert store.current.committed == 50


def test_the_time_of_writing_is_noted(store):
    before = store.current.written_ns
    store.write()
    assert store.current.written_ns >= before > 10**18


def test_space_is_free_only_when_both_say_so(store):
    assert store.reclaimed_place == 0
    store.write(oldest_place=100, destaged_place=100)
    assert store.reclaimed_place == 0
    store.write(oldest_place=150, destaged_place=150)
    assert store.reclaimed_place == 100
    store.write()
    assert store.reclaimed_place == 150


def test_a_store_goes_on_from_what_it_finds(disk, store):
    for _ in range(3):
        store.write(committed=7)
    again = SuperblockStore(disk, read_slots(disk))
    assert again.current == store.current
    again.write(committed=8)
    assert newest(read_slots(disk)).sequence == store.current.sequence + 1


@pytest.mark.parametrize("lost", [0, 1])
def test_one_damaged_superblock_is_written_anew(disk, store, lost):
    store.write(committed=7)
    disk.content[SLOT_OFFSETS[lost] + 100] ^= 1
    slots = read_slots(disk)
    assert [slot is None for slot in slots] == [lost == 0, lost == 1]
    again = SuperblockStore(disk, slots)
    assert again.reclaimed_place == slots[1 - lost].oldest_place
    for _ in range(2):
        again.write(committed=9)
    assert all(slot.committed == 9 for slot in read_slots(disk))


def test_the_newest_has_the_highest_sequence():
    older, newer = FIRST, FIRST.with_changes(sequence=2)
    assert newest([older, newer]) == newest([newer, older]) == newer
    assert newest([None, older]) == newest([older, None]) == older


@pytest.mark.parametrize("slot", [0, 1])
def test_a_newer_version_in_either_place_is_refused(disk, store, slot):
    page = bytearray(disk.content[SLOT_OFFSETS[slot] : SLOT_OFFSETS[slot] + PAGE_BYTES])
    page[8] = VERSION + 1
    disk.content[SLOT_OFFSETS[slot] : SLOT_OFFSETS[slot] + PAGE_BYTES] = sealed(page)
    with pytest.raises(LogVersionError, match=f"version {VERSION + 1}"):
        read_slots(disk)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(5))
def test_a_crash_in_a_write_leaves_the_superblock_before_or_the_new_one(disk, store, style, seed):
    store.write(committed=7)
    before = store.current
    disk.faults.failing.add("sync")
    with pytest.raises(DeviceError):
        store.write(committed=8)
    assert store.current == before, "what was not synced is not known to be there"
    found = newest(read_slots(SimulatedDisk(disk.crash(seed, style))))
    assert (found.sequence, found.committed) in [(before.sequence, 7), (before.sequence + 1, 8)]


def test_after_a_failed_write_the_same_place_is_written_again(disk, store):
    kept = store.slots
    disk.faults.failing.add("write")
    disk.faults.times = 3
    for _ in range(3):
        with pytest.raises(DeviceError):
            store.write(committed=8)
    store.write(committed=8)
    changed = [old != new for old, new in zip(kept, read_slots(disk), strict=True)]
    assert changed.count(True) == 1
    assert newest(kept) in read_slots(disk)


def test_threads_write_one_after_the_other(disk, store):
    def write(first):
        for committed in range(first, 200, 4):
            store.write(committed=committed)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.current.sequence == 2 + 200
    assert store.current.committed == 199
    assert newest(read_slots(disk)) == store.current


def test_a_wbcache_from_before_epochs_refuses_what_this_one_writes(store, monkeypatch):
    """By name, before it looks at anything else: versions 1 to 3 looked at magic, checksum and version first."""
    monkeypatch.setattr("wbcache_core.format.superblock.VERSION", 3)
    words = f"log of format version {VERSION}; this wbcache reads up to version 3; use the wbcache that wrote it"
    with pytest.raises(LogVersionError, match=words):
        read_slots(store._device)


OWN = FIRST.with_changes(has_own_origins=True)


def regions(since, until, *numbers):
    return ChangedRegions(FIRST.uuid, 4, since, since).with_batch(until, numbers)


@pytest.fixture
def own(disk):
    return SuperblockStore(disk, format_log(disk, OWN))


def read_again(disk):
    return SuperblockStore(disk, read_slots(disk)).regions()


def test_a_map_of_changed_regions_is_read_again(disk, own):
    assert own.regions() is None and read_again(disk) is None
    for until in range(10, 15):
        own.write(regions=regions(5, until, until), batch_end=until, committed=20)
        assert own.regions() == read_again(disk) == regions(5, until, until)
        own.write(committed=20 + until)
        own.write(oldest=1)
        assert own.regions() == read_again(disk) == regions(5, until, until)
    assert disk.content == disk.durable


def test_it_is_durable_before_a_superblock_speaks_of_it(disk, own, monkeypatch):
    """At each write and sync, whatever of it is lost, the newest superblock has its map."""
    own.write(regions=regions(5, 10, 1), batch_end=10, committed=20)
    allowed = {regions(5, 10, 1)}

    def look():
        for style in STYLES:
            for seed in range(3):
                found = SimulatedDisk(disk.crash(seed, style), "log")
                assert read_again(found) in allowed, style

    for name in "write", "sync":
        plain = getattr(disk, name)
        monkeypatch.setattr(disk, name, lambda *words, plain=plain: (look(), plain(*words), look())[1])
    for until in range(11, 16):
        new = regions(5, until, 1, until)
        allowed.add(new)
        own.write(regions=new, batch_end=until, committed=20)
        allowed = {new}
        own.write(destaged=until)


def test_the_same_map_is_not_written_again(disk, own):
    own.write(regions=regions(5, 10, 1), batch_end=10, committed=20)
    before = bytes(disk.content)
    own.write(regions=regions(5, 10, 1), batch_end=10)
    areas = [slice(at, at + AREA_BYTES) for at in AREA_OFFSETS]
    assert [before[area] for area in areas] == [bytes(disk.content[area]) for area in areas]
    assert own.regions() == regions(5, 10, 1)


@pytest.mark.parametrize(("destaged", "is_kept"), [(5, True), (10, True), (4, False), (11, False)])
def test_a_map_that_does_not_reach_up_to_what_is_destaged_is_forgotten(disk, own, destaged, is_kept):
    """Something has brought the origin up to date that did not note it, such as wbcache replay."""
    own.write(regions=regions(5, 10, 1), batch_end=20, committed=20)
    again = SuperblockStore(disk, read_slots(disk))
    again.write(destaged=destaged)
    assert again.regions() == read_again(disk) == (regions(5, 10, 1) if is_kept else None)


@pytest.mark.parametrize("at", [0, 8, 16, 4095, 4096, AREA_BYTES - 1])
def test_a_damaged_map_is_none(disk, own, at):
    own.write(regions=regions(5, 10, 1), batch_end=20, committed=20)
    for offset in AREA_OFFSETS:
        disk.content[offset + at] ^= 1
    assert read_again(disk) is None
    again = SuperblockStore(disk, read_slots(disk))
    again.write(destaged=6)
    assert again.current.regions_sum == 0
    again.write(regions=regions(6, 12, 2), batch_end=20)
    assert again.regions() == read_again(disk) == regions(6, 12, 2)


def test_the_map_of_another_volume_is_none(disk, own):
    other = ChangedRegions(bytes(16), 4, 5, 10)
    own.write(regions=other, batch_end=10, committed=20)
    assert read_again(disk) is None


@pytest.mark.parametrize("unreadable", AREA_OFFSETS)
@pytest.mark.parametrize("is_opened_again", [False, True])
def test_an_area_that_cannot_be_read_holds_nothing_up(disk, own, monkeypatch, unreadable, is_opened_again):
    for until in (10, 11):
        own.write(regions=regions(5, until, 1), batch_end=until, committed=20)
    plain = disk.read_uncached_into

    def read(buffer, offset):
        if offset == unreadable:
            raise DeviceError("no such sector")
        plain(buffer, offset)

    monkeypatch.setattr(disk, "read_uncached_into", read)
    store = SuperblockStore(disk, read_slots(disk)) if is_opened_again else own
    assert store.regions() in (regions(5, 11, 1), None)
    store.write(destaged=11)
    for until in (12, 13):
        store.write(regions=regions(11, until, 2), batch_end=until)
        assert store.regions() == regions(11, until, 2)
    monkeypatch.undo()
    assert read_again(disk) == regions(11, 13, 2)
