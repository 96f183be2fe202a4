# SPDX-License-Identifier: BSD-3-Clause
"""How a script hears that a stop left something undone: messages, nbdkit's exit status, `wbcache info`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.nbdkit_server import PLUGIN, STOP_LIMIT_S, UNFINISHED

MIB = 1 << 20
PAGE = 4096
INCOMPLETE = ["the origin is not complete"]
HELD = {"destage_delay": "1h", "low_watermark": "80", "high_watermark": "90"}


def wbcache(*words):
    command = [sys.executable, "-m", "wbcache_core", *map(str, words)]
    return subprocess.run(command, cwd=clients.REPOSITORY, capture_output=True, text=True, check=True).stdout


def state(pair):
    return json.loads(wbcache("info", "--json", pair.log))["state"]


def listening_path(pid):
    """The Unix socket on which a process listens."""
    links = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    with open("/proc/net/unix") as table:
        rows = [line.split() for line in table]
    (path,) = [row[7] for row in rows if len(row) > 7 and f"socket:[{row[6]}]" in links]
    return Path(path)


@pytest.fixture
def dirty_pair(pair):
    """Its log has a page for the origin, and no server runs."""
    pair.make_origin(MIB)
    with pair.serve(**HELD) as server, clients.connection(server.uri) as handle:
        handle.pwrite(b"n" * PAGE, 0)
        handle.flush()
        server.kill()
    return pair


@pytest.mark.parametrize("came", ["nobody", "a reader", "a filter"])
def test_no_client_came_to_write(dirty_pair, came):
    pair = dirty_pair
    options = ["-r"] if came == "a reader" else []
    filters = ["cow"] if came == "a filter" else []
    before = pair.log.read_bytes()
    with pair.serve(on_exit="destage", options=options, filters=filters, tolerate=INCOMPLETE) as server:
        if came != "nobody":
            with clients.connection(server.uri) as handle:
                assert handle.pread(PAGE, 0) == b"n" * PAGE
        server.stop()
        assert server.status == UNFINISHED
        text = server.stderr_text()
        for part in ("nbdkit: error", "no client that may write was let in", f"'{pair.log}'", "wbcache replay"):
            assert part in text
    assert pair.log.read_bytes() == before
    assert state(pair) == "dirty"
    wbcache("replay", pair.log, pair.origin)
    assert state(pair) == "clean"
    assert pair.origin.read_bytes()[:PAGE] == b"n" * PAGE
    with pair.serve(on_exit="destage") as server:
        server.stop()
        assert server.status == 0
        assert "not complete" not in server.stderr_text()


def test_a_drain_that_was_cancelled_before_it_began(pair):
    """Two signals at once."""
    pair.make_origin(64 * MIB)
    settings = {"on_exit": "destage", "log_size": "96M", **HELD}
    with pair.serve(tolerate=INCOMPLETE, **settings) as server, clients.connection(server.uri) as handle:
        for at in range(0, 32 * MIB, MIB):
            handle.pwrite(os.urandom(MIB), at)
        server.terminate()
        time.sleep(0.05)
        server.terminate()
        server.wait()
        told = "the origin is not complete" in server.stderr_text()
        assert server.status == (UNFINISHED if told else 0)
    assert state(pair) == ("dirty" if told else "clean")


def test_what_comes_at_the_end_of_nbdkit_is_not_lost(dirty_pair, folder):
    """The report of a filter, which is written when that is unloaded, and the removal of the folder of `-U -`."""
    pair = dirty_pair
    report, pid_file = folder / "report", folder / "pid"
    words = [f"origin={pair.origin}", f"log={pair.log}", "on-exit=destage", f"statsfile={report}"]
    process = subprocess.Popen(
        ["nbdkit", "-f", "--exit-with-parent", "-U", "-", "-P", pid_file, "--filter=stats", "python", PLUGIN, *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + STOP_LIMIT_S
        while not pid_file.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        temporary = listening_path(process.pid).parent
        assert temporary.is_dir()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=STOP_LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == UNFINISHED, stderr
    assert "total:" in report.read_text()
    assert not temporary.exists()


def test_the_status_of_a_command_comes_first(dirty_pair, folder):
    """With --run nbdkit does not look at the server's: the message has to do."""
    pair = dirty_pair
    words = [f"origin={pair.origin}", f"log={pair.log}", "on-exit=destage"]
    command = ["nbdkit", "-U", "-", "python", PLUGIN, *words, "--run", "exit 7"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=STOP_LIMIT_S)
    assert result.returncode == 7
    assert "the origin is not complete" in result.stderr
