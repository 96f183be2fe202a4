# SPDX-License-Identifier: BSD-3-Clause
"""More clients than the process may have descriptors."""

import contextlib
import socket
import time

import pytest

from tests.support import clients

MIB = 1 << 20
FEW = 40
LIMIT_S = 10


def limited(option):
    """ulimit -S is the limit that a process may lift, up to the one that ulimit -H sets."""
    return ["bash", "-c", f'ulimit {option} {FEW} && exec "$@"', "bash"]


@contextlib.contextmanager
def idle_clients(server):
    with contextlib.ExitStack() as stack:
        for _ in range(FEW + 5):
            endpoint = stack.enter_context(socket.socket(socket.AF_UNIX))
            endpoint.connect(str(server.socket))
        yield


@pytest.mark.parametrize("control", [False, True], ids=["", "control"])
def test_a_server_without_descriptors_ends_when_told(pair, control):
    """With what was acknowledged made durable."""
    pair.make_origin(4 * MIB)
    settings = {"control": pair.folder / "control"} if control else {}
    server = pair.start(prefix=limited("-n"), log_size="4M", commit_interval="1h", **settings)
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        with idle_clients(server):
            # nbdkit itself complains then, for each that it cannot accept.
            deadline = time.monotonic() + LIMIT_S
            while server.stderr_path.stat().st_size == 0:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            server.stop(LIMIT_S)
    assert server.status == 0
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert handle.pread(4096, 0) == b"x" * 4096


def test_a_limit_that_may_be_lifted_is_lifted(pair):
    pair.make_origin(4 * MIB)
    server = pair.start(prefix=limited("-Sn"), log_size="4M")
    with idle_clients(server), clients.connection(server.uri) as handle:
        handle.pwrite(b"x" * 4096, 0)
        server.stop(LIMIT_S)
    assert server.status == 0
    assert "Too many" not in server.stderr_text()
