# SPDX-License-Identifier: BSD-3-Clause
"""control= with real servers: what it tells, who may use it, how it comes and goes."""

import json
import os
import socket
import stat
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from tests.support import clients
from tests.support.control import ControlConnection, ask, wbcache
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import HANG_UP_ERRORS, CachePair, NbdkitServer
from tests.support.refusal import assert_refused

MIB = 1 << 20
KEEP = {"history": "1h", "log_size": "64M"}


def write(server, letter, count=65536):
    with clients.connection(server.uri) as handle:
        handle.pwrite(letter * count, 0)
        handle.flush()


def first_letter(server, when):
    with clients.connection(f"nbd+unix:///@{when}?socket={server.socket}") as handle:
        return handle.pread(1, 0)


def test_status_is_live(pair, control):
    """Nothing is opened or closed between two looks, and yet they differ."""
    pair.make_origin(2 * MIB)
    with pair.serve(control=control, commit_interval="1h", **KEEP) as server:
        before = ask(control, "status")
        assert before["ok"] and before["state"] == "read-only" and before["window"] is None
        assert before["pid"] == server.pid and before["origin"] == str(pair.origin)
        assert before["log"] == str(pair.log) and not pair.log.exists()
        with clients.connection(server.uri) as handle, ControlConnection(control) as connection:
            handle.pwrite(b"a" * 65536, 0)
            first = connection.ask("status")
            assert first["state"] == "writable" and first["bytes"]["volatile"] == 17 * 4096
            handle.flush()
            second = connection.ask("status")
            assert second["bytes"]["volatile"] == 0 and second["bytes"]["dirty"] == 17 * 4096
            assert second["cursors"]["committed"] == second["cursors"]["head"] == 18
            assert second["window"]["newest"]["generation"] == 1 and second["window"]["generations"] == 2
            assert second["rates"]["written_bytes_per_second"] > 0
            with clients.connection(f"nbd+unix:///@1?socket={server.socket}"):
                assert [one["generation"] for one in connection.ask("status")["snapshots"]] == [1]
            deadline = time.monotonic() + 30
            while connection.ask("status")["snapshots"]:
                assert time.monotonic() < deadline
            assert connection.ask("tag", name="x")["tag"]["generation"] == 1
            assert [tag["name"] for tag in connection.ask("status")["tags"]] == ["x"]
            assert connection.ask("status")["errors"] == {"log": None, "origin": None, "origin_seconds": None}
        status, text, _ = wbcache("status", control)
        assert status == 0 and "writable" in text and "'x' is generation 1" in text
        assert json.loads(wbcache("status", "--json", control)[1])["bytes"]["log"] == 64 * MIB - 65536


def test_tag_now_and_afterwards(pair, control):
    pair.make_origin(2 * MIB)
    with pair.serve(control=control, commit_interval="1h", **KEEP) as server:
        for letter in (b"a", b"b", b"c"):
            write(server, letter)
        with clients.connection(server.uri) as handle:
            # The present moment has what no flush has asked for yet.
            handle.pwrite(b"d" * 4096, 0)
            assert wbcache("tag", control, "now")[0] == 0
        assert wbcache("tag", control, "second", "2")[0] == 0
        assert wbcache("tag", control, "aged", "-0s")[0] == 0
        assert [first_letter(server, when) for when in ("now", "second", "aged")] == [b"d", b"b", b"d"]
        status, text, _ = wbcache("history", control)
        assert status == 0 and "generation 0 (" in text and text.count("\n") == 12
        assert wbcache("untag", control, "aged")[1] == "tag 'aged' is removed\n"
        for words, why in (
            (("tag", control, "now"), "there is a tag 'now' already"),
            (("tag", control, "a/b"), "cannot be the name"), (("tag", control, "-5m"), "cannot be the name"),
            (("tag", control, "x", "99"), "outside the window"), (("tag", control, "x", "-1d"), "outside the window"),
            (("tag", control, "x", "2999-01-01"), "in the future"), (("tag", control, "x", "@-5y"), "is not a moment"),
            (("untag", control, "none"), "there is no tag 'none'"),
            (("tag", pair.log, "x"), "control="), (("history", pair.log), "control="),
        ):  # fmt: skip
            status, _, text = wbcache(*words)
            assert status == 2 and why in text, words
        server.kill()
    assert stat.S_ISSOCK(os.stat(control).st_mode)
    status, _, text = wbcache("status", control)
    assert status == 2 and "no server listens" in text
    assert wbcache("tag", pair.log, "offline", "1")[0] == 0
    # A killed server's socket is no obstacle.
    with pair.serve(control=control, **KEEP) as server:
        assert {tag["name"]: tag["generation"] for tag in ask(control, "status")["tags"]} == {
            "now": 4, "second": 2, "offline": 1,
        }  # fmt: skip
        assert [first_letter(server, when) for when in ("now", "second", "offline")] == [b"d", b"b", b"a"]
    assert not control.exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_mode_and_end(pair, control, umask):
    pair.make_origin(MIB)
    before = os.umask(umask)
    try:
        server = pair.start(control=control)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(control).st_mode) == 0o600
    assert ask(control, "status")["ok"]
    server.stop()
    server.assert_clean()
    assert not control.exists()


def test_two_servers(pair, folder, control):
    (folder / "other").mkdir()
    other = CachePair(folder / "other")
    for one in (pair, other):
        one.make_origin(MIB)
    with pair.serve(control=control, check=False):
        words = [f"origin={other.origin}", f"log={other.log}", f"control={control}"]
        assert_refused(folder, words, [f"control={control}", "another server listens there"])
        assert ask(control, "status")["origin"] == str(pair.origin)
    assert not control.exists()


def test_bad_paths(pair, folder, control):
    pair.make_origin(MIB)
    pair_words = [f"origin={pair.origin}"]
    control.write_text("mine")
    assert_refused(folder, [*pair_words, f"control={control}"], ["not a socket", "choose another name"])
    assert control.read_text() == "mine"
    assert_refused(folder, [*pair_words, f"control={folder}/none/c"], ["No such file or directory", "check the folder"])
    assert_refused(folder, [*pair_words, f"control={folder}/{'c' * 110}"], ["at most 107"])
    assert_refused(folder, [*pair_words, f"control={pair.origin}"], ["not a socket"])
    assert_refused(folder, [*pair_words, "control="], ["'control' needs a value"])


NONSENSE = [
    b"nonsense\n", b"[]\n", b'"status"\n', b"{}\n", b'{"command": 7}\n', b'{"command": "frob"}\n', b"\xff\xfe\n",
    b'{"command": "status", "x": 1}\n', b'{"command": "tag"}\n', b'{"command": "tag", "name": null}\n',
    b'{"command": "tag", "name": "\\ud800"}\n', b'{"command": "tag", "name": "a", "when": 7}\n',
    b'{"command": "history", "limit": true}\n', b'{"command": "history", "limit": 0}\n',
    b'{"command": "history", "limit": 501, "each": true}\n', b'{"command": "history", "limit": 1e3}\n',
    b'{"command": "history", "limit": ' + b"9" * 4000 + b"}\n", b"[" * 4000 + b"\n", b'{"a":' * 700 + b"\n",
    b'{"command": "untag", "name": "none"}\n', b"\0\n", b"GET / HTTP/1.1\r\n", b"NaN\n",
]  # fmt: skip


def test_nonsense(pair, control):
    pair.make_origin(MIB)
    with pair.serve(control=control) as server, ControlConnection(control) as connection:
        for line in NONSENSE:
            connection.send(line)
            answer = connection.line()
            assert answer["ok"] is False and 10 < len(answer["error"]) < 400, line
        write(server, b"a")
        assert connection.ask("status")["window"]["newest"]["generation"] == 1
        # Numbers that make no sense but harm nobody.
        assert connection.ask("history", **{"each": True, "from": 10**30})["rows"] == []
        assert len(connection.ask("history", **{"each": True, "from": -5})["rows"]) == 2
        connection.send(b"x" * 5000)
        assert "at most 4096 bytes" in connection.line()["error"]
        with suppress(ConnectionResetError):
            assert connection.line() is None
        assert ask(control, "status")["ok"]


def memory_of(pid):
    """Resident bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_flood_while_clients_write(pair, control):
    """Requests, connections, clients that do not read: the volume goes on, memory stays, a stop ends it."""
    pair.make_origin(16 * MIB)
    with pair.serve(control=control, tolerate=HANG_UP_ERRORS, **KEEP) as server:
        write(server, b"a")
        stop = threading.Event()
        mute = [socket.socket(socket.AF_UNIX) for _ in range(8)]
        for one in mute:
            one.connect(str(control))
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.sendall(b'{"command": "history"}\n' * 20000)

        def requests():
            with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(control))
                while not stop.is_set():
                    client.sendall(b'{"command": "status"}\nnonsense\n' * 50)
                    client.recv(1 << 20)

        def connections():
            while not stop.is_set():
                with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(control))
                    client.sendall(b'{"command": "tag", "name"')

        threads = [threading.Thread(target=one) for one in (requests, requests, connections)]
        for one in threads:
            one.start()
        try:
            time.sleep(1)
            before = memory_of(server.pid)
            with clients.connection(server.uri) as handle:
                for number in range(300):
                    handle.pwrite(bytes([number % 251]) * 4096, number % 64 * 4096)
                    if number % 10 == 0:
                        handle.flush()
            time.sleep(2)
            assert memory_of(server.pid) - before < 24 * MIB
            assert wbcache("status", control)[0] == 0
            assert server.stop() < 10
        finally:
            stop.set()
            for one in threads:
                one.join()
            for one in mute:
                one.close()


def test_tags_while_fio_and_nbdcopy_run(pair, folder, control):
    """A tag under load is one moment: two copies of it are the same, also after kill -9."""
    pair.make_origin(16 * MIB)
    options = ["rw=randwrite", "bs=4k", "size=16m", "time_based=1", "runtime=300"]
    # fio fills three quarters of the log within seconds. With the default tags would give way then.
    keep = {"history": "1h", "history_full": "hold"}
    settings = {"control": control, "log_size": "256M", "commit_interval": "50ms", **keep}
    with pair.serve(**settings) as server:
        load = clients.start(
            *clients.fio_command(server.uri, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            wait_until(lambda: (ask(control, "status")["window"] or {}).get("generations", 0) > 4)
            copy = clients.start("nbdcopy", server.uri, folder / "live")
            for number in range(3):
                assert ask(control, "tag", name=f"t{number}")["ok"]
            uri = f"nbd+unix:///@t1?socket={server.socket}"
            clients.nbdcopy(uri, folder / "first")
            facts = ask(control, "history")
            assert facts["window"]["generations"] > 3 and len(facts["rows"]) <= 41
            assert copy.wait(clients.LIMIT_S) == 0
            assert load.poll() is None, "the load ended before the kill"
            server.kill()
        finally:
            load.kill()
            load.wait()
    with pair.serve(**settings) as server:
        clients.nbdcopy(f"nbd+unix:///@t1?socket={server.socket}", folder / "second")
        assert (folder / "first").read_bytes() == (folder / "second").read_bytes()
        assert [tag["name"] for tag in ask(control, "status")["tags"]] == ["t0", "t1", "t2"]


def test_status_of_a_drain(pair, folder, control):
    """Clients of the volume are sent away, those of the socket are not: it stays until the drain is over."""
    image = pair.make_origin(16 * MIB)
    backing = NbdkitServer(folder, ["--filter=delay", "file", image, "wdelay=500ms"])
    settings = {"origin": backing.uri, "control": control, "on_exit": "destage", "destage_delay": "1h", **KEEP}
    try:
        with pair.serve(check=False, tolerate=["the origin is not complete"], **settings) as server:
            with clients.connection(server.uri) as handle:
                for page in range(0, 2000, 2):
                    handle.pwrite(b"a" * 4096, page * 4096)
            with ControlConnection(control) as connection:
                assert connection.ask("status")["state"] == "writable"
                server.terminate()
                deadline = time.monotonic() + 20
                while connection.ask("status")["state"] != "draining":
                    assert time.monotonic() < deadline
                time.sleep(1)
                status = connection.ask("status")
                assert status["state"] == "draining" and status["bytes"]["dirty"] > 1000 * 4096
                assert ask(control, "history")["ok"]
                # At once, and it keeps nothing from ending.
                for command in ("tag", "untag"):
                    refused = connection.ask(command, name="late")
                    assert not refused["ok"] and "shutting down" in refused["error"]
                server.stop()
                with suppress(ConnectionResetError):
                    assert connection.line() is None
            assert not control.exists()
    finally:
        backing.destroy()


def test_a_tag_on_a_server_that_nobody_has_written_to(pair, control):
    """It lets writers in, as the first client would; generation 0 is the origin as it is."""
    pair.make_origin(MIB, b"o" * MIB)
    with pair.serve(control=control, **KEEP) as server:
        assert wbcache("history", control)[1] == "the log covers no generation yet\n"
        assert wbcache("tag", control, "fresh")[0] == 0
        write(server, b"a")
        assert first_letter(server, "fresh") == b"o"


def test_the_threads_block_signals(pair, control):
    """Else a SIGTERM that one of them took would go past the thread that waits for it."""
    pair.make_origin(MIB)
    with pair.serve(control=control) as server:
        assert ask(control, "status")["ok"]
        # The thread that answers is there before the last one has been started.
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) >= 4)
        masks = {}
        for task in os.listdir(f"/proc/{server.pid}/task"):
            with open(f"/proc/{server.pid}/task/{task}/status") as file:
                fields = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
            masks[fields["Name"], task] = int(fields["SigBlk"], 16)
        # That one shows it as not blocked while it waits.
        assert [mask >> 14 & 1 for mask in masks.values()].count(0) == 1, masks


def test_with_a_server_in_the_background(pair, folder, control):
    """nbdkit forks and changes its folder; a relative path means the one in which it was started."""
    pair.make_origin(MIB)
    server = pair.start(control=control)
    server.stop()
    command = [
        "nbdkit", "-U", folder / "s", "-P", folder / "p", "python", server.command[server.command.index("python") + 1],
        f"origin={pair.origin}", "control=c",
    ]  # fmt: skip
    clients.run(*command, folder=folder)
    # It listens since before the fork, and answers when its threads are there.
    pid = ask(control, "status")["pid"]
    try:
        wait_until(lambda: (folder / "p").exists() and (folder / "p").read_text().strip() == str(pid))
    finally:
        os.kill(pid, 15)
    wait_until(lambda: not control.exists())
