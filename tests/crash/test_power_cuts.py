# SPDX-License-Identifier: BSD-3-Clause
"""Power cuts at every write and sync of simulated runs: what was promised is there, and nothing is mixed up.

For each scenario the explorer goes on to new seeds until it has verified CUTS different cuts. After a share of them it
opens past moments, COMPARISONS of them at least. WBCACHE_TEST_SEED sets the first seed; a failure prints the command
that repeats it. soak.sh goes on for as long as one likes.
"""

import os

import pytest

from tests.crash.explorer import Chain
from tests.crash.scenarios import SCENARIOS

CUTS = 24_000 // len(SCENARIOS) + 1
COMPARISONS = 10_000 // len(SCENARIOS) + 1
"""Of past moments, in each scenario."""
SEED = os.environ.get("WBCACHE_TEST_SEED", "1")


AT_LEAST = 20_000
"""In all scenarios together."""


def test_there_are_enough():
    assert CUTS * len(SCENARIOS) >= AT_LEAST


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cuts(name, record_property):
    explored = killed = compared = places = number = 0
    while explored < CUTS:
        chain = Chain(name, f"{SEED}.{number}")
        chain.explore(CUTS - explored)
        explored += chain.cuts
        killed += chain.kills
        compared += chain.compared
        places += chain.events
        number += 1
    assert explored >= CUTS
    assert compared >= COMPARISONS
    for key, value in (
        ("power cuts", explored - killed),
        ("deaths of processes", killed),
        ("places of power cuts", places),
        ("runs with power cuts", number),
        ("past moments compared", compared),
    ):
        record_property(key, value)
