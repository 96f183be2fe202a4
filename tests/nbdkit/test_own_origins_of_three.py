# SPDX-License-Identifier: BSD-3-Clause
"""Three hosts with a disk each, any of which is killed: after the owner's death a standby that was up to date and had
been filled takes over with its own disk and log, and has what was durable at `peer`.

WBCACHE_TEST_ROUNDS sets the number of rounds.
"""

import os
import random
import time

from tests.support.own_origins import PEER, garbage, own_origins
from tests.support.peer_pair import ORIGIN_BYTES
from tests.support.takeover_rounds import TakeoverRounds, end_standby

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "2"))


def killer(choose):
    """What disturbs a round: standbys are killed, and come back soon, later, or not at all; disks are filled or not."""

    def disturb(now):
        if choose.random() < 0.7:
            for peer in range(2):
                now.hosts.wait_until(
                    now.number, lambda facts: facts["state"] == "up-to-date" and facts["counts"], peer=peer
                )
        for _ in range(choose.randint(0, 2)):
            time.sleep(choose.uniform(0.0, 0.5))
            now.look()
            other = choose.choice(list(now.standbys))
            print(f"  host {other} is killed")
            end_standby(now.standbys[other], by_signal=True)
            time.sleep(choose.choice((0.0, 0.5, 1.5)))
            now.look()
            if choose.random() < 0.3:
                break
            now.standbys[other] = now.hosts.standby(other, log_size="8M")
        time.sleep(choose.uniform(0.0, 2.0))
        now.look()
        time.sleep(choose.uniform(0.0, 0.2))

    return disturb


def test_kills_of_any(folder, seed):
    choose = random.Random(seed)
    with own_origins(folder, ORIGIN_BYTES, *(garbage(ORIGIN_BYTES, number) for number in range(2))) as hosts:
        rounds = TakeoverRounds(hosts, choose, seed, killer(choose), log_size="8M")
        for _ in range(ROUNDS):
            rounds.run(peer_lost=choose.choice(("wait", "continue")), log_size="8M", **PEER | {"peer_timeout": "1s"})
        hosts.pair.origin = hosts.disks[rounds.number]
        rounds.finish(log_size="8M", **PEER)
