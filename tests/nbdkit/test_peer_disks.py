# SPDX-License-Identifier: BSD-3-Clause
"""The disk with the standby's log gets full or fails: the owner says so, goes on as peer-lost says, and loses nothing;
when the disk is well again, the standby catches up.

WBCACHE_TEST_ROUNDS sets the number of rounds of each kind.
"""

import contextlib
import os
import random
import threading
import time

import pytest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.log_disks import KINDS, LOG_BYTES
from tests.support.peer_pair import ORIGIN_BYTES, PeerPair
from tests.support.takeover_rounds import TakeoverRounds

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "1"))
TIMEOUT_S = 0.5
PEER = {"flush": "peer", "fua": "peer", "peer_timeout": f"{TIMEOUT_S * 1000:.0f}ms", "log_size": LOG_BYTES}


@pytest.fixture
def disks(request, folder):
    """Of both logs, and of the kind that is the test's parameter."""
    with contextlib.ExitStack() as stack:
        disks = []
        for number in range(2):
            place = folder / f"disk{number}"
            place.mkdir()
            disks.append(stack.enter_context(KINDS[request.param](place)))
        yield disks


@pytest.fixture
def disk(disks):
    """Of the standby's log."""
    return disks[1]


@pytest.fixture
def hosts(folder, disks):
    hosts = PeerPair(folder)
    hosts.logs = [disk.log for disk in disks]
    hosts.pair.make_origin(ORIGIN_BYTES)
    yield hosts
    hosts.pair.destroy()


@contextlib.contextmanager
def owner_of_failing(hosts, disk, **settings):
    """(owner, standby, a connection to the owner): the standby is up to date, and its disk fails from now on."""
    standby = hosts.standby(1, log_size=LOG_BYTES)
    owner = hosts.owner(0, **PEER, **settings)
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        handle.flush()
        hosts.wait_until_up_to_date(0)
        disk.fail()
        yield owner, standby, handle


def is_in_order(facts):
    return facts["state"] == "up-to-date" and facts["counts"]


def watch(hosts, disk, counts):
    """For a while the status has the reason why the standby takes nothing."""
    for _ in range(8):
        facts = hosts.peer_facts(0)
        assert disk.words in facts["problem"] and facts["counts"] == counts, facts
        time.sleep(TIMEOUT_S / 4)
    said = what_status_says(hosts)
    assert ("counts" if counts else "LEFT OUT") in said and disk.words in said, said


def what_status_says(hosts):
    _, said, errors = wbcache("status", hosts.controls[0])
    assert not errors
    (line,) = (line for line in said.splitlines() if line.startswith("peer"))
    return line


@pytest.mark.parametrize("disks", ["syncs"], indirect=True)
def test_waiting_for_a_failing_disk(hosts, disk):
    """peer-lost=wait: flushes wait, other requests do not, and the reason stays in the status."""
    with owner_of_failing(hosts, disk) as (owner, standby, handle):
        handle.pwrite(b"y" * 4096, 4096)
        done = threading.Event()
        thread = threading.Thread(target=lambda: (handle.flush(), done.set()))
        thread.start()
        hosts.wait_until(0, lambda facts: facts["problem"])
        watch(hosts, disk, counts=True)
        assert not done.is_set()
        with clients.connection(owner.uri) as other:
            other.pwrite(b"z" * 4096, 8192)
        disk.heal()
        if disk.stays_failed:
            standby.kill()
            hosts.standby(1, log_size=LOG_BYTES)
        assert done.wait(10), what_status_says(hosts)
        thread.join()


@pytest.mark.parametrize("disks", ["full", "writes"], indirect=True)
def test_going_on_without_a_failing_disk(hosts, disk):
    """peer-lost=continue: the standby is left out, though it can be reached, and stays so until its disk is well."""
    with owner_of_failing(hosts, disk, peer_lost="continue") as (owner, standby, handle):
        handle.pwrite(b"y" * 4096, 4096)
        started = time.monotonic()
        handle.flush()
        assert time.monotonic() - started < 5
        handle.pwrite(b"y" * 4096, 0)
        started = time.monotonic()
        handle.flush()
        assert time.monotonic() - started < TIMEOUT_S
        watch(hosts, disk, counts=False)
        assert owner.stderr_text().count("is left out (peer-lost=continue)") == 1, owner.describe()
        disk.heal()
        if disk.stays_failed:
            standby.kill()
            standby = hosts.standby(1, log_size=LOG_BYTES)
        hosts.wait_until(0, is_in_order)
        handle.pwrite(b"z" * 4096, 8192)
        handle.flush()
        owner.kill()
    standby.stop()
    with hosts.taken_over(1, log_size=LOG_BYTES) as handle:
        assert handle.pread(12288, 0) == b"y" * 4096 + b"y" * 4096 + b"z" * 4096


def failing(disks, choose):
    """What disturbs a round: the standby's disk fails for a while, or until the owner has died."""

    def disturb(now):
        other = 1 - now.number
        disk = disks[other]
        if choose.random() < 0.7:
            now.wait_until_in_order(log_size=LOG_BYTES)
        for _ in range(choose.randint(1, 2)):
            time.sleep(choose.uniform(0.0, 0.3))
            now.look()
            disk.fail()
            time.sleep(choose.uniform(0.0, 2.5 * TIMEOUT_S))
            if choose.random() < 0.3:
                print("  the owner dies while the disk fails")
                break
            disk.heal()
            if disk.stays_failed or choose.random() < 0.3:
                now.restart(other, log_size=LOG_BYTES)
            if choose.random() < 0.5:
                now.wait_until_in_order(log_size=LOG_BYTES)
        now.look()
        time.sleep(choose.uniform(0.0, 0.2))

    return disturb


@pytest.mark.parametrize("disks", KINDS, indirect=True)
def test_failing_under_load(hosts, disks, seed):
    choose = random.Random(seed)
    rounds = TakeoverRounds(hosts, choose, seed, failing(disks, choose), log_size=LOG_BYTES)
    for _ in range(ROUNDS):
        rounds.run(peer_lost=choose.choice(("wait", "continue")), **PEER)
        for disk in disks:
            disk.heal()
    rounds.finish(**PEER)
