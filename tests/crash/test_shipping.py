# SPDX-License-Identifier: BSD-3-Clause
"""Schedules of an owner and its standby with power cuts, kills and broken connections; see shipping_world.py and
own_origins_world.py."""

import os
import time

import pytest

from tests.crash.own_origins_world import OwnOriginsWorld
from tests.crash.shipping_world import World

SCHEDULES = {World: 50, OwnOriginsWorld: 12}


@pytest.mark.parametrize(
    ("world_class", "part"), [*((World, part) for part in range(4)), *((OwnOriginsWorld, part) for part in range(2))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_schedules(world_class, part):
    """WBCACHE_TEST_SEED=SEED/PART repeats one."""
    given = os.environ.get("WBCACHE_TEST_SEED")
    first = time.time_ns() % 10**9
    seeds = [given] if given else [f"{first + number}/{part}" for number in range(SCHEDULES[world_class])]
    done = 0
    for seed in seeds:
        print(f"WBCACHE_TEST_SEED={seed}")
        world = world_class(seed)
        world.run()
        done += world.counts["commits"]
    assert done > 10 * len(seeds)
