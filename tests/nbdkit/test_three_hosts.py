# SPDX-License-Identifier: BSD-3-Clause
"""An owner with two standbys, any of which is killed: after the owner's death either standby that counted takes over,
and has what was durable at `peer`.

WBCACHE_TEST_ROUNDS sets the number of rounds.
"""

import os
import random
import time

import pytest

from tests.support.networked_peers import networked
from tests.support.takeover_rounds import TakeoverRounds, end_standby

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "1"))
PEER = {"flush": "peer", "fua": "peer", "peer_timeout": "1s"}


@pytest.fixture
def hosts(folder):
    with networked(folder, 3) as hosts:
        yield hosts


def killer(choose):
    """What disturbs a round: standbys are killed, and come back soon, later, or not at all."""

    def disturb(now):
        if choose.random() < 0.7:
            for peer in range(2):
                now.hosts.wait_until(now.number, lambda facts: facts["state"] == "up-to-date", peer=peer)
        for _ in range(choose.randint(1, 3)):
            time.sleep(choose.uniform(0.0, 0.3))
            now.look()
            other = choose.choice(list(now.standbys))
            print(f"  host {other} is killed")
            end_standby(now.standbys[other], by_signal=True)
            time.sleep(choose.choice((0.0, 0.5, 1.5)))
            now.look()
            if choose.random() < 0.3:
                break
            now.standbys[other] = now.hosts.standby(other)
        time.sleep(choose.uniform(0.0, 1.0))
        now.look()
        time.sleep(choose.uniform(0.0, 0.2))

    return disturb


def test_kills_of_any(hosts, seed):
    choose = random.Random(seed)
    rounds = TakeoverRounds(hosts, choose, seed, killer(choose))
    for _ in range(ROUNDS):
        number = rounds.number
        rounds.run(peer_lost=choose.choice(("wait", "continue")), **PEER)
        if choose.random() < 0.5:
            hosts.lose_memory(number)
    rounds.finish(**PEER)
