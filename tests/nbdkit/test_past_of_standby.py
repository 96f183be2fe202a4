# SPDX-License-Identifier: BSD-3-Clause
"""Past moments at a standby with a disk of its own: backups of which the owner does not know."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.matching import same
from tests.support.modelled_load import ModelledVolume
from tests.support.own_origins import MIB, PEER, garbage, own_origins, volume_at, written_all_the_time
from tests.support.peer_pair import PeerPair
from tests.support.tls_keys import psk_file

SIZE = 8 * MIB
KEEP = {"history": "1h"}
LIMIT_S = 15


def moment(hosts, number, name):
    return hosts.uri_of(number).replace("///", f"///@{name}")


@contextlib.contextmanager
def two_hosts(folder, model, **parameters):
    """The first is the owner of a volume with that content; the other has been filled."""
    with own_origins(folder, bytes(model.content), len(model.content)) as hosts:
        owner, standby = hosts.owner(0, **PEER, **parameters), hosts.standby(1, **parameters)
        hosts.wait_until_in_order(0)
        hosts.link(0, owner)
        yield hosts, owner, standby


def run_and_tag(hosts, model, owner, name):
    """Let clients write; the tag is of what they have written, which is returned, and is known at the standby."""
    model.run(owner.uri, MIB)
    with clients.connection(owner.uri) as handle:
        handle.flush()
    status, _, errors = wbcache("tag", hosts.controls[0], name)
    assert status == 0, errors
    hosts.wait_for_status(1, lambda status: name in [tag["name"] for tag in status["tags"]] and is_shown(status, name))
    return bytes(model.content)


def is_shown(status, name):
    end = next(tag["end_lsn"] for tag in status["tags"] if tag["name"] == name)
    return bool(status["window"]) and status["window"]["newest"]["end_lsn"] >= end


def is_all_that_is_destaged(status, name):
    """Whether the origin is as far as that tag lets it, and the log goes on."""
    end = next(tag["end_lsn"] for tag in status["tags"] if tag["name"] == name)
    return status["cursors"]["destaged"] == end < status["cursors"]["received"]


def test_a_backup_while_the_volume_is_in_use_and_after_its_owner_has_died(folder, seed, tmp_path):
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with two_hosts(folder, model, destage_delay="0") as (hosts, owner, _):
        then = run_and_tag(hosts, model, owner, "backup")
        with written_all_the_time(model, owner.uri) as has_written:
            clients.nbdcopy(moment(hosts, 1, "backup"), tmp_path / "backup")
            has_written.clear()
            assert has_written.wait(30)
        same((tmp_path / "backup").read_bytes(), then)
        same(volume_at(moment(hosts, 0, "backup")), then)
        owner.kill()
        same(volume_at(moment(hosts, 1, "backup")), then)
        assert bytes(model.content) != then


def test_a_standby_that_is_killed_during_a_backup(folder, seed):
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with two_hosts(folder, model) as (hosts, owner, standby):
        then = run_and_tag(hosts, model, owner, "backup")
        with clients.connection(moment(hosts, 1, "backup")) as handle:
            assert handle.pread(MIB, 0) == then[:MIB]
            standby.kill()
        hosts.standby(1)
        model.run(owner.uri, MIB)
        hosts.wait_until_in_order(0)
        same(volume_at(moment(hosts, 1, "backup")), then)


def test_both_hosts_say_the_same_of_the_past(folder, seed):
    """Numbers, names, what has changed, and what it was."""
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with two_hosts(folder, model, **KEEP) as (hosts, owner, _):
        run_and_tag(hosts, model, owner, "first")
        run_and_tag(hosts, model, owner, "second")
        answers = []
        for control in hosts.controls:
            found = [ask(control, "resolve", when=name) for name in ("first", "second", "first..second")]
            found.append(ask(control, "diff", start="first", end="second"))
            found.append(ask(control, "diff", start="second", end="first"))
            assert all(one["ok"] for one in found), found
            rows = ask(control, "history", each=True)["rows"]
            answers.append((found, {row["first"]: row["written_bytes"] for row in rows[1:]}))
        (found, owned), (at_standby, copied) = answers
        assert at_standby == found
        assert copied and copied.items() <= owned.items()
        changed = [extents_of(moment(hosts, at, "first..second")) for at in (0, 1)]
        assert changed[0] == changed[1] and len(changed[0]) > 2


def extents_of(uri):
    """Offset, length and kind of each, as nbdinfo prints them."""
    return json.loads(clients.run("nbdinfo", "--map", "--json", uri))


def test_what_is_open_ends_when_the_standby_takes_over(folder, seed):
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with two_hosts(folder, model) as (hosts, owner, standby):
        then = run_and_tag(hosts, model, owner, "backup")
        with clients.connection(moment(hosts, 1, "backup")) as handle:
            assert handle.pread(4096, 0) == then[:4096]
            owner.kill()
            status, _, errors = wbcache("promote", "--force=owner-alive", hosts.controls[1])
            assert status == 0, errors
            with pytest.raises(nbd.Error) as failed:
                handle.pread(4096, 0)
            assert failed.value.errno == "EIO"
            assert standby.stderr_text().count("has taken over; open it again") == 1
        same(volume_at(moment(hosts, 1, "backup")), then)
        model.run(standby.uri, MIB)
        same(volume_at(moment(hosts, 1, "backup")), then)
        model.compare(standby.uri)


@contextlib.contextmanager
def read_that_hangs(folder, seed):
    """Two hosts, of which the standby's disk does not answer any more: somebody reads there what is not in the log.
    Yields the hosts, the standby, its disk, and the Future of the client's error."""
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with own_origins(folder, bytes(model.content), SIZE) as hosts, hosts.slow_disk(1, 0) as disk:
        owner, standby = hosts.owner(0, **PEER), hosts.standby(1)
        hosts.wait_until_in_order(0)
        hosts.link(0, owner)
        run_and_tag(hosts, model, owner, "backup")
        owner.kill()
        is_open, failure = threading.Event(), Future()
        uri = moment(hosts, 1, "backup")
        threading.Thread(target=read_until_it_fails, args=(uri, is_open, failure), daemon=True).start()
        assert is_open.wait(LIMIT_S)
        disk.hold()
        try:
            time.sleep(0.5)
            assert not failure.done()
            yield hosts, standby, disk, failure
        finally:
            disk.go_on()


def read_until_it_fails(uri, is_open, failure):
    try:
        with clients.connection(uri) as handle:
            is_open.set()
            while True:
                volume_of(handle)
    except nbd.Error as error:
        failure.set_result(error)


def test_a_takeover_ends_a_read_that_hangs(folder, seed):
    with read_that_hangs(folder, seed) as (hosts, _, disk, reading), ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(wbcache, "promote", "--force=owner-alive", hosts.controls[1])
        assert reading.result(LIMIT_S).errno == "EIO"
        disk.go_on()
        assert promotion.result(LIMIT_S)[0] == 0


def test_a_stop_ends_a_read_that_hangs(folder, seed):
    with read_that_hangs(folder, seed) as (_, standby, _, reading):
        assert standby.stop() < LIMIT_S
        assert reading.result(LIMIT_S)


def test_it_gives_way_to_what_the_owner_needs(folder, seed):
    """The log of the standby is full long before clients have written all: they do not wait for a backup."""
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with two_hosts(folder, model) as (hosts, owner, standby):
        newest = hosts.wait_for_status(1, lambda status: status["window"])["window"]["newest"]["generation"]
        with clients.connection(moment(hosts, 1, newest)) as handle:
            assert hosts.status(1)["snapshots"][0]["generation"] == newest
            model.run(owner.uri, 40 * MIB)
            hosts.wait_for_status(1, lambda status: not status["snapshots"] or status["cursors"]["destaged"] > 4096)
            with pytest.raises(nbd.Error):
                volume_of(handle)
        assert "has ended: its log needed the room" in standby.stderr_text()
        assert hosts.status(1)["snapshots"] == []
        hosts.drain_both(0)
        hosts.check_disks(model.content)


def volume_of(handle):
    return clients.read_all(handle)


def test_which_exports_there_are(folder, seed):
    model = ModelledVolume(garbage(SIZE, 2), seed)
    with two_hosts(folder, model) as (hosts, owner, _):
        run_and_tag(hosts, model, owner, "backup")
        listed = json.loads(clients.run("nbdinfo", "--list", "--json", hosts.uri_of(1)))["exports"]
        window = hosts.status(1)["window"]
        names = [export["export-name"] for export in listed]
        numbers = [f"@{window[end]['generation']}" for end in ("oldest", "newest")]
        assert names == ["log", *numbers, "@backup"]
        described = next(export for export in listed if export["export-name"] == "@backup")
        assert described["export-size"] == SIZE and described["is_read_only"]
        said = wbcache("status", hosts.controls[1])[1]
        assert "window      generation" in said and "tag         'backup' is generation" in said


@pytest.fixture
def port():
    with socket.socket() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        return endpoint.getsockname()[1]


def test_over_tcp_a_moment_needs_tls_as_the_log_does(folder, seed, tmp_path, port):
    model = ModelledVolume(garbage(SIZE, 2), seed)
    key = psk_file(tmp_path / "key.psk")
    with two_hosts(folder, model) as (hosts, owner, standby):
        then = run_and_tag(hosts, model, owner, "backup")
        model.run(owner.uri, MIB)
        # That is what a standby shows without its owner.
        hosts.wait_for_status(1, lambda status: is_all_that_is_destaged(status, "backup"))
        for options, parameters, scheme, rest in (
            ([], {"plain_tcp": "allow"}, "nbd://", ""),
            ([], {}, "nbd://", ""),
            (["--tls=on", f"--tls-psk={key}"], {}, "nbd://", ""),
            (["--tls=require", f"--tls-psk={key}"], {}, "nbds://wbcache@", f"?tls-psk-file={key}"),
        ):
            standby.stop()
            standby = hosts.standby(1, options=options, port=port, **parameters)
            uri = f"{scheme}localhost:{port}/@backup{rest}"
            if parameters or rest:
                assert read_with_key(uri) == then[:MIB]
                continue
            with pytest.raises(nbd.Error):
                read_with_key(uri)
            said = standby.stderr_text()
            assert "came without TLS" in said and "'@backup'" in said and "add plain-tcp=allow" in said


def read_with_key(uri):
    """The first MiB."""
    handle = nbd.NBD()
    handle.set_uri_allow_local_file(True)
    handle.connect_uri(uri)
    try:
        return handle.pread(MIB, 0)
    finally:
        handle.shutdown()


@pytest.mark.parametrize(
    ("command", "fields", "message"),
    [
        ("resolve", {"when": "nothing"}, "no tag 'nothing'"),
        ("resolve", {"when": "12345678"}, "'12345678' is outside the window"),
        ("history", {"limit": 0}, "the number of rows has to be from"),
        ("diff", {"start": "1", "end": "backup", "offset": -1}, "'offset' has to be 0 or more"),
        ("tag", {"name": "mine"}, "ask the owner of the volume"),
        ("untag", {"name": "backup"}, "ask the owner of the volume"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(shown, command, fields, message):
    answer = ask(shown.controls[1], command, **fields)
    assert not answer["ok"] and message in answer["error"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    model = ModelledVolume(garbage(SIZE, 2), 1)
    with two_hosts(tmp_path_factory.mktemp("hosts"), model) as (hosts, owner, _):
        run_and_tag(hosts, model, owner, "backup")
        yield hosts


def test_a_moment_that_is_not_there(shown):
    with pytest.raises(nbd.Error), clients.connection(moment(shown, 1, "12345678")):
        pass


def test_with_one_origin_for_both_the_owner_has_the_past(folder):
    hosts = PeerPair(folder)
    try:
        standby = hosts.standby(1, origin=hosts.pair.origin)
        for command, fields in (("history", {}), ("resolve", {"when": "1"}), ("diff", {"start": "1", "end": "2"})):
            answer = ask(hosts.controls[1], command, **fields)
            assert not answer["ok"] and "no origin of its own: past moments are at the owner" in answer["error"]
        with pytest.raises(nbd.Error), clients.connection(moment(hosts, 1, "1")):
            pass
        assert "no origin of its own" in standby.stderr_text()
    finally:
        hosts.pair.destroy()


def test_before_an_owner_has_connected_there_is_none(folder):
    with own_origins(folder, SIZE, SIZE) as hosts:
        hosts.standby(1)
        answer = ask(hosts.controls[1], "resolve", when="1")
        assert not answer["ok"] and "no owner has connected" in answer["error"]
        assert ask(hosts.controls[1], "history")["window"] is None
        assert hosts.status(1)["window"] is None
