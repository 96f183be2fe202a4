# SPDX-License-Identifier: BSD-3-Clause
"""Power fails at any write or sync with which an epoch begins, also the first one in a log that had none."""

import contextlib
import random

import pytest

from tests.crash.disks import Disks, log_writes, page, write
from tests.crash.replay import Replay
from tests.crash.workload import LOG_DISK
from tests.support.old_images import image
from tests.support.simulated_disk import STYLES, MemoryDisk
from wbcache_core.errors import FormatError
from wbcache_core.format import segment as segment_format
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, VERSION
from wbcache_core.log.superblocks import read_slots
from wbcache_core.units import PAGE_BYTES

RESTARTS = 3


def put_old(disks, version):
    disks.images = [bytearray(image(name, version)) for name in ("log", "origin")]


def descriptors(image):
    """All that are whole."""
    view, found = memoryview(bytes(image)), []
    for at in range(DATA_START, len(view), PAGE_BYTES):
        if segment_format.has_magic(view[at : at + PAGE_BYTES]):
            with contextlib.suppress(FormatError):
                found.append(segment_format.decode(view[at : at + PAGE_BYTES]))
    return found


def check_epochs(image):
    """Either superblock alone knows the epoch of every segment that may be there."""
    slots = [slot for slot in read_slots(MemoryDisk(bytearray(image))) if slot]
    assert slots
    for descriptor in descriptors(image):
        for slot in slots:
            assert descriptor.epoch.number <= slot.epoch.number, (descriptor.first_lsn, slot.sequence)


@pytest.mark.parametrize("kind", ["format 1", "format 2", "format 3", "restart"])
def test_cuts_while_an_epoch_begins(kind):
    disks = Disks()
    if kind == "restart":
        for number in range(RESTARTS):
            disks.session(write((b"%c" % (97 + number), 10 + number)))
    else:
        put_old(disks, int(kind[-1]))
    before, start = disks.recover(), disks.images
    journal = disks.session(write((b"x", 3), (b"y", 60)))
    after = disks.recover()
    assert before != after and len(log_writes(journal)) >= 4
    replay = Replay(start, journal.events)
    outcomes, numbers = set(), set()
    while True:
        for number in range(5):
            survivors = replay.survivors(random.Random(number), STYLES[number % len(STYLES)])
            with replay.after_cut(survivors) as images:
                disks.images = [bytearray(image) for image in images]
            check_epochs(disks.images[LOG_DISK])
            found = disks.recover()
            assert found in (before, after)
            outcomes.add(found)
            newest = max(filter(None, read_slots(MemoryDisk(disks.images[LOG_DISK]))), key=lambda slot: slot.sequence)
            numbers.add(newest.epoch.number)
            if number < 2:
                go_on(disks, found, newest.epoch.number)
        if replay.position == len(journal):
            break
        replay.advance()
    assert outcomes == {before, after}
    assert numbers == ({RESTARTS, RESTARTS + 1} if kind == "restart" else {0, 1})


def go_on(disks, found, number):
    """The next start begins an epoch of its own, whatever was left."""
    disks.session(write((b"z", 5)))
    expected = bytearray(found)
    expected[5 * PAGE_BYTES : 6 * PAGE_BYTES] = page(b"z")
    assert disks.recover() == bytes(expected)
    check_epochs(disks.images[LOG_DISK])
    slots = read_slots(MemoryDisk(disks.images[LOG_DISK]))
    assert [(slot.version, slot.epoch.number) for slot in slots] == [(VERSION, number + 1)] * len(SLOT_OFFSETS)
    last = max(descriptors(disks.images[LOG_DISK]), key=lambda one: one.generation)
    assert last.epoch == slots[0].epoch == slots[0].history[-1].epoch
