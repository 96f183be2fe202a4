# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache drain` while real clients write: it ends, nothing is dirty afterwards, and no client notices a failure."""

import contextlib
import json
import random
import subprocess
import threading
import time

import nbd
import pytest

from tests.support import clients
from tests.support.clients import REPOSITORY
from tests.support.control import ask, wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.gated_origin import wait_until

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
QUIET = {"commit_interval": "1h", "destage_delay": "1h", "log_size": "32M", "lifetime_s": 90}
NO_DRAIN = "no drain: writes are acknowledged as the parameters say\n"
DATA = random.Random(7).randbytes(2 * MIB)


@pytest.fixture
def server(pair, control):
    pair.make_origin(SIZE)
    with pair.serve(control=control, **QUIET) as server:
        yield server


@contextlib.contextmanager
def slow_origin(pair, folder, delay):
    """An origin whose writes take that long each."""
    with faulty_device(folder, "slow", SIZE, delay=delay) as origin:
        pair.origin = origin.uri
        yield origin


def drain_state(control):
    return ask(control, "status")["drain"]["state"]


def dirty(control):
    cursors = ask(control, "status")["cursors"]
    return cursors["head"] - cursors["destaged"]


class Load(threading.Thread):
    """Writes pages in turn, each with a number of its own, until it is over."""

    def __init__(self, uri, first, pages=64):
        super().__init__()
        self._uri, self._first, self._pages = uri, first, pages
        self.written, self.error = {}, None
        self.count = 0
        self._over = threading.Event()
        self.start()

    def run(self):
        try:
            with clients.connection(self._uri) as handle:
                while not self._over.is_set():
                    block = self._first + self.count % self._pages
                    self.count += 1
                    handle.pwrite(self.count.to_bytes(8, "little") * (PAGE // 8), block * PAGE)
                    self.written[block] = self.count
                    time.sleep(0.001)
        except nbd.Error as error:
            self.error = error

    def end(self):
        self._over.set()
        self.join(60)
        assert not self.is_alive() and self.error is None, self.error


@contextlib.contextmanager
def loads(server, count=4):
    running = [Load(server.uri, 1024 + 64 * number) for number in range(count)]
    try:
        yield running
    finally:
        for load in running:
            load.end()


def test_it_ends_under_load_and_nothing_is_dirty_afterwards(pair, folder, control):
    """The origin takes 2 ms for each write, so that without the drain the load would be ahead of it for ever."""
    with slow_origin(pair, folder, "2ms") as origin:
        with pair.serve(control=control, check=False, **QUIET) as server:
            with clients.connection(server.uri) as handle:
                handle.pwrite(DATA, 0)
            with loads(server) as running:
                wait_until(lambda: all(load.count > 100 for load in running))
                status, text, errors = wbcache("drain", "--wait", control)
                assert (status, errors) == (0, "") or "draining" in errors
                assert text == "the origin has everything; writes wait for it until wbcache drain --cancel\n"
                before = [load.count for load in running]
                # What is dirty is what is under way: at most a page and its descriptors of each client.
                assert dirty(control) <= 4 * 3
                wait_until(lambda: all(load.count > count for load, count in zip(running, before, strict=True)))
                assert drain_state(control) == "drained"
            assert dirty(control) == 0
            content = origin.backing.read_bytes()
            assert content[: len(DATA)] == DATA
            for load in running:
                for block, number in load.written.items():
                    assert content[block * PAGE :][:8] == number.to_bytes(8, "little"), block


def test_cancel_returns_to_write_back(server, control):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
        assert wbcache("drain", control)[0] == 0
        handle.pwrite(b"b" * PAGE, PAGE)
        assert dirty(control) == 0
        assert wbcache("drain", "--cancel", control) == (0, NO_DRAIN, "")
        handle.pwrite(b"c" * PAGE, 0)
        assert dirty(control) > 0 and drain_state(control) == "off"


def test_parameters_that_are_set_meanwhile_count_afterwards(server, control):
    with clients.connection(server.uri) as handle:
        wbcache("drain", control)
        wbcache("set", control, "destage-delay=30m", "history=1h")
        handle.pwrite(b"b" * PAGE, PAGE)
        assert dirty(control) == 0
        wbcache("drain", "--cancel", control)
        handle.pwrite(b"c" * PAGE, 0)
        handle.flush()
        assert dirty(control) > 0


@pytest.mark.parametrize("name", ["ack=ram", "ack=log"])
def test_exports_with_a_level_of_their_own_take_part(server, control, name):
    wbcache("drain", control)
    with clients.connection(f"nbd+unix:///{name}?socket={server.socket}") as handle:
        handle.pwrite(b"a" * PAGE, 0)
        handle.trim(PAGE, PAGE)
        assert dirty(control) == 0


def test_history_does_not_hold_it_up(pair, control):
    pair.make_origin(SIZE)
    with pair.serve(control=control, history="1h", **QUIET) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(DATA, 0)
            handle.flush()
        assert wbcache("drain", "--wait", control)[0] == 0
        assert dirty(control) == 0
    assert pair.origin.read_bytes()[: len(DATA)] == DATA


def test_tags_are_not_lost(server, control):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
        handle.flush()
        wbcache("tag", control, "precious")
        status, _, errors = wbcache("drain", "--wait", control)
        assert status == 2 and "a drain would end what is tagged: 'precious'; remove the tags" in errors
        assert drain_state(control) == "off" and ask(control, "status")["tags"]
        wbcache("untag", control, "precious")
        assert wbcache("drain", "--wait", control)[0] == 0


@pytest.mark.parametrize("full", ["hold", "drop"])
def test_open_snapshots(pair, control, full):
    pair.make_origin(SIZE)
    with pair.serve(control=control, history_full=full, history="1h", tolerate=["ended"], **QUIET) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"a" * PAGE, 0)
            handle.flush()
            handle.pwrite(b"b" * PAGE, 0)
            handle.flush()
            with clients.connection(f"nbd+unix:///@1?socket={server.socket}"):
                status, _, errors = wbcache("drain", "--wait", control)
                assert (status == 0) == (full == "drop"), errors
                assert full == "drop" or "open snapshots hold the origin back" in errors


def test_clients_do_not_notice_an_origin_that_fails_meanwhile(pair, folder, control):
    """They are acknowledged as before; when the origin works again, the drain ends."""
    with slow_origin(pair, folder, "1ms") as origin:
        noise = ["cannot write to origin", "Input/output error", "destaging"]
        with pair.serve(control=control, check=False, tolerate=noise, **QUIET) as server:
            with clients.connection(server.uri) as handle:
                handle.pwrite(DATA, 0)
            with loads(server, 2) as running:
                wait_until(lambda: all(load.count > 50 for load in running))
                origin.fail("write")
                wbcache("drain", control)
                before = [load.count for load in running]
                # The first ones wait until the origin has been failing for five seconds.
                deadline = time.monotonic() + 30
                while not all(load.count > count + 50 for load, count in zip(running, before, strict=True)):
                    assert time.monotonic() < deadline, [load.error for load in running]
                    time.sleep(0.05)
                assert drain_state(control) == "draining"
                origin.heal()
                assert wbcache("drain", "--wait", control)[0] == 0
            assert dirty(control) == 0
            assert origin.backing.read_bytes()[: len(DATA)] == DATA


def test_killed_in_the_middle(pair, folder, control):
    """Nothing is lost that was flushed, and the next server knows of no drain."""
    with slow_origin(pair, folder, "5ms"):
        with pair.serve(control=control, check=False, **QUIET) as server:
            with clients.connection(server.uri) as handle:
                handle.pwrite(DATA, 0)
                handle.flush()
            wbcache("drain", control)
            server.kill()
        with pair.serve(control=control, check=False, **QUIET) as server, clients.connection(server.uri) as handle:
            assert handle.pread(len(DATA), 0) == DATA
            assert drain_state(control) == "off"


def test_a_stop_ends_it(pair, folder, control):
    """Clients that wait for the origin get their answer: what they wrote is committed by the stop."""
    with slow_origin(pair, folder, "20ms"):
        with pair.serve(control=control, check=False, **QUIET) as server:
            with clients.connection(server.uri) as handle:
                handle.pwrite(DATA, 0)
                wbcache("drain", control)
                write = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"z" * PAGE)), SIZE - PAGE)
                time.sleep(0.3)
                server.terminate()
                while not handle.aio_command_completed(write):
                    handle.poll(5000)
            server.wait()
        with pair.serve(check=False, **QUIET) as server, clients.connection(server.uri) as handle:
            assert handle.pread(len(DATA), 0) == DATA and handle.pread(1, SIZE - PAGE) == b"z"


def test_before_the_first_client(pair, control):
    """What recovery found is drained too."""
    pair.make_origin(SIZE)
    with pair.serve(**QUIET) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(DATA, 0)
    with pair.serve(control=control, **QUIET):
        assert wbcache("drain", "--wait", control)[0] == 0
        assert pair.origin.read_bytes()[: len(DATA)] == DATA


def test_as_json_and_in_status(server, control):
    with clients.connection(server.uri) as handle:
        handle.pwrite(DATA, 0)
    assert json.loads(wbcache("drain", "--wait", "--json", control)[1]) == {
        "drain": {"state": "drained", "bytes_left": 0, "bytes_total": ask(control, "drain")["drain"]["bytes_total"],
                  "incomplete": None}
    }  # fmt: skip
    assert "drain       done; writes wait for the origin\n" in wbcache("status", control)[1]
    wbcache("drain", "--cancel", control)
    assert "drain " not in wbcache("status", control)[1]


def test_one_that_waits_hears_of_a_cancel(pair, folder, control):
    with slow_origin(pair, folder, "50ms"):
        with pair.serve(control=control, check=False, destage_depth=1, **QUIET) as server:
            with clients.connection(server.uri) as handle:
                for block in range(0, 400, 2):
                    handle.pwrite(b"x" * PAGE, block * PAGE)
            command = ["/usr/bin/python3", "-m", "wbcache_core", "drain", "--wait", str(control)]
            waiting = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
            wait_until(lambda: drain_state(control) == "draining")
            wbcache("drain", "--cancel", control)
            assert waiting.communicate(timeout=60)[0] == NO_DRAIN
            assert waiting.returncode == 1
            server.kill()
