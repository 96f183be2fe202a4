# SPDX-License-Identifier: BSD-3-Clause
"""An origin's server with a page that cannot be written (nbdkit's protect filter): status, kill, stop, replay."""

import contextlib
import os
import random

import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.faulty_devices import fragile_fuse_file
from tests.support.gated_origin import wait_until
from tests.support.matching import same
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
BAD = 5 * PAGE
OLD = random.Random(1).randbytes(SIZE)
NEW = random.Random(2).randbytes(SIZE)
SETTINGS = {"ring_size": "1M", "log_size": "4M", "destage_delay": "50ms", "origin_settle": "100ms", "lifetime_s": 60}
NOISE = ["cannot be marked", "does not accept", "the origin is not complete", "bytes again", "giving up"]
NAMED = f"does not accept the {PAGE} bytes at {BAD}: cannot write to origin"


class Origin:
    """Served with a bad page or without, always at the same URI. nbdkit 1.32's protect filter ends the server when a
    protected page is to be zeroed, so the server does not offer that."""

    def __init__(self, folder):
        self._folder = folder
        self.backing = folder / "backing.img"
        self.backing.write_bytes(OLD)
        self._socket = folder / "origin.sock"
        self.uri = f"nbd+unix:///?socket={self._socket}"
        self._server = None

    def serve(self, is_bad):
        self.end()
        words = [f"protect={BAD}-{BAD + PAGE - 1}"] if is_bad else []
        self._server = NbdkitServer(self._folder, ["--filter=nozero", "--filter=protect", "file", self.backing, *words])
        os.rename(self._server.socket, self._socket)

    def end(self):
        if self._server:
            self._server.destroy()


@pytest.fixture
def origin(pair, folder):
    origin = Origin(folder)
    origin.serve(is_bad=True)
    pair.origin = origin.uri
    yield origin
    origin.end()


@contextlib.contextmanager
def serve(pair, folder, **settings):
    settings = {"tolerate": NOISE, "check": False, "control": folder / "c", **SETTINGS, **settings}
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        yield server, handle


def bad_ranges(folder):
    return [(one["offset"], one["length"]) for one in ask(folder / "c", "status")["bad_blocks"]["ranges"]]


def write_all(handle):
    """More than the log has room for."""
    for offset in range(0, SIZE, MIB // 4):
        handle.pwrite(NEW[offset : offset + MIB // 4], offset)
    handle.flush()


def wait_until_settled(folder):
    wait_until(lambda: ask(folder / "c", "status")["bytes"]["dirty"] <= 2 * PAGE and bad_ranges(folder))


def but_for_the_bad_one(content):
    return content[:BAD] + OLD[BAD : BAD + PAGE] + content[BAD + PAGE :]


def test_everything_else_goes_on_and_a_kill_loses_nothing(pair, folder, origin):
    with serve(pair, folder) as (server, handle):
        write_all(handle)
        wait_until_settled(folder)
        assert bad_ranges(folder) == [(BAD, PAGE)]
        same(origin.backing.read_bytes(), but_for_the_bad_one(NEW))
        status, told, _ = wbcache("status", folder / "c")
        assert status == 1 and f"{PAGE} bytes at {BAD}" in told
        assert NAMED in server.stderr_text() and "stalled" not in server.stderr_text()
        same(clients.read_all(handle), NEW)
        server.kill()
    origin.serve(is_bad=True)
    with serve(pair, folder, on_exit="destage") as (server, handle):
        same(clients.read_all(handle), NEW)
        handle.zero(4 * PAGE, 4 * PAGE)
        handle.flush()
    assert f"does not accept {PAGE} bytes (the {PAGE} bytes at {BAD})" in server.stderr_text()
    expected = NEW[: 4 * PAGE] + bytes(4 * PAGE) + NEW[8 * PAGE :]
    same(origin.backing.read_bytes(), but_for_the_bad_one(expected))
    origin.serve(is_bad=False)
    with serve(pair, folder, on_exit="destage") as (server, handle):
        same(clients.read_all(handle), expected)
    same(origin.backing.read_bytes(), expected)


def test_an_origin_that_is_a_file(pair, folder, origin):
    """With writes in bulk, of which single ones fail."""
    with fragile_fuse_file(origin.uri, folder / "mounted", "disk") as path:
        pair.origin = path
        with serve(pair, folder, on_exit="destage") as (server, handle):
            write_all(handle)
            wait_until_settled(folder)
            assert bad_ranges(folder) == [(BAD, PAGE)]
            for page in range(0, 400, 2):
                handle.pwrite(OLD[:PAGE], page * PAGE)
                handle.pwrite(OLD[:PAGE], BAD)
            handle.flush()
            volume = clients.read_all(handle)
        assert "does not accept the 4096 bytes at 20480" in server.stderr_text()
        expected = bytearray(NEW)
        for page in (*range(0, 400, 2), BAD // PAGE):
            expected[page * PAGE : (page + 1) * PAGE] = OLD[:PAGE]
        same(volume, bytes(expected))
        same(origin.backing.read_bytes(), but_for_the_bad_one(bytes(expected)))


def test_giving_up(pair, folder, origin):
    with serve(pair, folder) as (_, handle):
        write_all(handle)
        wait_until_settled(folder)
        assert wbcache("give-up", folder / "c", 0, BAD)[0] == 2
        status, told, _ = wbcache("give-up", folder / "c", BAD, PAGE)
        assert status == 0 and f"{PAGE} bytes are given up" in told
        assert bad_ranges(folder) == []
        same(clients.read_all(handle), but_for_the_bad_one(NEW))
        answer = ask(folder / "c", "give-up", offset=BAD)
        assert not answer["ok"] and "needs the field 'length'" in answer["error"]
    with serve(pair, folder) as (_, handle):
        same(clients.read_all(handle), but_for_the_bad_one(NEW))


def test_replay_writes_everything_else_and_says_what_is_left(pair, folder, origin):
    with serve(pair, folder, destage_delay="1h") as (server, handle):
        handle.pwrite(NEW[:MIB], 0)
        handle.flush()
        server.kill()
    origin.serve(is_bad=True)
    status, _, told = wbcache("replay", pair.log, origin.uri)
    assert status == 1, told
    assert f"the {PAGE} bytes at {BAD}" in told and "keep the log" in told
    same(origin.backing.read_bytes(), but_for_the_bad_one(NEW[:MIB] + OLD[MIB:]))
    origin.serve(is_bad=False)
    with serve(pair, folder, on_exit="destage") as (_, handle):
        same(clients.read_all(handle), NEW[:MIB] + OLD[MIB:])
    same(origin.backing.read_bytes(), NEW[:MIB] + OLD[MIB:])
