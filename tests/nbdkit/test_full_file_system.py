# SPDX-License-Identifier: BSD-3-Clause
"""The log is a sparse file, its file system runs full, and there is room again: ENOSPC meanwhile, and nothing lost."""

import contextlib
import random
import threading
import time

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.faulty_devices import small_ext4, small_file_system
from tests.support.gated_origin import wait_until
from tests.support.matching import same
from tests.support.nbdkit_server import HANG_UP_ERRORS

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
SETTINGS = {"ring_size": "2M", "log_size": "16M", "destage_delay": "1h", "lifetime_s": 60}
NOISE = ["cannot write to log", "No space left", "can be written again", *HANG_UP_ERRORS]
QUICK_S = 5

OLD = random.Random(1).randbytes(SIZE)
FIRST = random.Random(2).randbytes(MIB)
SECOND = random.Random(3).randbytes(MIB // 2)
FIRST_AT, SECOND_AT = MIB, 4 * MIB


def volume(*pieces):
    content = bytearray(OLD)
    for data, offset in pieces:
        content[offset : offset + len(data)] = data
    return bytes(content)


BOTH = volume((FIRST, FIRST_AT), (SECOND, SECOND_AT))


@contextlib.contextmanager
def no_space():
    """The request fails soon, with ENOSPC."""
    started = time.monotonic()
    with pytest.raises(nbd.Error) as caught:
        yield
    assert caught.value.errno == "ENOSPC", caught.value.string
    assert time.monotonic() - started < QUICK_S


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request, pair, folder):
    """The file system of the pair's log."""
    pair.make_origin(SIZE, OLD)
    make = {"tmpfs": small_file_system, "ext4": small_ext4}[request.param]
    with make(folder, 32 * MIB) as found:
        pair.log = found.path / "cache.log"
        yield found


@contextlib.contextmanager
def full(pair, small, **settings):
    """A server and a client with FIRST flushed, SECOND written, and no room for it."""
    with pair.serve(tolerate=NOISE, check=False, **{**SETTINGS, **settings}) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FIRST, FIRST_AT)
            handle.flush()
            small.fill_up()
            handle.pwrite(SECOND, SECOND_AT)
            for _ in range(3):
                with no_space():
                    handle.flush()
            with no_space():
                handle.pwrite(SECOND[:PAGE], SECOND_AT, nbd.CMD_FLAG_FUA)
            yield server, handle


def assert_all_is_there(pair):
    with pair.serve(on_exit="destage", **SETTINGS) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), BOTH)
    same(pair.origin.read_bytes(), BOTH)


def test_a_flush_works_again(pair, small):
    with full(pair, small) as (server, handle):
        same(clients.read_all(handle), BOTH)
        text = server.stderr_text()
        assert text.count("it is retried, and flushes fail until the log can be written") == 1, text
        small.make_room()
        handle.flush()
        assert "the log can be written again" in server.stderr_text()
        server.kill()
    assert_all_is_there(pair)


def test_nobody_has_to_ask_for_it(pair, small):
    with full(pair, small, commit_interval="50ms") as (server, _):
        small.make_room()
        deadline = time.monotonic() + 20
        while "the log can be written again" not in server.stderr_text():
            assert time.monotonic() < deadline, server.describe()
            time.sleep(0.05)
        server.kill()
    assert_all_is_there(pair)


@pytest.mark.parametrize("room", ["before", "after"])
def test_a_stop_loses_nothing(pair, small, room):
    """There is room before SIGTERM, or soon after it."""
    with full(pair, small, commit_interval="1h") as (server, _):
        if room == "before":
            small.make_room()
        server.terminate()
        if room == "after":
            time.sleep(0.7)
            small.make_room()
        assert server.wait() < QUICK_S
        assert "are lost" not in server.stderr_text(), server.describe()
    assert_all_is_there(pair)


def test_a_stop_without_room_says_what_is_lost(pair, small):
    with full(pair, small, ring_memory="private") as (server, _):
        server.terminate()
        assert server.wait() < QUICK_S
        assert "which no flush covered, could not be written and are lost" in server.stderr_text(), server.describe()
    small.make_room()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        same(handle.pread(len(FIRST), FIRST_AT), FIRST)


def test_a_stop_without_room_leaves_it_to_the_next_server(pair, small):
    with full(pair, small) as (server, _):
        server.terminate()
        assert server.wait() < QUICK_S
        assert "could not be written and stay in memory" in server.stderr_text(), server.describe()
    status, said, _ = wbcache("info", pair.log)
    assert status == 0 and "only in memory" in said
    small.make_room()
    assert_all_is_there(pair)


def test_writers_that_fill_the_ring(pair, small):
    """They get ENOSPC when the ring is full, and go on where they were when there is room."""
    pages = [bytes([number % 251 + 1]) * PAGE for number in range(SIZE // PAGE)]
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(pages[0], 0, nbd.CMD_FLAG_FUA)
            small.fill_up()
            done = 1
            with no_space():
                while done < len(pages):
                    handle.pwrite(pages[done], done * PAGE)
                    done += 1
            assert done < 2 * MIB // PAGE
            for _ in range(3):
                with no_space():
                    handle.pwrite(pages[done], done * PAGE)
            small.make_room()
            for number in range(done, len(pages)):
                handle.pwrite(pages[number], number * PAGE)
            handle.flush()
            server.kill()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), b"".join(pages))


class Client(threading.Thread):
    """Writes pages of its own and flushes, and does what failed with ENOSPC again, as a guest does that qemu pauses."""

    PAGES = 100

    def __init__(self, uri, number):
        super().__init__()
        self._uri, self._number = uri, number
        self.failures = 0
        self.rounds = 0
        self.error = None
        self.over = threading.Event()
        self.start()

    def run(self):
        try:
            with clients.connection(self._uri) as handle:
                while not self.over.is_set() or not self.rounds:
                    self.rounds += 1
                    for page in range(self.PAGES):
                        self._persist(handle.pwrite, self.data(page), (self._number * self.PAGES + page) * PAGE)
                    self._persist(handle.flush)
        except nbd.Error as error:
            self.error = error

    def data(self, page):
        return (self.rounds << 32 | self._number << 16 | page).to_bytes(8, "little") * (PAGE // 8)

    def _persist(self, request, *arguments):
        while True:
            try:
                request(*arguments)
                return
            except nbd.Error as error:
                if error.errno != "ENOSPC":
                    raise
                self.failures += 1
                time.sleep(0.02)


def test_clients_that_try_again(pair, small):
    """The file system runs full and gets room again while they write; what they flushed survives a kill."""
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FIRST[:PAGE], 0, nbd.CMD_FLAG_FUA)
        # Full at first, because after one lap of the log its file has all blocks, and a lap may take but a moment.
        small.fill_up()
        writers = [Client(server.uri, number) for number in range(4)]
        wait_until(lambda: all(writer.failures for writer in writers))
        for _ in range(3):
            small.make_room()
            time.sleep(0.05)
            small.fill_up()
            time.sleep(0.2)
        small.make_room()
        for writer in writers:
            writer.over.set()
        for writer in writers:
            writer.join(30)
            assert not writer.is_alive() and writer.error is None, writer.error
        server.kill()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        for number, writer in enumerate(writers):
            for page in range(Client.PAGES):
                same(handle.pread(PAGE, (number * Client.PAGES + page) * PAGE), writer.data(page))


def test_qemu(pair, small):
    """A flush of qemu's fails with ENOSPC, which is what it pauses a guest for, and works when it is sent again."""
    with full(pair, small) as (server, _):
        with pytest.raises(AssertionError, match="No space left on device"):
            clients.qemu_io(server.uri, "write -P 9 0 4096", "flush")
        small.make_room()
        clients.qemu_io(server.uri, "write -P 9 0 4096", "flush")
        server.kill()
    with pair.serve(**SETTINGS) as server:
        clients.qemu_io(server.uri, "read -P 9 0 4096")


def test_what_the_control_socket_says(pair, small, folder):
    control = folder / "control"
    with full(pair, small, control=control) as (server, _):
        facts = ask(control, "status")
        assert facts["state"] == "writable" and "No space left" in facts["errors"]["log"]
        status, text, _ = wbcache("status", control)
        assert status == 1 and "log fails" in text
        status, _, text = wbcache("tag", control, "now")
        assert status == 2 and "No space left" in text
        assert ask(control, "status")["tags"] == []
        small.make_room()
        assert wbcache("tag", control, "now")[0] == 0
        assert ask(control, "status")["errors"]["log"] is None
        server.kill()
    assert_all_is_there(pair)


def test_an_allocated_log_needs_no_room(pair, folder):
    """What docs/durability.md says of fallocate."""
    pair.make_origin(SIZE, OLD)
    with small_ext4(folder, 32 * MIB) as small:
        pair.log = small.path / "cache.log"
        clients.run("fallocate", "-l", "16M", pair.log)
        small.fill_up()
        with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
            for number in range(3):
                for offset in range(0, SIZE, MIB):
                    handle.pwrite(bytes([number + 1]) * MIB, offset)
                handle.flush()
            server.kill()
        with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
            same(clients.read_all(handle), b"\3" * SIZE)
