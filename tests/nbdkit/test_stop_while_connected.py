# SPDX-License-Identifier: BSD-3-Clause
"""SIGTERM while a client stays connected and says nothing: nbdkit before 1.36 then waits for that client for ever.

Who started the server kills it in the end. By then all that was accepted has to be in the log.
"""

import pytest

from tests.support import clients

MIB = 1 << 20
DATA = b"\x5a" * MIB
STOP_LIMIT_S = 5


@pytest.mark.parametrize("settings", [{}, {"on_exit": "destage"}, {"commit_interval": "1h"}], ids=str)
def test_stop(pair, settings):
    pair.make_origin(4 * MIB)
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        handle.pwrite(DATA, 77)
        assert server.stop() < STOP_LIMIT_S
    with pair.serve(on_exit="destage") as server, clients.connection(server.uri) as handle:
        assert handle.pread(MIB, 77) == DATA
    assert pair.origin.read_bytes() == bytes(77) + DATA + bytes(3 * MIB - 77)
