# SPDX-License-Identifier: BSD-3-Clause
"""The limit on processes is reached: no thread can be started any more."""

import os

import pytest

from tests.support import clients
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
PAGE = 4096
THREADS_OF_A_START = 4
"""The main one, that of the signals, and two for a stop."""
PLUGIN = clients.REPOSITORY / "tests" / "support" / "no_more_threads_plugin.py"


@pytest.fixture
def trigger(folder, monkeypatch):
    """While this file exists there are no new threads."""
    path = folder / "no-more-threads"
    monkeypatch.setenv("WBCACHE_TEST_NO_MORE_THREADS", str(path))
    return path


def start(pair, folder, wait=True, **settings):
    words = [f"{key.replace('_', '-')}={value}" for key, value in settings.items()]
    server = NbdkitServer(
        folder, ["python", PLUGIN, f"origin={pair.origin}", f"log={pair.log}", "log-size=32M", *words], wait=wait
    )  # fmt: skip
    if wait:
        # The pid file comes before the threads.
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) >= THREADS_OF_A_START)
    return server


def test_the_first_client_reads_and_the_next_one_writes(pair, folder, trigger):
    pair.make_origin(MIB, b"o" * PAGE)
    server = start(pair, folder)
    try:
        trigger.touch()
        for _ in range(2):
            with clients.connection(server.uri) as handle:
                assert handle.is_read_only()
                assert handle.pread(PAGE, 0) == b"o" * PAGE
        assert "cannot start a thread" in server.stderr_text()
        trigger.unlink()
        with clients.connection(server.uri) as handle:
            assert not handle.is_read_only()
            handle.pwrite(b"n" * PAGE, 0)
            handle.flush()
            server.kill()
    finally:
        server.destroy()
    pair.check()
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, 0) == b"n" * PAGE


def test_a_stop_needs_no_new_threads(pair, folder, trigger):
    """It commits, and drains, and ends."""
    pair.make_origin(MIB)
    server = start(pair, folder, commit_interval="1h", on_exit="destage")
    try:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"n" * PAGE, 0)
            trigger.touch()
            server.stop(15)
        server.assert_clean()
    finally:
        server.destroy()
    pair.check()
    assert pair.origin.read_bytes()[:PAGE] == b"n" * PAGE


def test_a_server_that_could_not_be_stopped_does_not_start(pair, folder, trigger):
    pair.make_origin(MIB)
    trigger.touch()
    server = start(pair, folder, wait=False)
    try:
        server.wait(15)
        assert server.status == 1
        assert "cannot start a thread" in server.stderr_text()
    finally:
        server.destroy()
    assert not pair.log.exists()
