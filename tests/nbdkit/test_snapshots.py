# SPDX-License-Identifier: BSD-3-Clause
"""Exports named @WHEN, through real clients."""

import json
import re
import subprocess
import threading
import time
from contextlib import contextmanager

import nbd
import pytest

from tests.support import clients
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
KEEP = {"history": "1h", "log_size": "64M"}


LIVE = ["", "ack=ram", "ack=log", "ack=origin", "write-through"]
"""Names of the live volume."""


def uri_of(server, when):
    return f"nbd+unix:///@{when}?socket={server.socket}"


def listed(server):
    """{export name: its object} as nbdinfo --list shows them."""
    exports = json.loads(clients.run("nbdinfo", "--json", "--list", server.uri))["exports"]
    return {export["export-name"]: export for export in exports}


def write(handle, letter, offset=0, count=65536):
    handle.pwrite(letter * count, offset)
    handle.flush()


def content_of(uri, folder):
    """The whole export as nbdcopy sees it."""
    target = folder / "copy"
    target.unlink(missing_ok=True)
    clients.nbdcopy(uri, target)
    return target.read_bytes()


@contextmanager
def made(pair, **parameters):
    """A server with generations 1 to 3: a, b, c all over the first 64 KiB."""
    pair.make_origin(2 * MIB, b"o" * MIB)
    with pair.serve(**{**KEEP, **parameters}) as server:
        with clients.connection(server.uri) as handle:
            for letter in (b"a", b"b", b"c"):
                write(handle, letter)
        yield server


def test_list_shows_the_window(pair):
    with made(pair) as server:
        exports = listed(server)
    assert list(exports) == [*LIVE, "@0", "@3"]
    assert exports[""]["description"].startswith("the live volume; the log covers generation 0 (2")
    assert exports["@0"]["description"].startswith("oldest: generation 0 (2")
    assert exports["@3"]["description"].startswith("newest: generation 3 (2")
    assert exports[""]["is_read_only"] is False and exports["@0"]["is_read_only"] is True


def test_a_snapshot_offers_only_what_a_past_moment_can(pair):
    with made(pair) as server:
        fixed = clients.nbdinfo(uri_of(server, "2"))
    offered = {name for name, value in fixed.items() if name.startswith("can_") and value}
    assert offered == {"can_cache", "can_df", "can_multi_conn"}
    assert fixed["export-size"] == 2 * MIB and fixed["is_read_only"] is True
    assert "base:allocation" in fixed["contexts"]
    assert fixed["description"].startswith("generation 2 (")


@pytest.mark.parametrize("when", ["7", "-1h", "2001-01-01", "2999-01-01T00:00:00Z", "nonsense", "-5x", "", "a/b"])
def test_what_cannot_be_opened_says_why(pair, when):
    tolerate = [r"outside the window; the log covers generation 0 .* to generation 3", r"future; the log covers",
                r"there is no tag", r"is not a moment; write"]  # fmt: skip
    pair.make_origin(MIB)
    with pair.serve(**KEEP, tolerate=tolerate) as server:
        with clients.connection(server.uri) as handle:
            for letter in (b"a", b"b", b"c"):
                write(handle, letter)
        with pytest.raises(nbd.Error), clients.connection(uri_of(server, when)):
            pass
        text = server.stderr_text()
        assert any(re.search(pattern, text) for pattern in tolerate), text
        with pytest.raises(nbd.Error), clients.connection(f"nbd+unix:///live?socket={server.socket}"):
            pass
        assert "there is no export 'live'" in server.stderr_text()
        tolerate.append("there is no export 'live'")


@pytest.mark.parametrize(
    "name", ["%ff%fe", "@%ff", "x" * 4000, "@" + "x" * 4000, "@" + "9" * 4000, "%1b%5b2J%0a"],
    ids=["bytes", "@bytes", "long", "@long", "@number", "escapes"],
)  # fmt: skip
def test_odd_export_names(pair, name):
    """Refused in one short line that shows what a terminal can show."""
    tolerate = ["there is no export", "is not a moment; write", "there is no tag", "is larger than any generation"]
    pair.make_origin(MIB)
    with pair.serve(**KEEP, tolerate=tolerate) as server:
        # libnbd puts the name into its message, and that may be more than Python decodes.
        with pytest.raises((nbd.Error, UnicodeDecodeError)), clients.connection(
            f"nbd+unix:///{name}?socket={server.socket}"
        ):
            pass
        says = [line for line in server.stderr_text().split("\n") if "error:" in line]
        assert says and all(any(re.search(one, line) for one in tolerate) for line in says), says
        assert all(len(line) < 400 and line.isprintable() for line in says), says
        with clients.connection(server.uri) as handle:
            handle.pread(512, 0)


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("1", "'1' is outside the window; the log covers generation 3 "),
        ("-1h", "'-1h' is outside the window; the log covers generation 3 "),
        ("2999-01-01", "'2999-01-01' is in the future; the log covers generation 3 "),
        ("-5 m", "'-5 m' is not a moment; write "),
    ],
)
def test_nbdinfo_of_what_has_expired_or_is_yet_to_come(pair, when, reason):
    with made(pair, history="off", flush="origin", tolerate=[re.escape(reason)]) as server:
        with pytest.raises(AssertionError, match="status 1"):
            clients.run("nbdinfo", f"nbd+unix:///%40{when.replace(' ', '%20')}?socket={server.socket}")
        assert reason in server.stderr_text()
        # Nobody else minds.
        assert clients.nbdinfo(uri_of(server, "3"))["is_read_only"] is True


def test_a_second_server_is_refused_while_a_snapshot_is_open(pair, folder):
    with made(pair) as server, clients.connection(uri_of(server, "2")) as handle:
        for options in ([], ["-r"]):
            second = pair.start(wait=False, options=options)
            second.wait()
            assert second.status == 1 and "in use" in second.stderr_text(), second.describe()
        assert handle.pread(4, 0) == b"bbbb"


def test_a_snapshot_cannot_be_written(pair):
    with made(pair) as server, clients.connection(uri_of(server, "2")) as handle:
        with pytest.raises(nbd.Error):
            handle.pwrite(b"x" * 512, 0)
        assert handle.pread(4, 0) == b"bbbb"
        assert handle.is_read_only() and not handle.can_trim()


def test_each_generation_through_nbdcopy(pair, folder):
    rest = b"o" * (MIB - 65536) + bytes(MIB)
    with made(pair) as server:
        for number, letter in enumerate((b"o", b"a", b"b", b"c")):
            assert content_of(uri_of(server, number), folder) == letter * 65536 + rest
        assert clients.extent_map(uri_of(server, 1)) == clients.extent_map(server.uri)
    with pair.serve(**KEEP) as server:
        assert content_of(uri_of(server, 1), folder) == b"a" * 65536 + rest
    with pair.serve(**KEEP, options=["-r"]) as server:
        before = pair.log.read_bytes(), pair.origin.read_bytes()
        assert content_of(uri_of(server, 2), folder) == b"b" * 65536 + rest
        assert list(listed(server)) == [*LIVE, "@0", "@3"]
    assert (pair.log.read_bytes(), pair.origin.read_bytes()) == before


def test_age_and_time(pair, folder):
    pair.make_origin(MIB)
    with pair.serve(**KEEP, control=folder / "control") as server, clients.connection(server.uri) as handle:
        write(handle, b"a")
        time.sleep(2)
        between = time.strftime("%Y-%m-%dT%H:%M:%S")
        time.sleep(2)
        write(handle, b"b")
        written = time.monotonic()
        time.sleep(0.1)
        for when, letter in (("an age", b"a"), ("-0s", b"b"), ("last-flush", b"b"), (between, b"a")):
            if when == "an age":
                # 2.5 s before that write, if the answer comes at once; a slow machine has that long for it.
                when = f"-{time.monotonic() - written + 2.5:.1f}s"
            with clients.connection(uri_of(server, resolved(folder, when))) as past:
                assert past.pread(1, 0) == letter, when
        with clients.connection(uri_of(server, between)) as past:
            assert past.pread(1, 0) == b"a"


def resolved(folder, when):
    """The generation that `wbcache resolve` prints."""
    command = ("/usr/bin/python3", "-B", "-m", "wbcache_core", "resolve", folder / "control", when)
    printed = clients.run(*command, folder=clients.REPOSITORY)
    assert printed[0] == "@"
    return printed[1:].strip()


@pytest.mark.parametrize("when", ["-0s", "-1h", "last-flush"])
def test_a_name_that_passes_is_no_export(pair, when):
    """A client that reconnects by it would go on with another moment."""
    reason = rf"'@{when}' means generation 3 .* open '@3'|'{when}' is outside the window"
    with made(pair, tolerate=[reason]) as server:
        with pytest.raises(nbd.Error), clients.connection(uri_of(server, when)):
            pass
        assert re.search(reason, server.stderr_text())


@pytest.mark.parametrize(("when", "goes_on"), [("-0s", False), ("3", True)])
def test_a_copy_through_the_retry_filter_has_one_moment_or_fails(pair, folder, when, goes_on):
    """The server is killed and started again in the middle, with more written before and after."""
    tolerate = [r"open '@\d+'"]
    with made(pair, tolerate=tolerate) as server:
        socket = server.socket
        relay = NbdkitServer(
            folder, ["--filter=retry", "nbd", f"uri={uri_of(server, when)}", "retry-delay=1", "retries=3"], wait=False
        )  # fmt: skip
        try:
            wait_for_socket(relay)
            if not goes_on:
                with pytest.raises(nbd.Error), clients.connection(relay.uri):
                    pass
                return
            with clients.connection(relay.uri) as copy:
                assert copy.pread(4096, 0) == b"c" * 4096
                with clients.connection(server.uri) as live:
                    write(live, b"d")
                server.kill()
                socket.unlink()
                again = pair.start(**KEEP, options=["-U", socket], wait=False)
                assert copy.pread(4096, 32768) == b"c" * 4096
            again.kill()
        finally:
            relay.destroy()


def wait_for_socket(server):
    """The pid file is there once it listens."""
    deadline = time.monotonic() + 20
    while server.running and time.monotonic() < deadline and not server.pid_file.exists():
        time.sleep(0.01)


def test_nothing_changes_for_a_server_that_nobody_wrote_to(pair):
    pair.make_origin(MIB)
    with pair.serve(check=False, options=["-r"]) as server:
        exports = listed(server)
    assert list(exports) == LIVE and "covers no generation" in exports[""]["description"]
    assert not pair.log.exists()


def test_nbdcopy_of_a_moment_while_writes_go_on(pair, folder):
    """The copies take place beside a load that goes round in the log and is destaged; each is one moment, exactly."""
    blocks, page = 512, 4096
    pair.make_origin(blocks * page)
    too_late = ["outside the window", "has ended"]
    settings = {"history": "4M", "log_size": "16M", "commit_interval": "20ms", "destage_delay": "0"}
    with pair.serve(tolerate=too_late, **settings) as server:
        stop, progress = threading.Event(), [0]

        def load():
            with clients.connection(server.uri) as handle:
                turn = 0
                while not stop.is_set():
                    handle.pwrite(turn.to_bytes(8, "little") * (page // 8), turn % blocks * page)
                    turn += 1
                    progress[0] = turn

        writer = threading.Thread(target=load)
        writer.start()
        try:
            states = []
            deadline = time.monotonic() + 30
            while len(states) < 12 and time.monotonic() < deadline:
                time.sleep(0.2)
                oldest, newest = window_of(server)
                for number in (newest, (oldest + newest) // 2):
                    try:
                        states.append((number, content_of(uri_of(server, number), folder)))
                    except AssertionError as error:
                        # Destaging has moved on since it was listed, or before it was read to its end.
                        assert "No such file" in str(error) or "Input/output error" in str(error)
        finally:
            stop.set()
            writer.join()
        assert progress[0] > 3 * blocks
    assert len(states) >= 12
    for _, state in states:
        turns = [int.from_bytes(state[at : at + 8], "little") for at in range(0, len(state), page)]
        last = max(turns)
        assert state == b"".join(turn.to_bytes(8, "little") * (page // 8) for turn in turns)
        assert turns == [
            last - (last - block) % blocks if last - (last - block) % blocks >= 0 else 0 for block in range(blocks)
        ], "not the volume as it stood after one of the writes"


def window_of(server):
    """Oldest and newest generation. --list would open them too, and the oldest may be gone by then."""
    found = re.findall(r"generation (\d+)", clients.nbdinfo(server.uri)["description"])
    return int(found[0]), int(found[1])


def test_a_client_that_hangs_up_lets_go(pair):
    with made(pair, history="off", history_full="hold", on_exit="commit") as server:
        client = clients.start("nbdinfo", "--map", uri_of(server, "3"), stdout=subprocess.PIPE)
        client.communicate(timeout=30)
        with clients.connection(server.uri) as handle:
            for turn in range(30):
                handle.pwrite(bytes([turn]) * (4 * MIB // 2), 0)
            handle.flush()
