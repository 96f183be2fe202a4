# SPDX-License-Identifier: BSD-3-Clause
"""Power fails at the writes and syncs of a salvage: the pair is refused or right, and a second run ends the same."""

import os
import random

import pytest

from tests.cli.history import PAGE, History, SalvageDisk
from tests.crash.replay import Replay
from tests.support.matching import same
from tests.support.simulated_disk import STYLES, Journal, MemoryDisk, SimulatedDisk
from wbcache_core.errors import DamagedPageError, LogRefusedError
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.tools.salvage.plan import make_plan
from wbcache_core.tools.salvage.salvage import carry_out

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
LOG, ORIGIN = 0, 1
CUTS = 20


class JournalledLog(SimulatedDisk):
    unreadable = frozenset()


def hole(history):
    history.damage_descriptor(history.segments()[3])


def hole_and_page(history):
    segments = history.segments()
    history.damage_descriptor(segments[4])
    history.damage_page(segments[2])


def damaged_page(history):
    for segment in history.segments()[:-1]:
        for index, _, is_newest in history.pages(segment):
            if is_newest:
                history.damage_page(segment, index)
                return


def no_superblocks(history):
    history.wipe_superblocks()


def damaged_superblocks(history):
    history.damage_superblocks()


def one_superblock_and_hole(history):
    hole(history)
    history.flip(100)


def last_superblock_and_hole_before_it(history):
    history.damage_descriptor(history.first_segment())
    history.damage_last_superblock()


DAMAGE = (
    hole, hole_and_page, damaged_page, no_superblocks, damaged_superblocks, one_superblock_and_hole,
    last_superblock_and_hole_before_it,
)  # fmt: skip


def salvaged(log, origin):
    """Run a salvage on two disks; returns the plan."""
    plan = make_plan(log, origin)
    if plan.reasons:
        carry_out(plan, log, origin, 0.0)
    return plan


def served(disks):
    """The volume as a server would serve it, None for pages that it does not give; None when it refuses the pair."""
    log, origin = (MemoryDisk(bytearray(disk), name) for disk, name in zip(disks, ("log", "origin"), strict=True))
    try:
        cache = Cache(Config.from_pairs([("origin", "origin"), ("log", "log"), ("ring-size", "1M")]), origin, log)
    except LogRefusedError:
        return None
    pages = []
    for offset in range(0, cache.volume.size, PAGE):
        page = bytearray(PAGE)
        try:
            cache.volume.read_into(page, offset)
        except DamagedPageError:
            page = None
        pages.append(page)
    return pages


def assert_served_right(pages, salvaged_content, model):
    """Either what the salvage makes, or, while the log is not given up, all that it holds but for damaged pages."""
    def agrees(content):
        return all(
            page is None or page == content[number * PAGE : (number + 1) * PAGE] for number, page in enumerate(pages)
        )

    assert agrees(salvaged_content) or agrees(model)


@pytest.mark.parametrize("damage", DAMAGE)
def test_power_cuts(damage):
    history = History(f"power {SEED} {damage.__name__}", commits=9, drained_at=(2,), pages=60, largest=20,
                      log_bytes=4 << 20)  # fmt: skip
    damage(history)
    images = bytes(history.log), bytes(history.origin)
    journal = Journal()
    disks = JournalledLog(images[LOG], "log", journal, LOG), SimulatedDisk(images[ORIGIN], "origin", journal, ORIGIN)
    plan = salvaged(*disks)
    assert plan.reasons
    expected = bytes(disks[ORIGIN].content)
    rng = random.Random(f"cuts {SEED}")
    replay = Replay(images, journal.events)
    wanted = set(rng.sample(range(len(journal)), min(CUTS, len(journal))))
    # The last events are those of the superblocks.
    wanted |= set(range(max(len(journal) - 12, 0), len(journal)))
    while replay.position < len(journal):
        if replay.position in wanted:
            style = STYLES[rng.randrange(len(STYLES))]
            with replay.after_cut(replay.survivors(rng, style)) as after:
                check(after, expected, history.model, f"seed {SEED}, cut before event {replay.position}, {style}")
        replay.advance()


def check(images, expected, model, where):
    print(where)
    pages = served(images)
    if pages is not None:
        assert_served_right(pages, expected, model)
    log, origin = SalvageDisk(bytearray(images[LOG])), MemoryDisk(bytearray(images[ORIGIN]), "origin")
    plan = salvaged(log, origin)
    # What a damaged superblock says of the origin can be damaged too.
    assert plan.spared_slot is not None or not any(doubt.force for doubt in plan.doubts)
    same(origin.content, expected)
    pages = served((log.content, origin.content))
    assert pages is not None
    assert None not in pages
    same(b"".join(pages), expected)
