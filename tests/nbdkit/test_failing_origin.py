# SPDX-License-Identifier: BSD-3-Clause
"""The origin fails: writes go on into the log until it is full, nothing is lost, and destaging goes on by itself."""

import contextlib
import random
import threading
import time

import nbd
import pytest

from tests.support import clients, mounts
from tests.support.faulty_devices import faulty_device, small_file_system
from tests.support.matching import same
from tests.support.modelled_load import ModelledVolume
from tests.support.nbdkit_server import HANG_UP_ERRORS

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
SETTINGS = {"ring_size": "1M", "log_size": "4M", "destage_delay": "100ms", "origin_settle": "0", "lifetime_s": 60}

# Requests that need the origin wait five seconds for one that fails to come back.
FAILURE_LIMIT_S = 8
STOP_LIMIT_S = 5
NOISE = ["destaging", "log is full", "cannot be marked", "origin '.*': ", "origin is not complete", *HANG_UP_ERRORS]

OLD = random.Random(1).randbytes(SIZE)


def wait_for(server, words, limit_s=20, count=1):
    deadline = time.monotonic() + limit_s
    while server.stderr_text().count(words) < count:
        assert time.monotonic() < deadline, f"never said: {words}\n{server.describe()}"
        time.sleep(0.02)


def assert_fails(request, error):
    """The request ends soon, with this errno."""
    started = time.monotonic()
    with pytest.raises(nbd.Error) as caught:
        request()
    assert caught.value.errno == error, caught.value.string
    assert time.monotonic() - started < FAILURE_LIMIT_S


def assert_fails_at_once(request, error):
    """The origin has been failing for a while, so nothing is waited for any more."""
    started = time.monotonic()
    assert_fails(request, error)
    assert time.monotonic() - started < 2


class Volume:
    """What was written through a connection, over the content of the origin."""

    def __init__(self, seed=2):
        self.content = bytearray(OLD)
        self._choose = random.Random(seed)

    def write(self, handle, count, flags=0):
        """Write that many pages at random places; those of a failed request keep what they have or get the new."""
        for _ in range(count):
            place = self._choose.randrange(SIZE // PAGE) * PAGE
            data = self._choose.randbytes(PAGE)
            handle.pwrite(data, place, flags)
            self.content[place : place + PAGE] = data

    def write_until_full(self, handle, error):
        """Write until a request fails, which has to be with this error, and must not change a byte."""
        with pytest.raises(nbd.Error) as caught:
            self.write(handle, 4 * MIB // PAGE)
        assert caught.value.errno == error, caught.value.string

    def check(self, handle):
        same(clients.read_all(handle), bytes(self.content))

    def check_origin(self, path):
        same(path.read_bytes(), bytes(self.content))


@pytest.fixture
def faulty_origin(pair, folder):
    """Makes the pair's origin a faulty device, for one test, as a file or over NBD."""
    with contextlib.ExitStack() as stack:

        def make(kind="file", **settings):
            device = stack.enter_context(faulty_device(folder, "origin.img", SIZE, OLD, **settings))
            pair.origin = device.path if kind == "file" else device.uri
            return device

        yield make


@pytest.mark.parametrize(("kind", "error"), [("file", "EIO"), ("nbd", "ENOSPC")])
def test_write_error(pair, faulty_origin, kind, error):
    origin = faulty_origin(kind, error=error)
    written = Volume()
    with pair.serve(tolerate=NOISE, check=kind == "file", on_exit="destage", **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            origin.fail("write")
            written.write(handle, 100)
            handle.flush()
            wait_for(server, "destaging is stalled")
            assert f"cannot write to origin '{pair.origin}'" in server.stderr_text()
            assert "writes go on until the log is full" in server.stderr_text()
            written.write(handle, 100, nbd.CMD_FLAG_FUA)
            handle.flush()
            handle.zero(MIB, 3 * MIB)
            handle.trim(MIB, 5 * MIB)
            written.content[3 * MIB : 4 * MIB] = written.content[5 * MIB : 6 * MIB] = bytes(MIB)
            written.write_until_full(handle, error)
            handle.flush()
            written.check(handle)
            assert_fails_at_once(lambda: handle.pwrite(b"x" * PAGE, 0), error)
            assert_fails_at_once(lambda: handle.pwrite(b"x" * 4 * MIB, 0), error)
            assert "the log is full" in server.stderr_text()
            origin.heal()
            wait_for(server, "destaging goes on")
            written.write(handle, 1000)
            written.check(handle)
    written.check_origin(origin.backing)


class BlockedWriter(threading.Thread):
    """Writes pages until the log is full and its write is blocked, and on until that one fails."""

    def __init__(self, uri, volume):
        super().__init__()
        self._uri = uri
        self._volume = volume
        self.count = 0
        self.start()

    def run(self):
        with contextlib.suppress(nbd.Error), clients.connection(self._uri) as handle:
            while True:
                self._volume.write(handle, 1)
                self.count += 1

    def wait_until_blocked(self):
        count = -1
        while count != self.count:
            count = self.count
            time.sleep(0.7)
        assert self.count > 100
        assert self.is_alive(), "the write was not waiting for the origin"


@pytest.mark.parametrize(
    ("end", "full"), [("commit", False), ("commit", True), ("destage", False), ("destage", True), ("kill", True)]
)
def test_end_while_it_fails(pair, faulty_origin, end, full):
    """SIGTERM takes seconds, and the log keeps what the origin lacks; the next server brings it there."""
    origin = faulty_origin()
    written = Volume()
    on_exit = "destage" if end == "destage" else "commit"
    with pair.serve(tolerate=NOISE, on_exit=on_exit, check=False, **SETTINGS) as server:
        origin.fail("write")
        with clients.connection(server.uri) as handle:
            written.write(handle, 300)
            wait_for(server, "destaging is stalled")
        writer = BlockedWriter(server.uri, written) if full else None
        if writer:
            writer.wait_until_blocked()
        if end == "kill":
            with clients.connection(server.uri) as handle:
                handle.flush()
            server.kill()
        else:
            assert server.stop() < STOP_LIMIT_S
        if writer:
            writer.join(FAILURE_LIMIT_S)
        if end == "destage":
            assert "the origin is not complete" in server.stderr_text()
    with pair.serve(options=["-r"]) as server, clients.connection(server.uri) as handle:
        written.check(handle)
    with pair.serve(tolerate=NOISE, on_exit="destage", **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            wait_for(server, "destaging is stalled")
            written.check(handle)
            origin.heal()
            wait_for(server, "destaging goes on")
            written.write(handle, 10)
    written.check_origin(origin.backing)


def test_requests_that_wait_for_the_origin(pair, faulty_origin):
    """flush and FUA, where they mean the origin, fail with its errno, also one that was waiting when the failure began;
    later they succeed."""
    origin = faulty_origin(error="ENOSPC", delay="50ms")
    written = Volume()
    settings = {**SETTINGS, "flush": "origin", "fua": "origin"}
    with pair.serve(tolerate=NOISE, **settings) as server, clients.connection(server.uri) as handle:
        written.write(handle, 10)
        with clients.connection(server.uri) as waiting:
            cookie = waiting.aio_flush()
            origin.fail("write")
            with pytest.raises(nbd.Error) as caught:
                while not waiting.aio_command_completed(cookie):
                    assert waiting.poll(FAILURE_LIMIT_S * 1000) == 1
            assert caught.value.errno == "ENOSPC"
        assert_fails_at_once(handle.flush, "ENOSPC")
        assert_fails_at_once(lambda: handle.pwrite(b"x" * PAGE, 0, nbd.CMD_FLAG_FUA), "ENOSPC")
        assert_fails_at_once(lambda: handle.zero(PAGE, PAGE, nbd.CMD_FLAG_FUA), "ENOSPC")
        written.content[: 2 * PAGE] = b"x" * PAGE + bytes(PAGE)
        written.write(handle, 10)
        written.check(handle)
        origin.heal()
        wait_for(server, "destaging goes on")
        written.write(handle, 10)
        handle.flush()
        written.check_origin(origin.backing)
        written.write(handle, 3, nbd.CMD_FLAG_FUA)
        written.check_origin(origin.backing)


def test_acknowledged_by_the_origin(pair, faulty_origin):
    """A short failure is waited for, a long one is not."""
    origin = faulty_origin()
    written = Volume()
    with pair.serve(tolerate=NOISE, ack="origin", **SETTINGS) as server, clients.connection(server.uri) as handle:
        written.write(handle, 3)
        written.check_origin(origin.backing)
        origin.fail("write")
        healer = threading.Timer(1.5, origin.heal)
        healer.start()
        written.write(handle, 1)
        healer.join()
        written.check_origin(origin.backing)
        origin.fail("write")
        assert_fails(lambda: handle.pwrite(b"x" * PAGE, 0), "EIO")
        assert_fails_at_once(lambda: handle.trim(PAGE, PAGE), "EIO")
        origin.heal()
        wait_for(server, "destaging goes on", count=2)
        written.content[: 2 * PAGE] = b"x" * PAGE + bytes(PAGE)
        written.write(handle, 3)
        written.check_origin(origin.backing)


@pytest.mark.parametrize("kind", ["file", "nbd"])
def test_read_error(pair, faulty_origin, kind):
    """EIO for what only the origin has, and for writes that need part of such a page; nothing else suffers."""
    origin = faulty_origin(kind)
    data = random.Random(3).randbytes(MIB)
    settings = {**SETTINGS, "on_exit": "destage", "destage_delay": "1h"}
    with pair.serve(tolerate=NOISE, check=False, **settings) as server, clients.connection(server.uri) as handle:
        handle.pwrite(data, MIB)
        origin.forget()
        origin.fail("read")
        assert_fails(lambda: handle.pread(PAGE, 0), "EIO")
        assert_fails(lambda: handle.pread(3 * MIB, 0), "EIO")
        assert_fails(lambda: handle.pwrite(b"part of a page", 5 * MIB), "EIO")
        same(handle.pread(MIB, MIB), data)
        handle.pwrite(data, 6 * MIB)
        handle.pwrite(b"part", 6 * MIB + 5)
        handle.flush()
        origin.heal()
        written = Volume()
        written.content[MIB : 2 * MIB] = written.content[6 * MIB : 7 * MIB] = data
        written.content[6 * MIB + 5 : 6 * MIB + 9] = b"part"
        written.check(handle)
    written.check_origin(origin.backing)


def test_read_error_at_start(pair, faulty_origin):
    """Then nobody can tell whether it is the right origin."""
    origin = faulty_origin()
    with pair.serve(tolerate=NOISE, **SETTINGS) as server:
        clients.qemu_io(server.uri, "write -P 0x77 0 4096")
        server.kill()
    before = pair.log.read_bytes()
    origin.forget()
    origin.fail("read")
    server = pair.start(wait=False, **SETTINGS)
    server.wait()
    assert server.status == 1, server.describe()
    assert f"cannot read origin '{origin.path}': Input/output error" in server.stderr_text(), server.describe()
    assert pair.log.read_bytes() == before
    origin.heal()
    with pair.serve(tolerate=NOISE, **SETTINGS) as server:
        clients.qemu_io(server.uri, "read -P 0x77 0 4096")


@pytest.mark.parametrize("kind", ["file", "nbd"])
def test_origin_that_vanishes(pair, faulty_origin, kind):
    """Pulled out while it is in use: writes and flushes go on, and what it lacks is there when it is back."""
    origin = faulty_origin(kind)
    written = Volume()
    with pair.serve(tolerate=NOISE, check=False, on_exit="destage", **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            written.write(handle, 100)
            origin.vanish()
            written.write(handle, 100)
            wait_for(server, "destaging is stalled")
            written.write(handle, 100)
            handle.flush()
            if kind == "file":
                assert_fails(lambda: clients.read_all(handle), "EIO")
        assert server.stop() < STOP_LIMIT_S
    pair.origin = origin.backing
    moved = {**SETTINGS, "force": "origin-moved"}
    with pair.serve(on_exit="destage", **moved) as server, clients.connection(server.uri) as handle:
        written.check(handle)
    written.check_origin(origin.backing)


def test_single_writes_that_fail(pair, faulty_origin):
    """One in five, of writes in flight side by side: no client notices, for what fails is repeated.

    A page that fails several times in a row counts as a bad sector for a while.
    """
    origin = faulty_origin(rate="20%", delay="1ms")
    written = Volume()
    settings = {**SETTINGS, "destage_depth": "4"}
    with pair.serve(tolerate=[*NOISE, "accepts the 4096 bytes"], on_exit="destage", **settings) as server:
        with clients.connection(server.uri) as handle:
            origin.fail("write")
            for _ in range(8):
                written.write(handle, 60)
                time.sleep(0.2)
            written.check(handle)
            origin.heal()
    written.check_origin(origin.backing)


def test_mixed_load_while_it_fails_time_and_again(pair, faulty_origin):
    """Failures shorter than the patience of requests: no client notices, and all is right in the end."""
    origin = faulty_origin(delay="1ms")
    written = ModelledVolume(OLD, seed=5)
    settings = {**SETTINGS, "compress": "zstd"}
    over = threading.Event()

    def disturb(server):
        wait_for(server, "destaging is stalled")
        origin.heal()
        while not over.wait(2):
            origin.fail("write")
            over.wait(2)
            origin.heal()

    origin.fail("write")
    with pair.serve(tolerate=NOISE, on_exit="destage", **settings) as server:
        disturber = threading.Thread(target=disturb, args=(server,))
        disturber.start()
        try:
            written.run(server.uri, 12 * MIB)
            written.compare(server.uri)
        finally:
            over.set()
            disturber.join()
    assert "destaging is stalled" in server.stderr_text()
    written.compare_origin(origin.backing)


def test_no_space(pair, folder):
    """A sparse origin on a file system that is full."""
    written = Volume()
    written.content = bytearray(SIZE)
    with small_file_system(folder, SIZE + 64 * 1024) as small:
        pair.origin = small.path / "origin.img"
        pair.make_origin(SIZE)
        with pair.serve(tolerate=NOISE, on_exit="destage", **SETTINGS) as server:
            with clients.connection(server.uri) as handle:
                small.fill_up()
                written.write(handle, 100)
                handle.flush()
                wait_for(server, f"cannot write to origin '{pair.origin}': No space left on device")
                written.write(handle, 100)
                handle.flush()
                small.make_room()
                wait_for(server, "destaging goes on")
                written.check(handle)
        written.check_origin(pair.origin)


def test_sync_error(pair, faulty_origin):
    """A block device takes the writes into the kernel's memory and fails to sync them, after which the kernel counts
    them as written. So the whole batch has to be written again."""
    origin = faulty_origin()
    written = Volume()
    with mounts.loop_device(origin.path) as device:
        pair.origin = device
        settings = {**SETTINGS, "flush": "origin"}
        with pair.serve(tolerate=NOISE, **settings) as server, clients.connection(server.uri) as handle:
            origin.fail("write")
            written.write(handle, 200)
            wait_for(server, f"cannot sync origin '{device}'")
            origin.heal()
            wait_for(server, "destaging goes on")
            handle.flush()
            written.check_origin(origin.backing)
            written.check(handle)
