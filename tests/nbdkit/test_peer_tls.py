# SPDX-License-Identifier: BSD-3-Clause
"""Between an owner and its standby, by TCP: TLS with certificates or a key, and nobody else gets in."""

import os
import socket
import time

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.peer_pair import begin_flush
from tests.support.tls_keys import Authority, psk_file

PEER = {"flush": "peer", "fua": "peer", "peer_timeout": "2s"}
LIMIT_S = 30
SEVERAL_ATTEMPTS_S = 1.5
HOSTS = ("dns_name = localhost", "ip_address = 127.0.0.1")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Folders of certificates and files of keys: {name: path}."""
    folder = tmp_path_factory.mktemp("keys")
    authority, other = Authority(folder / "authority"), Authority(folder / "other")
    made = {
        "server": authority.issue("server", "server", *HOSTS),
        "elsewhere": authority.issue("elsewhere", "server", "dns_name = elsewhere.example"),
        "client": authority.issue("client", "client"),
        "nobody": authority.issue("nobody", "client"),
        "stranger": other.issue("stranger", "client"),
        "impostor": other.issue("impostor", "client"),
        "psk": psk_file(folder / "key.psk"),
        "other-psk": psk_file(folder / "other.psk"),
    }
    # It knows the server, but not the other way round.
    (made["impostor"] / "ca-cert.pem").write_bytes(authority.certificate.read_bytes())
    for name in ("client-cert.pem", "client-key.pem"):
        (made["nobody"] / name).unlink()
    return made


@pytest.fixture
def port():
    with socket.socket() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        return endpoint.getsockname()[1]


def by_certificates(keys, name="server"):
    return ["--tls=require", f"--tls-certificates={keys[name]}", "--tls-verify-peer"]


def by_key(keys):
    return ["--tls=require", f"--tls-psk={keys['psk']}"]


def check_that_a_flush_is_on_both(hosts, standby, peer):
    hosts.check_that_a_flush_is_on_both(hosts.owner(0, **PEER, peer=peer), standby)


def refused(hosts, *peers):
    """What an owner says of peers that it does not get to, of each the problem."""
    with hosts.pair.serve(
        log=hosts.logs[0], control=hosts.controls[0], peer=peers[0], **PEER, check=False,
        filter_parameters=[f"peer={peer}" for peer in peers[1:]], tolerate=["cannot connect to peer"],
    ) as owner:  # fmt: skip
        with clients.connection(owner.uri):
            deadline = time.monotonic() + LIMIT_S
            while not all(facts["problem"] for facts in ask(hosts.controls[0], "status")["peers"]):
                assert time.monotonic() < deadline, ask(hosts.controls[0], "status")["peers"]
                time.sleep(0.05)
        time.sleep(SEVERAL_ATTEMPTS_S)
        facts = ask(hosts.controls[0], "status")["peers"]
        said = wbcache("status", hosts.controls[0])[1]
        logged = owner.stderr_text()
    for one in facts:
        assert one["state"] == "lost" and one["problem"] in said, one
        assert logged.count(one["problem"]) == 1, logged
    return [one["problem"] for one in facts]


def test_a_flush_is_on_both_by_certificates(hosts, keys, port):
    standby = hosts.standby(1, options=by_certificates(keys), port=port)
    check_that_a_flush_is_on_both(hosts, standby, f"nbds://localhost:{port}?tls-certificates={keys['client']}")


def test_a_flush_is_on_both_by_a_key(hosts, keys, port):
    standby = hosts.standby(1, options=by_key(keys), port=port)
    check_that_a_flush_is_on_both(hosts, standby, f"nbds://wbcache@localhost:{port}?tls-psk-file={keys['psk']}")


def test_plain_tcp_has_to_be_said(hosts, port):
    standby = hosts.standby(1, port=port)
    (problem,) = refused(hosts, standby.uri)
    assert "has no export named 'log'" in problem and "plain-tcp=allow" in problem and "nbds://" in problem
    assert "came without TLS" in standby.stderr_text() and "add plain-tcp=allow" in standby.stderr_text()
    standby.stop()
    standby = hosts.standby(1, port=port, plain_tcp="allow")
    check_that_a_flush_is_on_both(hosts, standby, standby.uri)


def test_where_tls_is_only_offered_those_without_it_are_refused(hosts, keys, port):
    standby = hosts.standby(1, options=["--tls=on", f"--tls-psk={keys['psk']}"], port=port)
    assert "plain-tcp=allow" in refused(hosts, standby.uri)[0]
    check_that_a_flush_is_on_both(hosts, standby, f"nbds://wbcache@localhost:{port}?tls-psk-file={keys['psk']}")


@pytest.mark.parametrize(
    ("server", "peers"),
    [
        ("certificates", {
            "nbd://localhost:{port}": "only takes connections with TLS: write nbds://",
            "nbds://localhost:{port}": "names neither certificates nor a key",
            "nbds://localhost:{port}?tls-certificates={nobody}": "has no client-cert.pem and no client-key.pem",
            "nbds://localhost:{port}?tls-certificates={stranger}": "its certificate is not accepted",
            "nbds://localhost:{port}?tls-certificates={impostor}": "impostor/client-cert.pem': that has to be signed",
            "nbds://wbcache@localhost:{port}?tls-psk-file={psk}": "no --tls-certificates",
        }),
        ("elsewhere", {
            "nbds://localhost:{port}?tls-certificates={client}": "has to be for the host 'localhost'",
        }),
        ("key", {
            "nbd://localhost:{port}": "only takes connections with TLS: write nbds://",
            "nbds://localhost:{port}?tls-psk-file={psk}": "write the user in front of the host",
            "nbds://wbcache@localhost:{port}?tls-psk-file={other-psk}": "does not accept the key of user 'wbcache'",
            "nbds://bob@localhost:{port}?tls-psk-file={psk}": "has no key of user 'bob'",
            "nbds://localhost:{port}?tls-certificates={client}": "no --tls-psk",
        }),
        ("none", {
            "nbds://localhost:{port}?tls-certificates={client}": "it has no TLS: start it with --tls=require",
        }),
    ],
    ids=["certificates", "elsewhere", "key", "none"],
)  # fmt: skip
def test_what_an_owner_says_of_what_does_not_fit(hosts, keys, port, server, peers):
    options = {
        "certificates": by_certificates(keys), "elsewhere": by_certificates(keys, "elsewhere"),
        "key": by_key(keys), "none": [],
    }  # fmt: skip
    standby = hosts.standby(1, options=options[server], port=port)
    problems = refused(hosts, *(peer.format(port=port, **keys) for peer in peers))
    for words, problem in zip(peers.values(), problems, strict=True):
        assert words in problem
    assert ask(hosts.controls[1], "status")["volume"] is None
    standby.stop()


@pytest.mark.parametrize("server", ["certificates", "key"])
def test_strangers_get_nothing_and_disturb_nobody(hosts, keys, port, server):
    options, mine, theirs = {
        "certificates": (
            by_certificates(keys), "nbds://localhost:{port}?tls-certificates={client}", [
                "nbd://localhost:{port}", "nbds://localhost:{port}",
                "nbds://localhost:{port}?tls-certificates={nobody}",
                "nbds://localhost:{port}?tls-certificates={impostor}",
            ],
        ),
        "key": (
            by_key(keys), "nbds://wbcache@localhost:{port}?tls-psk-file={psk}", [
                "nbd://localhost:{port}", "nbds://localhost:{port}",
                "nbds://wbcache@localhost:{port}?tls-psk-file={other-psk}",
            ],
        ),
    }[server]  # fmt: skip
    standby = hosts.standby(1, options=options, port=port)
    owner = hosts.owner(0, **PEER, peer=mine.format(port=port, **keys))
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        handle.flush()
        hosts.wait_until_up_to_date(0)
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as noise:
            # One that says nothing stays, and so does one that makes no sense.
            noise.sendall(os.urandom(4096))
            for number in range(10):
                for uri in theirs:
                    for export in ("", "/log"):
                        with pytest.raises(nbd.Error):
                            open_as_a_stranger(uri.format(port=str(port) + export, **keys))
                handle.pwrite(b"y" * 4096, number * 4096)
                handle.flush()
                assert hosts.peer_facts(0)["state"] == "up-to-date"
            owner.kill()
            assert standby.stop() < 10
    assert "peer" not in owner.stderr_text()
    with hosts.taken_over(1) as handle:
        assert handle.pread(40960, 0) == b"y" * 40960


def open_as_a_stranger(uri):
    """Look, and change something. Raises nbd.Error."""
    handle = nbd.NBD()
    handle.set_uri_allow_local_file(True)
    handle.connect_uri(uri)
    handle.pread(4096, 0)
    handle.pwrite(b"z" * 4096, 0)


@pytest.mark.parametrize("peer_lost", ["wait", "continue"])
def test_an_owner_without_the_right_key_goes_on_as_it_was_told(hosts, folder, keys, port, peer_lost):
    """And lets the peer in when the file has the right key."""
    standby = hosts.standby(1, options=by_key(keys), port=port)
    mine = folder / "mine.psk"
    mine.write_bytes(keys["other-psk"].read_bytes())
    peer = f"nbds://wbcache@localhost:{port}?tls-psk-file={mine}"
    owner = hosts.owner(0, **(PEER | {"peer_timeout": "1s"}), peer=peer, peer_lost=peer_lost)
    with clients.connection(owner.uri) as handle:
        thread, done = begin_flush(handle)
        facts = hosts.wait_until(0, lambda facts: facts["problem"])
        assert "does not accept the key of user 'wbcache'" in facts["problem"]
        assert done.wait(5) == (peer_lost == "continue")
        assert hosts.peer_facts(0)["counts"] == (peer_lost == "wait")
        mine.write_bytes(keys["psk"].read_bytes())
        hosts.wait_until(0, lambda facts: facts["counts"] and facts["state"] == "up-to-date" and not facts["problem"])
        assert done.wait(LIMIT_S)
        thread.join()
        handle.pwrite(b"y" * 4096, 4096)
        handle.flush()
    owner.kill()
    standby.stop()
    with hosts.taken_over(1) as handle:
        assert handle.pread(8192, 0) == b"x" * 4096 + b"y" * 4096
