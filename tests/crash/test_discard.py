# SPDX-License-Identifier: BSD-3-Clause
"""Power cuts while force=discard-log formats a log anew: it is the old log, still refused, or the new one, whole."""

import random

import pytest

from tests.crash.disks import Disks, log_writes, page, write
from tests.crash.replay import Replay
from tests.crash.workload import LOG_DISK
from tests.support.simulated_disk import STYLES
from wbcache_core.errors import LogRefusedError
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.units import PAGE_BYTES


def put_hole(disks):
    """The first of two commits is lost."""
    disks.images[LOG_DISK][DATA_START : DATA_START + PAGE_BYTES] = bytes(PAGE_BYTES)


def damage_superblocks(disks):
    for offset in SLOT_OFFSETS:
        disks.images[LOG_DISK][offset + 100] ^= 1


def damage_one_superblock(slot):
    def damage(disks):
        put_hole(disks)
        disks.images[LOG_DISK][SLOT_OFFSETS[slot] + 100] ^= 1

    return damage


@pytest.mark.parametrize(
    "damage",
    [put_hole, damage_superblocks, damage_one_superblock(0), damage_one_superblock(1)],
    ids=["hole", "superblocks", "slot 0", "slot 1"],
)
@pytest.mark.parametrize("starts", [1, 2])
def test_cuts_while_a_log_is_discarded(damage, starts):
    """With an odd and an even number of superblocks written before, since two slots take turns."""
    disks = Disks()
    for _ in range(starts):
        disks.session(write((b"a", 1)))
        disks.session(lambda cache: cache._store.write(committed=cache._line.committed))
    disks.session(write((b"b", 2)))
    damage(disks)
    with pytest.raises(LogRefusedError):
        disks.recover()
    refused = disks.images
    origin = bytes(refused[1])
    journal = disks.session(write((b"c", 3)), force="discard-log")
    assert len(log_writes(journal)) >= 4
    replay = Replay(refused, journal.events)
    outcomes = set()
    while True:
        for number in range(7):
            survivors = replay.survivors(random.Random(number), STYLES[number % len(STYLES)])
            with replay.after_cut(survivors) as images:
                disks.images = [bytearray(image) for image in images]
            outcomes.add(recover_or_discard(disks, origin))
        if replay.position == len(journal):
            break
        replay.advance()
    assert outcomes == {"refused", "discarded", "goes on"}


def recover_or_discard(disks, origin):
    """What a start finds; after a refusal the discard can be repeated."""
    changed = origin[: 3 * PAGE_BYTES] + page(b"c") + origin[4 * PAGE_BYTES :]
    try:
        volume = disks.recover()
    except LogRefusedError:
        disks.session(write((b"c", 3)), force="discard-log")
        assert disks.recover() == changed
        return "refused"
    assert volume in (origin, changed)
    return "discarded" if volume == origin else "goes on"
