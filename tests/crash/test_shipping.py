# SPDX-License-Identifier: BSD-3-Clause
"""Schedules of an owner and its standby with power cuts, kills and broken connections; see shipping_world.py."""

import os
import time

import pytest

from tests.crash.shipping_world import World

SCHEDULES = 50


@pytest.mark.parametrize("part", range(4))
def test_schedules(part):
    """WBCACHE_TEST_SEED=SEED/PART repeats one."""
    given = os.environ.get("WBCACHE_TEST_SEED")
    seeds = [given] if given else [f"{time.time_ns() % 10**9 + number}/{part}" for number in range(SCHEDULES)]
    done = 0
    for seed in seeds:
        print(f"WBCACHE_TEST_SEED={seed}")
        world = World(seed)
        world.run()
        done += world.counts["commits"]
    assert done > 10 * len(seeds)
