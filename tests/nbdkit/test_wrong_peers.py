# SPDX-License-Identifier: BSD-3-Clause
"""Peers that cannot be what the owner takes them for: the status says why, and the volume goes on as peer-lost says."""

import contextlib
import struct
import threading
import time

import nbd
import pytest
from xxhash import xxh3_64_intdigest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.nbdkit_server import CachePair, running
from tests.support.network_namespaces import network
from wbcache_core.format import standby_state

PEER = {"flush": "peer", "fua": "peer", "peer_timeout": "1s"}


def flush_seconds(handle):
    """How long a flush takes."""
    started = time.monotonic()
    handle.flush()
    return time.monotonic() - started


def is_settled(hosts):
    """One of the two peers is refused, the other has everything."""
    states = sorted(hosts.peer_facts(0, peer)["state"] for peer in range(2))
    return states == ["refused", "up-to-date"]


def wait_until_settled(hosts):
    deadline = time.monotonic() + 20
    while not is_settled(hosts):
        assert time.monotonic() < deadline, wbcache("status", hosts.controls[0])
        time.sleep(0.02)


def assert_one_is_refused(hosts, owner):
    """The owner has one standby by two names, and waits for its peers."""
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        wait_until_settled(hosts)
        done = threading.Event()

        def flush():
            with contextlib.suppress(nbd.Error):
                handle.flush()
                done.set()

        thread = threading.Thread(target=flush)
        thread.start()
        assert not done.wait(1.5), "a flush at `peer` needs two standbys, and there is one"
        _, said, _ = wbcache("status", hosts.controls[0])
        assert "is the same standby as peer" in said and "name each standby once" in said, said
        owner.kill()
        thread.join()


def test_one_standby_by_two_paths(hosts, folder):
    hosts.standby(1)
    (folder / "alias").symlink_to(hosts.sockets[1])
    owner = hosts.owner(0, **PEER | {"peer": [hosts.uri_of(1), f"nbd+unix:///?socket={folder / 'alias'}"]})
    assert_one_is_refused(hosts, owner)


def test_one_standby_by_two_addresses(hosts):
    with network(1) as alone:
        prefix = alone.command(0)
        standby = hosts.pair.start_bare(
            role="standby", log=hosts.logs[1], prefix=prefix, port=10810, plain_tcp="allow"
        )
        peers = ["nbd://127.0.0.1:10810", "nbd://localhost:10810"]
        owner = hosts.owner(0, prefix=prefix, **PEER | {"peer": peers})
        assert_one_is_refused(hosts, owner)
        standby.stop()


def test_one_standby_by_two_names_and_going_on(hosts, folder):
    """peer-lost=continue: the second name is left out, the first counts."""
    standby = hosts.standby(1)
    (folder / "alias").symlink_to(hosts.sockets[1])
    peers = [hosts.uri_of(1), f"nbd+unix:///?socket={folder / 'alias'}"]
    owner = hosts.owner(0, peer_lost="continue", **PEER | {"peer": peers})
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        assert flush_seconds(handle) < 5
        wait_until_settled(hosts)
        counts = [hosts.peer_facts(0, peer)["counts"] for peer in range(2)]
        states = [hosts.peer_facts(0, peer)["state"] for peer in range(2)]
        assert [state == "up-to-date" for state in states] == counts, (states, counts)
        for number in range(3):
            handle.pwrite(number.to_bytes(4, "big") * 1024, 4096)
            assert flush_seconds(handle) < 0.5
            time.sleep(0.5)
        owner.kill()
    standby.stop()
    with hosts.taken_over(1) as handle:
        assert handle.pread(8192, 0) == b"x" * 4096 + (2).to_bytes(4, "big") * 1024


def test_two_owners(hosts, folder):
    """The second one has another volume: it is refused, and the first loses nothing but the time to connect again."""
    standby = hosts.standby(1)
    owner = hosts.owner(0, log_level="info", **PEER)
    (folder / "other").mkdir()
    other = CachePair(folder / "other")
    other.make_origin(1 << 20)
    try:
        with clients.connection(owner.uri) as handle:
            handle.pwrite(b"x" * 4096, 0)
            handle.flush()
            control = folder / "other" / "c"
            second = other.start(control=control, peer=hosts.uri_of(1), peer_lost="continue", **PEER)
            with clients.connection(second.uri) as wrong:
                wrong.pwrite(b"z" * 4096, 0)
                wrong.flush()
                for number in range(4):
                    handle.pwrite(number.to_bytes(4, "big") * 1024, 4096)
                    assert flush_seconds(handle) < 2
                    time.sleep(0.5)
                _, said, _ = wbcache("status", control)
                assert "refused, LEFT OUT" in said and "has the log of another volume" in said, said
                text = owner.stderr_text()
                assert "another connection has taken its place" in text and "another server" in text, text
        owner.kill()
        standby.stop()
    finally:
        other.destroy()
    with hosts.taken_over(1) as handle:
        assert handle.pread(8192, 0) == b"x" * 4096 + (3).to_bytes(4, "big") * 1024


@pytest.mark.parametrize("version", [0, 1, 3])
def test_another_version_of_the_state(hosts, folder, version):
    page = bytearray(standby_state.encode(standby_state.blank(32 << 20)))
    struct.pack_into("<I", page, 8, version)
    struct.pack_into("<Q", page, 4088, xxh3_64_intdigest(bytes(page[:4088])))
    (folder / "page").write_bytes(page)
    with running(folder, ["file", folder / "page"]) as server:
        owner = hosts.owner(0, peer_lost="continue", **PEER | {"peer": server.uri})
        with clients.connection(owner.uri) as handle:
            handle.pwrite(b"x" * 4096, 0)
            assert flush_seconds(handle) < 5
            _, said, _ = wbcache("status", hosts.controls[0])
            assert f"state of a standby of version {version}; this wbcache reads version 2" in said, said
            assert "refused, LEFT OUT" in said and "use the same version of wbcache on both hosts" in said, said
        owner.stop()
        assert (folder / "page").read_bytes() == page
