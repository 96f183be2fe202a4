# SPDX-License-Identifier: BSD-3-Clause
"""wbcache promote with real servers: a standby takes over while it runs."""

import os
import signal
import time

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.nbdkit_server import running
from tests.support.peer_pair import PAGES
from tests.support.stopped import stop_process
from wbcache_core.format import standby_state

PEER = {"flush": "peer", "fua": "peer", "peer_timeout": "1s"}


def promote(hosts, number, *words):
    return wbcache("promote", hosts.controls[number], *words)


@pytest.fixture
def shared_origin(hosts, folder):
    """An NBD server in front of the origin, which lets two servers in."""
    with running(folder, ["file", hosts.pair.origin]) as server:
        yield server.uri


def ready(hosts, origin=None, **parameters):
    """An owner that has written and its standby, which is up to date."""
    # Each host has a /dev/shm of its own; these two have the same one.
    settings = {"destage_delay": "1h", "origin": origin or hosts.pair.origin, "ring_memory": "private"}
    settings["history"] = "1G"
    standby = hosts.standby(1, **settings)
    owner = hosts.owner(0, **(PEER | settings | parameters))
    with clients.connection(owner.uri) as handle:
        for number in range(100):
            handle.pwrite(number.to_bytes(4, "big") * 1024, number * 4096)
        handle.zero(8192, 4096)
        handle.trim(4096, 400 * 4096)
        handle.flush()
        hosts.wait_until_up_to_date(0)
    return owner, standby


def check(uri):
    with clients.connection(uri) as handle:
        assert handle.get_size() == PAGES * 4096 + 512
        assert handle.pread(4096, 0) == bytes(4096)
        assert handle.pread(8192, 4096) == bytes(8192)
        for number in range(3, 100):
            assert handle.pread(4096, number * 4096) == number.to_bytes(4, "big") * 1024, number
        handle.pwrite(b"n" * 4096, 0)
        handle.flush()


def test_a_standby_takes_over(hosts):
    owner, standby = ready(hosts)
    assert ask(hosts.controls[1], "status")["takeover"] == {"complete": True, "lacks": None}
    status, said, _ = wbcache("status", hosts.controls[1])
    assert status == 0 and "has everything (wbcache promote)" in said
    owner.kill()
    status, said, errors = promote(hosts, 1)
    assert (status, errors) == (0, "") and said.startswith("took over in epoch 1000, from LSN ")
    check(standby.uri)
    status, said, errors = wbcache("status", hosts.controls[1])
    assert status == 0 and "writable" in said
    assert [one["event"] for one in ask(hosts.controls[1], "events", after=0)["events"]].count("promoted") == 1
    status, said, errors = promote(hosts, 1)
    assert status == 2 and "is the owner of the volume already" in errors
    standby.stop()
    # The next start is an ordinary one.
    with hosts.pair.serve(log=hosts.logs[1]) as server, clients.connection(server.uri) as handle:
        assert handle.pread(4096, 0) == b"n" * 4096
        assert handle.pread(4096, 99 * 4096) == (99).to_bytes(4, "big") * 1024


def test_it_is_refused_while_the_owner_is_connected(hosts, shared_origin):
    # It counts as connected for a while after its last sign, which has to be longer than the command takes to start.
    owner, standby = ready(hosts, shared_origin, peer_timeout="20s")
    stop_process(owner.pid)
    status, said, errors = promote(hosts, 1)
    assert (status, said) == (2, "") and "the owner is connected" in errors and "--force=owner-alive" in errors
    status, said, errors = promote(hosts, 1, "--force=owner-alive")
    assert (status, errors) == (0, "")
    check(standby.uri)
    os.kill(owner.pid, signal.SIGCONT)
    # The former owner notices, and takes nothing any more.
    facts = hosts.wait_until(0, lambda facts: facts["state"] == "refused")
    assert "another server has taken over" in facts["problem"]
    with clients.connection(owner.uri) as handle, pytest.raises(nbd.Error):
        handle.pwrite(b"z" * 4096, 0)
        handle.flush()
    owner.kill()
    with clients.connection(standby.uri) as handle:
        assert handle.pread(4096, 0) == b"n" * 4096


def test_an_owner_that_is_silent_for_long_is_taken_for_lost(hosts, shared_origin):
    owner, standby = ready(hosts, shared_origin, peer_timeout="500ms")
    stop_process(owner.pid)
    deadline = time.monotonic() + 20
    while promote(hosts, 1)[0]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    check(standby.uri)
    owner.kill()


@pytest.mark.parametrize("words", ["", "--force=owner-alive"])
def test_it_is_refused_if_something_may_be_lacking(hosts, words):
    """Restarted, the standby does not know; with peer-lost=continue nobody knows."""
    owner, standby = ready(hosts)
    standby.stop()
    owner.kill()
    standby = hosts.standby(1, origin=hosts.pair.origin)
    status, said, errors = promote(hosts, 1, *filter(None, [words]))
    assert (status, said) == (2, "") and "has not told this standby since its start" in errors
    assert "needs --force=incomplete" in wbcache("status", hosts.controls[1])[1]
    assert promote(hosts, 1, "--force=incomplete")[0] == 0
    check(standby.uri)


def test_with_an_owner_that_goes_on_alone_it_takes_a_word(hosts):
    owner, standby = ready(hosts, peer_lost="continue", peer_timeout="10s")
    owner.kill()
    status, said, errors = promote(hosts, 1)
    assert (status, said) == (2, "") and "the owner goes on without it" in errors
    assert promote(hosts, 1, "--force=incomplete")[0] == 0
    check(standby.uri)


def test_bad_input(hosts):
    standby = hosts.standby(1, origin=hosts.pair.origin)
    status, said, errors = promote(hosts, 1)
    assert (status, said) == (2, "") and "is blank: no owner has connected" in errors
    status, said, errors = promote(hosts, 1, "--force=take-over")
    assert (status, said) == (2, "") and "'take-over' is not one of owner-alive, incomplete" in errors
    standby.stop()
    hosts.standby(1)
    status, said, errors = promote(hosts, 1)
    assert (status, said) == (2, "") and "started without origin=" in errors
    with hosts.pair.serve(control=hosts.controls[0]):
        status, said, errors = promote(hosts, 0)
        assert (status, said) == (2, "") and "owner of the volume already" in errors


def test_a_takeover_that_fails_leaves_a_standby(hosts):
    """The origin is in use, then gone, then another one; each time the owner goes on, and then it works."""
    owner, standby = ready(hosts)
    origin = hosts.pair.origin
    status, _, errors = promote(hosts, 1, "--force=owner-alive")
    assert status == 2 and "in use" in errors
    moved = origin.with_name("moved")
    origin.rename(moved)
    status, _, errors = promote(hosts, 1, "--force=owner-alive")
    assert status == 2 and "origin.img" in errors
    origin.write_bytes(b"\1" * moved.stat().st_size)
    status, _, errors = promote(hosts, 1, "--force=owner-alive")
    assert status == 2 and "has changed behind its cache" in errors
    moved.rename(origin)
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"y" * 4096, 500 * 4096)
        handle.flush()
    hosts.wait_until_up_to_date(0)
    owner.kill()
    assert promote(hosts, 1)[0] == 0
    check(standby.uri)
    with clients.connection(standby.uri) as handle:
        assert handle.pread(4096, 500 * 4096) == b"y" * 4096


def test_exports_before_and_after(hosts):
    owner, standby = ready(hosts)
    with pytest.raises(nbd.Error), clients.connection(standby.uri):
        pass
    assert 'export="log"' in clients.run("nbdinfo", "--list", standby.uri)
    owner.kill()
    assert promote(hosts, 1)[0] == 0
    listed = clients.run("nbdinfo", "--list", standby.uri)
    assert 'export=""' in listed and 'export="log"' not in listed
    log_uri = standby.uri.replace(":///", ":///log")
    with clients.connection(log_uri) as handle:
        state = standby_state.decode(memoryview(bytes(handle.pread(4096, 0))))
        assert state.epoch.number == 1000
        with pytest.raises(nbd.Error):
            handle.pwrite(bytes(4096), 0)


def parted(hosts):
    """The former owner has a commit that the new one does not have, and is a standby; returns the two servers."""
    owner, standby = ready(hosts, flush="log", fua="log", peer_timeout="5s")
    standby.kill()
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"t" * 12288, 4096)
        handle.flush()
    owner.kill()
    settings = {"origin": hosts.pair.origin, "ring_memory": "private"}
    # With a peer this time, which is going to be the former owner.
    promoted = hosts.standby(1, peer=hosts.uri_of(0), history="1G", **PEER, **settings)
    assert promote(hosts, 1, "--force=incomplete")[0] == 0
    return promoted, hosts.standby(0, **settings)


def test_the_tail_of_the_former_owner(hosts):
    """It takes nothing until its tail is given up, of which a copy is kept."""
    owner, former = parted(hosts)
    facts = hosts.wait_until(1, lambda facts: facts["state"] == "refused")
    assert "which this server does not have" in facts["problem"] and "wbcache rejoin" in facts["problem"]
    lsn = ask(hosts.controls[0], "status")["parted_at"]
    status, said, _ = wbcache("status", hosts.controls[0])
    assert f"the owner lacks what is here from LSN {lsn} on" in said
    status, said, errors = wbcache("rejoin", hosts.controls[0])
    assert (status, errors) == (1, "") and f"LSN {lsn} to {lsn + 4}, of epoch 1: 12.0 KiB in one commit" in said
    assert "Writes among them may have been answered at level ram, flushes at level log." in said
    taken = hosts.logs[0].read_bytes()
    target = hosts.folder / "tail"
    target.write_bytes(b"x")
    status, _, errors = wbcache("rejoin", hosts.controls[0], "--discard-tail", "--save", target)
    assert status == 2 and "exists already" in errors
    assert hosts.logs[0].read_bytes() == taken
    status, said, errors = wbcache("rejoin", hosts.controls[0], "--discard-tail")
    copy = hosts.logs[0].with_name(f"0.log.tail-{lsn}")
    assert (status, errors) == (0, "") and f"given up; a copy is in '{copy}'" in said
    hosts.wait_until_up_to_date(1)
    check(owner.uri)
    status, said, _ = wbcache("info", copy)
    assert status == 0 and f"LSN {lsn} to {lsn + 3}" in said, said
    with pytest.raises(AssertionError):
        check_pages(hosts.logs[0], lsn, b"t")
    check_pages(copy, lsn, b"t")
    status, said, _ = wbcache("rejoin", hosts.controls[0])
    assert status == 0 and "has not said" in said
    # And back again: nothing of the tail comes back.
    owner.kill()
    assert promote(hosts, 0)[0] == 0
    with clients.connection(former.uri) as handle:
        assert handle.pread(8192, 4096) == bytes(8192)
        assert handle.pread(4096, 0) == b"n" * 4096


def check_pages(log, lsn, letter):
    """The log has three pages of that letter after the descriptor of that LSN."""
    status, said, errors = wbcache("dump", log)
    assert status == 0, errors
    content = log.read_bytes()
    assert letter * 12288 in content and f"LSN {lsn}" in said, said
