# SPDX-License-Identifier: BSD-3-Clause
"""Hosts with a disk each, killed under load while one is filled and afterwards: in the end both disks are the volume.

WBCACHE_TEST_ROUNDS sets the number of rounds of kills.
"""

import os
import random
import time

import pytest

from tests.support import clients
from tests.support.matching import same
from tests.support.own_origins import MIB, PEER, garbage, own_origins, volume_at
from tests.support.peer_pair import PAGES
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences
from tests.support.stamped_load import load_until

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "4"))
LOADED = PAGES * 4096
"""Clients write so many bytes from the beginning."""


@pytest.mark.parametrize("killed", ["standby", "owner", "both"])
def test_killed_while_it_is_filled(folder, seed, killed):
    """kill -9 under load, and a new start: filling goes on, and what the standby had noted is not copied again."""
    size, blocks = 48 * MIB, blocks_of(PAGES)
    rest, settings = garbage(size - LOADED, 4), {"destage_delay": "0", **PEER}
    with own_origins(folder, bytes(LOADED) + rest, garbage(size)) as hosts, hosts.slow_disk(1, "20ms") as disk:
        standby, owner, noted = hosts.standby(1), hosts.owner(0, **settings), 0

        def end():
            nonlocal noted
            noted = hosts.wait_for_durable_fill(1, PAGES + 256)
            assert hosts.newest_superblock(1).is_inconsistent
            if killed != "standby":
                owner.kill()
            if killed != "owner":
                standby.kill()
                disk.forget()
                noted = hosts.newest_superblock(1).fill.filled
                hosts.standby(1)
                status = hosts.status(1)
                assert not status["consistent"] and status["filled_blocks"] >= noted

        writes = load_until(owner, end, seed, 1 << 40, PAGES)
        if killed != "standby":
            owner = hosts.owner(0, **settings)
        with clients.connection(owner.uri) as handle:
            check_after_crash([0] * len(blocks), writes, read_sequences(handle, blocks))
        hosts.wait_until_filled(1)
        if killed == "standby":
            assert not [offset for offset, _ in disk.written() if LOADED <= offset < noted << 12]
        content = volume_at(owner.uri)
        same(content[LOADED:], rest)
        hosts.drain_both(0)
        hosts.check_disks(content)


class KilledHosts:
    """Host 0 is the owner; each round one of the two is killed at some moment, or both are."""

    def __init__(self, hosts, choose):
        self._hosts, self._choose = hosts, choose
        self.standby, self.owner = self._start_standby(), None

    def _settings(self):
        return {"log_size": "8M", "ring_size": "1M", "destage_delay": self._choose.choice(("0", "1s", "1h")), **PEER}

    def _start_standby(self, **words):
        return self._hosts.standby(1, log_size="8M", **words)

    def start_owner(self):
        self.owner = self._hosts.owner(0, **self._settings())

    def kill_some(self):
        """The owner in any case."""
        for _ in range(self._choose.randint(0, 2)):
            time.sleep(self._choose.uniform(0.0, 0.8))
            status = self._hosts.status(1)
            print(f"  the standby is killed at {status['filled_blocks'] or status['consistent']}")
            self.standby.kill()
            words = {"force": "discard-log"} if self._choose.random() < 0.5 else {}
            self.standby = self._start_standby(**words)
        if self._choose.random() < 0.3:
            self._hosts.wait_until_in_order(0)
        time.sleep(self._choose.uniform(0.0, 1.5))
        self.owner.kill()
        if self._choose.random() < 0.3:
            self.standby.kill()
            self.standby = self._start_standby()


def test_killed_again_and_again(folder, seed):
    size, blocks, choose = 16 * MIB + 512, blocks_of(PAGES), random.Random(seed)
    rest, state, writes = garbage(size - LOADED, 4), [0] * len(blocks), []
    with own_origins(folder, bytes(LOADED) + rest, garbage(size)) as hosts, hosts.slow_disk(1, "15ms"):
        killed = KilledHosts(hosts, choose)
        for round_number in range(ROUNDS + 1):
            killed.start_owner()
            with clients.connection(killed.owner.uri) as handle:
                found = read_sequences(handle, blocks)
            check_after_crash(state, writes, found)
            state = found
            if round_number < ROUNDS:
                print(f"round {round_number}")
                first = (round_number + 1) << 40
                writes = load_until(killed.owner, killed.kill_some, f"{seed}/{round_number}", first, PAGES)
        content = volume_at(killed.owner.uri)
        same(content[LOADED:], rest)
        hosts.wait_until_in_order(0)
        hosts.drain_both(0)
        hosts.check_disks(content)
