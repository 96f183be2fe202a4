# SPDX-License-Identifier: BSD-3-Clause
"""Power cuts at every write and sync of simulated runs: what was promised is there, and nothing is mixed up.

For each scenario the explorer goes on to new seeds until it has verified CUTS different cuts. WBCACHE_TEST_SEED sets
the first seed; a failure prints the command that repeats it. soak.sh goes on for as long as one likes.
"""

import os

import pytest

from tests.crash.explorer import Chain
from tests.crash.scenarios import SCENARIOS

CUTS = 1260
SEED = os.environ.get("WBCACHE_TEST_SEED", "1")


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cuts(name):
    explored = number = 0
    while explored < CUTS:
        explored += Chain(name, f"{SEED}.{number}").explore(CUTS - explored)
        number += 1
