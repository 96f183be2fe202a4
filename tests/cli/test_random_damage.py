# SPDX-License-Identifier: BSD-3-Clause
"""Damage at random places: what a salvage does without being forced is what it says, and never a mixture.

WBCACHE_TEST_ROUNDS sets the number of rounds.
"""

import os
import random

import pytest

from tests.cli.history import PAGE, History, SalvageDisk
from tests.cli.test_salvage import assert_volume
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.errors import LogRefusedError
from wbcache_core.format.superblock import DATA_START
from wbcache_core.tools.checker import examine
from wbcache_core.tools.salvage.plan import make_plan
from wbcache_core.tools.salvage.salvage import carry_out

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "20"))


def a_bit(rng, history):
    history.flip(rng.randrange(len(history.log)))


def a_descriptor(rng, history):
    history.damage_descriptor(rng.choice(history.intact))


def a_page(rng, history):
    segment = rng.choice(history.intact)
    history.damage_page(segment, rng.randrange(max(segment.page_count, 1)))


def both_superblocks(rng, history):
    history.damage_superblocks(rng.choice((20, 100, 1000)))


def nothing_left_of_the_superblocks(rng, history):
    history.wipe_superblocks()


def one_superblock(rng, history):
    history.flip(rng.choice((50, 32768 + 50)))


def an_erased_block(rng, history):
    at = rng.randrange(DATA_START, len(history.log)) & ~0xFFFF
    history.log[at : at + 65536] = rng.choice((b"\0", b"\xff")) * len(history.log[at : at + 65536])


KINDS = (
    a_bit, a_descriptor, a_page, both_superblocks, nothing_left_of_the_superblocks, one_superblock, an_erased_block,
)  # fmt: skip


def make_history(rng):
    history = History(rng.random(), commits=rng.randrange(3, 9), pages=80, largest=rng.choice((8, 30, 60)),
                      log_bytes=4 << 20, compress=rng.choice(("off", "zstd")))  # fmt: skip
    for _ in range(rng.randrange(4)):
        commits = rng.randrange(1, 9)
        history.run(commits, drained_at=rng.sample(range(commits), rng.randrange(2)))
    if rng.random() < 0.2:
        history.go_round()
    history.intact = history.segments() or [history.first_segment()]
    return history


@pytest.mark.parametrize("number", range(ROUNDS))
def test_random_damage(number):
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {number}")
    history = make_history(rng)
    brought = set()
    if rng.random() < 0.3:
        history.begin_batch(history.intact[-1].end_lsn)
        brought = bring_some_pages(rng, history)
    damage = [rng.choice(KINDS) for _ in range(rng.randrange(1, 4))]
    for kind in damage:
        kind(rng, history)
    print([kind.__name__ for kind in damage])
    log, origin = SalvageDisk(history.log), MemoryDisk(history.origin, "origin")
    before = bytes(history.log), bytes(history.origin)
    try:
        plan = make_plan(log, origin)
    except LogRefusedError:
        return
    assert (history.log, history.origin) == before
    print(plan.reasons, plan.doubts)
    if plan.reasons and not any(doubt.force for doubt in plan.doubts):
        carry_out(plan, log, origin, 0.0)
        # Of what the batch brought, not all is known where descriptors are damaged.
        lost = {page.block for page in plan.pages if not page.on_origin}
        # A batch on its way can have been brought to an end; where the log was full, a commit can have come in the
        # middle of requests.
        is_ahead = plan.superblock and plan.superblock.batch_end > plan.end_lsn
        if plan.end_lsn in history.states and not is_ahead:
            assert_volume(origin.content, history.states[plan.end_lsn], lost | brought)
        assert not examine(log, origin).findings
        assert not make_plan(log, origin).reasons


def bring_some_pages(rng, history):
    """A batch was on its way to the origin, and part of it got there. Returns the blocks."""
    blocks = set(rng.sample(range(80), 10))
    for block in blocks:
        at = slice(block * PAGE, (block + 1) * PAGE)
        history.origin[at] = history.model[at]
    return blocks
