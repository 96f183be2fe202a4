# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache top` on servers that are used, end, and come back."""

import json
import os
import pty
import re
import signal
import threading
import time

import pytest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.gated_origin import wait_until

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def server(pair, control):
    pair.make_origin(16 * MIB)
    with pair.serve(control=control) as server:
        yield server


class Load(threading.Thread):
    """Writes and reads pages until it is over."""

    def __init__(self, uri):
        super().__init__()
        self._uri, self.over = uri, threading.Event()
        self.start()

    def run(self):
        with clients.connection(self._uri) as handle:
            while not self.over.wait(0.001):
                handle.pwrite(b"w" * PAGE, 0)
                handle.pread(PAGE, 0)
                handle.flush()


@pytest.fixture
def load(server):
    load = Load(server.uri)
    yield load
    load.over.set()
    load.join()


def test_once(load, control):
    status, said, errors = wbcache("top", "--once", control)
    assert (status, errors) == (0, "")
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80, said
    for name in ("read ring", "write", "flush", "commit"):
        (row,) = [line for line in lines if line.startswith(name)]
        assert int(re.search(r"[\d,]+", row)[0].replace(",", "")) > 10, row
        assert re.search(r"[\d.]+ (us|ms|s)\b", row), row
    assert "requests each" in said and "% of 31.9 MiB dirty" in said and "iB/s to the log" in said


def test_json(load, control):
    status, said, _ = wbcache("top", "--once", "--json", "--seconds", "0.5", control)
    (one,) = json.loads(said)
    assert status == 0 and one["error"] is None and one["socket"] == str(control)
    assert one["activity"]["requests"]["write"]["per_second"] > 10
    assert 0 < one["activity"]["requests"]["flush"]["median"] <= one["activity"]["requests"]["flush"]["percentile_99"]
    assert one["status"]["state"] == "writable"


def test_several_servers(pair, folder, server, control):
    other = type(pair)(folder / "other")
    other.folder.mkdir()
    other.make_origin(MIB)
    with other.serve(control=folder / "d"):
        status, said, _ = wbcache("top", "--once", control, folder / "d")
    assert status == 0 and said.count("  destaging ") == 2


def test_nobody_there(folder):
    status, said, errors = wbcache("top", "--once", folder / "nothing")
    assert (status, said) == (2, "") and "nothing" in errors
    assert "from 0.1 to 3600" in wbcache("top", "--seconds", "0", folder / "nothing")[2]


def test_live_while_a_server_ends_and_another_comes(pair, control):
    pair.make_origin(16 * MIB)
    seen = bytearray()
    server = pair.start(control=control)
    pid, terminal = pty.fork()
    if pid == 0:
        # A background job of a shell ignores SIGINT, and a child inherits that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvpe(
            "/usr/bin/python3", ["python3", "-m", "wbcache_core", "top", "--seconds", "0.2", str(control)],
            dict(clients.environment(), TERM="xterm", PYTHONPATH=str(clients.REPOSITORY), PYTHONDONTWRITEBYTECODE="1"),
        )  # fmt: skip

    def read():
        try:
            while True:
                seen.extend(os.read(terminal, 4096))
        except OSError:
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_until(lambda: b"writable" in seen or b"read-only" in seen)
        server.stop()
        server.assert_clean()
        seen.clear()
        wait_until(lambda: b"no server listens" in seen or b"cannot" in seen or b"nobody" in seen)
        server = pair.start(control=control)
        seen.clear()
        wait_until(lambda: b"destaging" in seen)
        time.sleep(0.3)
    finally:
        os.kill(pid, signal.SIGINT)
        _, status = os.waitpid(pid, 0)
        reader.join()
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    server.stop()
    server.assert_clean()
