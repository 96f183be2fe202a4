# SPDX-License-Identifier: BSD-3-Clause
"""Owner and standby, and links that are cut, in one direction too, or slow, and processes that are stopped for a while:
what was answered at `peer` while the standby counted is there after it takes over, and nothing is lost at the owner.

WBCACHE_TEST_ROUNDS sets the number of rounds of each kind.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.clients import REPOSITORY
from tests.support.nbdkit_server import START_LIMIT_S
from tests.support.networked_peers import networked
from tests.support.peer_pair import ORIGIN_BYTES, PeerPair
from tests.support.stopped import stop_process
from tests.support.takeover_rounds import TakeoverRounds

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "1"))
TIMEOUT_S = 1
PEER = {"flush": "peer", "fua": "peer", "peer_timeout": f"{TIMEOUT_S}s"}
LONGEST_TROUBLE_S = 2.5 * TIMEOUT_S


class SlowPeers(PeerPair):
    """Each is reached through a relay."""

    def __init__(self, folder):
        super().__init__(folder)
        self._relays = [None] * self.count

    def slow_down(self, number, seconds):
        """From now on everything that comes to that host, or from its standby, takes so long. Connections end."""
        self.end_relay(number)
        path = self._path(number)
        path.unlink(missing_ok=True)
        words = [sys.executable, "-m", "tests.support.delay_relay", path, self.sockets[number], str(seconds)]
        self._relays[number] = subprocess.Popen(words, cwd=REPOSITORY)
        deadline = time.monotonic() + START_LIMIT_S
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end_relay(self, number):
        if self._relays[number]:
            self._relays[number].kill()
            self._relays[number].wait()

    def uri_of(self, number):
        return f"nbd+unix:///?socket={self._path(number)}"

    def _path(self, number):
        return self.folder / f"relay{number}"


@pytest.fixture
def slow_hosts(folder):
    hosts = SlowPeers(folder)
    hosts.pair.make_origin(ORIGIN_BYTES)
    yield hosts
    hosts.pair.destroy()
    for number in range(hosts.count):
        hosts.end_relay(number)


@pytest.fixture
def hosts(folder):
    with networked(folder, 2) as hosts:
        yield hosts


def cut(now, choose):
    """In both directions, or one. Returns what ends it."""
    owner, other = now.number, 1 - now.number
    directions = choose.choice(([(owner, other), (other, owner)], [(owner, other)], [(other, owner)]))
    print(f"  cut: {directions}")
    for source, target in directions:
        now.hosts.network.cut(source, target)
    return now.hosts.network.heal


def stop_one(now, choose):
    """SIGSTOP of the owner or the standby. Returns what ends it."""
    server = choose.choice((now.owner, now.standbys[1 - now.number]))
    if not server.running:
        # nbdkit has aborted itself at a hang-up.
        return lambda: None
    print(f"  stopped: {'owner' if server is now.owner else 'standby'}")
    stop_process(server.pid)
    return lambda: server.running and os.kill(server.pid, signal.SIGCONT)


def trouble(choose, kinds):
    """What disturbs a round: troubles of these kinds, one after the other. The owner may die in the last one."""

    def disturb(now):
        if choose.random() < 0.7:
            now.wait_until_in_order()
        for _ in range(choose.randint(0, 2)):
            time.sleep(choose.uniform(0.0, 0.3))
            now.look()
            end = choose.choice(kinds)(now, choose)
            time.sleep(choose.uniform(0.0, LONGEST_TROUBLE_S))
            end()
            if choose.random() < 0.2:
                now.restart(1 - now.number)
            if choose.random() < 0.5:
                now.wait_until_in_order()
        time.sleep(choose.uniform(0.0, 0.3))
        now.look()
        if choose.random() < 0.7:
            choose.choice(kinds)(now, choose)
            time.sleep(choose.uniform(0.0, 1.5 * TIMEOUT_S))

    return disturb


def run_rounds(hosts, choose, seed, kinds, after, lost=("wait", "continue")):
    """`after(host)` undoes the last trouble, in which the owner on that host died."""
    rounds = TakeoverRounds(hosts, choose, seed, trouble(choose, kinds))
    for _ in range(ROUNDS):
        number = rounds.number
        rounds.run(peer_lost=choose.choice(lost), **PEER)
        after(number)
    rounds.finish(**PEER)


@pytest.mark.parametrize("lost", ["wait", "continue"])
def test_cut_links(hosts, seed, lost):
    choose = random.Random(seed)

    def after(number):
        hosts.network.heal()
        if choose.random() < 0.5:
            hosts.lose_memory(number)

    run_rounds(hosts, choose, seed, [cut], after, [lost])


def test_stopped_processes(hosts, seed):
    run_rounds(hosts, random.Random(seed), seed, [stop_one], lambda _: None)


def test_slow_links(slow_hosts, seed):
    """Some milliseconds each way, which change, as when the network has found another way."""
    choose = random.Random(seed)

    def slow_down(now=None, choose=choose):
        delays = [choose.uniform(0.001, 0.02) for _ in slow_hosts.sockets]
        print(f"  delays: {delays}")
        for number, delay in enumerate(delays):
            slow_hosts.slow_down(number, delay)
        return lambda: None

    slow_down()
    run_rounds(slow_hosts, choose, seed, [slow_down, stop_one], lambda _: slow_down())
