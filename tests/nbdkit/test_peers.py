# SPDX-License-Identifier: BSD-3-Clause
"""Two real servers, an owner and its standby: what is answered at `peer` is on both, whoever is killed.

WBCACHE_TEST_ROUNDS sets the number of kills of each kind.
"""

import os
import random
import signal
import time

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import running
from tests.support.peer_pair import PAGES, begin_flush
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences
from tests.support.stamped_load import load_until
from tests.support.stopped import stop_process

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "10"))
PEER = {"flush": "peer", "fua": "peer", "peer_timeout": "2s"}


def found_at(uri, blocks):
    with clients.connection(uri) as handle:
        return read_sequences(handle, blocks)


def test_a_flush_is_on_both(hosts):
    with hosts.both(**PEER) as (owner, standby):
        hosts.check_that_a_flush_is_on_both(owner, standby)


def test_takeover_again_and_again(hosts, seed):
    """Each round the owner is killed under load, and becomes the standby of its standby, which is promoted or started
    again; or, if the standby does not know that it has everything, the owner is started again."""
    choose, blocks = random.Random(seed), blocks_of(PAGES)
    state, writes, owner_number, owner = [0] * len(blocks), [], 0, None
    for round_number in range(ROUNDS):
        settings = {"ring_size": choose.choice(("1M", "8M")), "destage_delay": choose.choice(("0", "1s", "1h"))}
        settings |= {"compress": "zstd"} if choose.random() < 0.3 else {}
        print(f"round {round_number}: node {owner_number}, {'promoted' if owner else 'started'}, then {settings}")
        standby = hosts.standby(
            1 - owner_number, force="discard-log", origin=hosts.pair.origin, peer=hosts.uri_of(owner_number),
            **PEER, **settings,
        )  # fmt: skip
        owner = owner or hosts.owner(owner_number, force="take-over", **PEER, **settings)
        found = found_at(owner.uri, blocks)
        check_after_crash(state, writes, found)
        state = found

        def end(owner=owner):
            time.sleep(choose.uniform(0.05, 0.5))
            owner.kill()

        writes = load_until(owner, end, f"{seed}/{round_number}", (round_number + 1) << 40, PAGES, 0.05)
        is_complete = ask(hosts.controls[1 - owner_number], "status")["takeover"]["complete"]
        print(f"  {len(writes)} writes, {sum(write.durable for write in writes)} of them durable; {is_complete}")
        owner = None
        if is_complete:
            owner_number = 1 - owner_number
        if is_complete and choose.random() < 0.5:
            answer = ask(hosts.controls[owner_number], "promote")
            assert answer["ok"], answer
            owner = standby
        elif choose.random() < 0.5:
            standby.kill()
        else:
            standby.stop()
    if owner:
        owner.kill()
    with hosts.taken_over(owner_number) as handle:
        check_after_crash(state, writes, read_sequences(handle, blocks))


def test_the_owner_comes_back(hosts, seed):
    """Each round owner or standby is killed under load, and comes back in its role: the standby's tail goes."""
    choose, blocks = random.Random(seed), blocks_of(PAGES)
    state, writes = [0] * len(blocks), []
    standby = hosts.standby(1)
    for round_number in range(ROUNDS):
        with hosts.pair.serve(
            log=hosts.logs[0], control=hosts.controls[0], peer=hosts.uri_of(1), check=False, **PEER,
            tolerate=["was killed by signal 9", "peer '"], ring_size="1M",
        ) as owner:  # fmt: skip
            found = found_at(owner.uri, blocks)
            check_after_crash(state, writes, found)
            state = found
            if choose.random() < 0.7:
                hosts.wait_until_up_to_date(0)
            kill_standby = choose.random() < 0.5

            def end(owner=owner, kill_standby=kill_standby):
                nonlocal standby
                time.sleep(choose.uniform(0.05, 0.3))
                if kill_standby:
                    standby.kill()
                    standby = hosts.standby(1)
                    time.sleep(choose.uniform(0.0, 0.5))
                owner.kill()

            writes = load_until(owner, end, f"{seed}/{round_number}", (round_number + 1) << 40, PAGES, 0.05)
    with hosts.pair.serve(log=hosts.logs[0], control=hosts.controls[0], peer=hosts.uri_of(1), **PEER) as owner:
        check_after_crash(state, writes, found_at(owner.uri, blocks))
        hosts.wait_until_up_to_date(0)
        assert "refused" not in standby.stderr_text(), standby.describe()


def test_waiting_for_a_peer_that_is_away(hosts):
    """peer-lost=wait: a flush at `peer` waits, others do not, and the origin gets nothing."""
    owner = hosts.owner(0, **PEER, destage_delay="0", low_watermark="0")
    before = hosts.pair.origin.read_bytes()
    with clients.connection(owner.uri) as handle:
        # The first writes need to know what of its log the peer needs.
        thread, done = begin_flush(handle)
        assert not done.wait(3)
        assert hosts.pair.origin.read_bytes() == before
        hosts.standby(1)
        assert done.wait(10)
        thread.join()
    owner.stop()


def test_somebody_decides_to_go_on(hosts):
    """peer-lost=wait, and `wbcache set peer-lost=continue` while a flush waits; then back again."""
    standby = hosts.standby(1)
    owner = hosts.owner(0, **PEER | {"peer_timeout": "1s"})
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"y" * 4096, 4096)
        handle.flush()
        hosts.wait_until_up_to_date(0)
        hosts.wait_until_told(1, "")
        standby.kill()
        thread, done = begin_flush(handle)
        assert not done.wait(3)
        assert wbcache("set", hosts.controls[0], "peer-lost=continue")[0] == 0
        assert done.wait(10)
        thread.join()
        # That comes after the flush has been let go.
        wait_until(lambda: "It believes that it has everything" in owner.stderr_text())
        hosts.standby(1)
        hosts.wait_until(0, lambda facts: facts["counts"] and facts["state"] == "up-to-date")
        hosts.wait_until_told(1, "goes on without it")
        assert wbcache("set", hosts.controls[0], "peer-lost=wait")[0] == 0
        hosts.wait_until_told(1, "")
    owner.stop()


def test_going_on_without_a_peer(hosts):
    """peer-lost=continue: after peer-timeout nothing waits; when it is back it catches up and counts again."""
    standby = hosts.standby(1)
    owner = hosts.owner(0, flush="peer", peer_timeout="1s", peer_lost="continue", destage_delay="0", low_watermark="0")
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        handle.flush()
        stop_process(standby.pid)
        handle.pwrite(b"y" * 4096, 4096)
        started = time.monotonic()
        handle.flush()
        assert 0.5 < time.monotonic() - started < 5
        assert not hosts.peer_facts(0)["counts"]
        for number in range(2000):
            handle.pwrite(number.to_bytes(4, "big") * 4096, number % 100 * 4096)
        handle.flush()
        os.kill(standby.pid, signal.SIGCONT)
        hosts.wait_until(0, lambda facts: facts["counts"] and facts["state"] == "up-to-date")
        handle.pwrite(b"z" * 4096, 8192)
        handle.flush()
    owner.kill()
    standby.stop()
    with hosts.taken_over(1) as handle:
        assert handle.pread(4096, 8192) == b"z" * 4096
        assert handle.pread(4096, 4096) == (1901).to_bytes(4, "big") * 1024


def test_many_laps_and_a_small_log(hosts, seed):
    """The places of the log are written again and again, on both sides."""
    with hosts.both(**PEER, log_size="8M", ring_size="1M", destage_delay="0") as (owner, standby):
        with clients.connection(owner.uri) as handle:
            for number in range(400):
                handle.pwrite(number.to_bytes(4, "big") * 16384, number % 30 * 65536)
                if number % 50 == 0:
                    handle.flush()
            handle.flush()
        hosts.wait_until_up_to_date(0)
        owner.stop()
        standby.stop()
    with hosts.taken_over(1, log_size="8M") as handle:
        assert handle.pread(65536, 9 * 65536) == (399).to_bytes(4, "big") * 16384


def test_what_a_standby_is_asked(hosts):
    hosts.standby(1)
    status, said, errors = wbcache("status", hosts.controls[1])
    assert (status, errors) == (0, "") and "blank: no owner has connected yet" in said
    for words, reason in (
        (("metrics", hosts.controls[1]), "is a standby, which does not count what it does"),
        (("top", "--once", hosts.controls[1]), "is a standby, which does not count what it does"),
        (("events", hosts.controls[1]), "this is a standby, which has no 'events'"),
    ):
        status, said, errors = wbcache(*words)
        assert (status, said) == (2, "") and reason in errors, words


def test_exports_with_the_levels_of_peers(hosts):
    with hosts.both(peer_timeout="2s") as (owner, _):
        with clients.connection(f"nbd+unix:///ack=peer?socket={owner.socket}") as handle:
            handle.pwrite(b"x" * 4096, 0)
            assert hosts.peer_facts(0)["committed"] >= 3
        listed = clients.run("nbdinfo", "--list", owner.uri)
        assert 'export="ack=peer-ram"' in listed and 'export="ack=peer"' in listed
    with hosts.pair.serve(log=hosts.logs[0], tolerate=["there is no export"]) as server:
        with pytest.raises(nbd.Error), clients.connection(f"nbd+unix:///ack=peer?socket={server.socket}"):
            pass


def test_another_volume_is_refused(hosts):
    with hosts.both(**PEER) as (owner, _):
        with clients.connection(owner.uri) as handle:
            handle.flush()
            hosts.wait_until_up_to_date(0)
    hosts.standby(1)
    hosts.logs[0].unlink()
    owner = hosts.owner(0, force="other-log", **PEER)
    with clients.connection(owner.uri) as handle:
        assert handle.get_size()
        facts = hosts.wait_until(0, lambda facts: facts["state"] == "refused")
    assert "another volume" in facts["problem"] and "force=discard-log" in facts["problem"]
    owner.kill()


def test_a_smaller_log_is_refused(hosts):
    hosts.standby(1, log_size="16M")
    owner = hosts.owner(0, **PEER)
    with clients.connection(owner.uri):
        facts = hosts.wait_until(0, lambda facts: facts["state"] == "refused")
    assert "only 16.0 MiB, this one 32.0 MiB" in facts["problem"]
    owner.kill()


def test_a_server_that_is_no_standby(hosts, folder):
    with running(folder, ["memory", "1M"]) as server:
        owner = hosts.owner(0, **(PEER | {"peer": server.uri}))
        with clients.connection(owner.uri):
            facts = hosts.wait_until(0, lambda facts: facts["state"] == "refused")
        assert "does not answer as a standby" in facts["problem"]
        owner.kill()


def test_an_owner_that_was_overtaken_stops(hosts):
    """The standby took over and is a standby again, with a later epoch: the former owner takes no more writes."""
    with hosts.both(**PEER) as (owner, _):
        with clients.connection(owner.uri) as handle:
            handle.pwrite(b"x" * 4096, 0)
            handle.flush()
    with hosts.taken_over(1, check=False) as handle:
        handle.pwrite(b"y" * 4096, 0)
        handle.flush()
    hosts.standby(1)
    owner = hosts.owner(0, force="origin-changed", **PEER)
    with clients.connection(owner.uri) as handle:
        hosts.wait_until(0, lambda facts: facts["state"] == "refused")
        with pytest.raises(nbd.Error):
            handle.pwrite(b"z" * 4096, 0)
            handle.flush()
    owner.kill()
