# SPDX-License-Identifier: BSD-3-Clause
"""Exports that are the live volume with a level of `ack` of their own: the client chooses, without the admin."""

import contextlib
import json

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
PAGE = 4096
SETTINGS = {"commit_interval": "1h", "destage_delay": "1h", "log_size": "16M"}
EXPORTS = {"ack=ram": "head", "ack=log": "committed", "ack=origin": "destaged", "write-through": "destaged"}
ORDER = ["head", "committed", "destaged"]


@contextlib.contextmanager
def export(server: NbdkitServer, name):
    with clients.connection(f"nbd+unix:///{name}?socket={server.socket}") as handle:
        yield handle


def reached(control):
    """The strongest level that everything written so far has."""
    cursors = ask(control, "status")["cursors"]
    return [name for name in ORDER if cursors[name] == cursors["head"]][-1]


REQUESTS = {
    "write": lambda handle: handle.pwrite(b"w" * PAGE, 0),
    "part of a page": lambda handle: handle.pwrite(b"p" * 10, 5),
    "trim": lambda handle: (handle.pwrite(b"t" * PAGE, PAGE), handle.trim(PAGE, 0)),
    "zero": lambda handle: (handle.pwrite(b"z" * PAGE, PAGE), handle.zero(PAGE, 0, nbd.CMD_FLAG_NO_HOLE)),
}


@pytest.mark.parametrize("servers_own", ["ram", "log", "origin"])
@pytest.mark.parametrize("name", EXPORTS)
def test_each_request_waits_for_its_level(pair, control, name, servers_own):
    pair.make_origin(4 * MIB)
    with pair.serve(control=control, ack=servers_own, **SETTINGS) as server, export(server, name) as handle:
        for what, request in REQUESTS.items():
            request(handle)
            assert reached(control) == EXPORTS[name], what


def test_fua_and_flush_are_not_weakened(pair, control):
    pair.make_origin(4 * MIB)
    with pair.serve(control=control, fua="origin", **SETTINGS) as server:
        with export(server, "ack=ram") as handle:
            handle.pwrite(b"a" * PAGE, 0, nbd.CMD_FLAG_FUA)
            assert reached(control) == "destaged"
            handle.pwrite(b"b" * PAGE, 0)
            handle.flush()
            assert reached(control) == "committed"
        with export(server, "") as other, export(server, "write-through") as handle:
            other.pwrite(b"c" * PAGE, 0)
            assert reached(control) == "head"
            handle.pwrite(b"d" * PAGE, PAGE, nbd.CMD_FLAG_FUA)
            assert reached(control) == "destaged"


def test_fua_of_an_export_that_waits_for_more(pair, control):
    pair.make_origin(4 * MIB)
    with pair.serve(control=control, **SETTINGS) as server, export(server, "ack=origin") as handle:
        handle.pwrite(b"a" * PAGE, 0, nbd.CMD_FLAG_FUA)
        assert reached(control) == "destaged"


def test_all_are_one_volume(pair):
    pair.make_origin(4 * MIB)
    with pair.serve(**SETTINGS) as server, contextlib.ExitStack() as stack:
        handles = {name: stack.enter_context(export(server, name)) for name in ("", *EXPORTS)}
        for number, handle in enumerate(handles.values()):
            handle.pwrite(bytes([number + 1]) * PAGE, number * PAGE)
        expected = b"".join(bytes([number + 1]) * PAGE for number in range(len(handles)))
        for handle in handles.values():
            assert handle.can_multi_conn() and handle.get_size() == 4 * MIB
            assert handle.pread(len(expected), 0) == expected
            handle.cache(PAGE, 0)
        uris = [f"nbd+unix:///{name}?socket={server.socket}" for name in handles]
        assert all(clients.extent_map(uri) == clients.extent_map(server.uri) for uri in uris)


def test_they_are_listed(pair):
    pair.make_origin(4 * MIB)
    with pair.serve(**SETTINGS) as server:
        exports = json.loads(clients.run("nbdinfo", "--json", "--list", server.uri))["exports"]
        found = {one["export-name"]: one["description"] for one in exports}
        assert set(EXPORTS) < set(found)
        assert found["write-through"] == "the live volume; a write is acknowledged when the origin has it"


def test_a_name_that_does_not_exist(pair):
    pair.make_origin(4 * MIB)
    with pair.serve(tolerate=["there is no export"], **SETTINGS) as server:
        with pytest.raises(nbd.Error), export(server, "ack=disk"):
            pass
        assert (
            "there is no export 'ack=disk': '' and 'ack=ram', 'ack=log', 'ack=origin', 'write-through' are the live "
            "volume, @WHEN is a past moment of it" in server.stderr_text()
        )
