# SPDX-License-Identifier: BSD-3-Clause
"""python3 -m tests.crash.shipping_soak [SCHEDULES [FIRST [own]]]: many schedules of shipping_world.py, in all
processors; with `own`, of own_origins_world.py."""

import collections
import logging
import multiprocessing
import sys
import time

from tests.crash.own_origins_world import OwnOriginsWorld
from tests.crash.shipping_world import World

_PIECE = 50


def run(work):
    """Some schedules from that number on; returns what happened in them."""
    world_class, first = work
    logging.disable(logging.CRITICAL)
    counts = collections.Counter()
    for number in range(first, first + _PIECE):
        world = world_class(f"soak/{number}")
        try:
            world.run()
        except BaseException as error:
            raise AssertionError(f"WBCACHE_TEST_SEED=soak/{number}: {error!r}") from error
        counts.update(world.counts)
        counts["schedules"] += 1
    return counts


def main():
    """Exit status 1 at the first failure, whose seed is printed."""
    schedules = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    world_class = OwnOriginsWorld if sys.argv[3:] == ["own"] else World
    counts, began = collections.Counter(), time.monotonic()
    with multiprocessing.Pool() as pool:
        for found in pool.imap_unordered(run, [(world_class, at) for at in range(first, first + schedules, _PIECE)]):
            counts += found
            if counts["schedules"] % 1000 == 0:
                print(dict(counts), f"in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{dict(counts)} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
