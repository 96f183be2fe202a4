# SPDX-License-Identifier: BSD-3-Clause
"""Origin and log belong to one server at a time."""

import pytest

from tests.support import clients
from tests.support.nbdkit_server import CachePair


@pytest.mark.parametrize("shared", ["origin", "log", "both"])
def test_a_second_server_is_refused(pair, folder, shared):
    other_folder = folder / "other"
    other_folder.mkdir()
    other = CachePair(other_folder)
    pair.make_origin(1 << 20)
    other.make_origin(1 << 20)
    if shared != "log":
        other.origin = pair.origin
    if shared != "origin":
        other.log = pair.log
    pair.log.write_bytes(bytes(16 << 20))
    with pair.serve(check=False):
        second = other.start(wait=False)
        try:
            second.wait()
        finally:
            second.destroy()
        assert second.status == 1, second.describe()
        assert "in use" in second.stderr_text(), second.describe()
        assert "Traceback" not in second.stderr_text(), second.describe()
    with pair.serve() as server:
        clients.nbdinfo(server.uri)


def test_a_killed_server_leaves_no_lock(pair):
    pair.make_origin(1 << 20)
    for _ in range(3):
        with pair.serve() as server:
            clients.nbdinfo(server.uri)
            server.kill()
    with pair.serve() as server:
        clients.nbdinfo(server.uri)
