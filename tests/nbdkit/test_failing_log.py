# SPDX-License-Identifier: BSD-3-Clause
"""The log device fails: nothing more is durable, reads go on, what was flushed stays; all goes on when it is back."""

import contextlib
import random
import threading
import time

import nbd
import pytest

from tests.support import clients
from tests.support.faulty_devices import faulty_device, small_file_system
from tests.support.matching import same
from tests.support.nbdkit_server import HANG_UP_ERRORS

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
LOG_BYTES = 16 * MIB
SETTINGS = {"ring_size": "1M", "log_size": str(LOG_BYTES), "destage_delay": "1h", "lifetime_s": 60}
STOP_LIMIT_S = 5
NOISE = ["cannot write to log", "cannot sync log", "cannot read log", "can be written again", *HANG_UP_ERRORS]
NOT_DURABLE = "it is retried, and flushes fail until the log can be written"

OLD = random.Random(1).randbytes(SIZE)
FLUSHED = random.Random(2).randbytes(MIB)
LOST = random.Random(3).randbytes(MIB // 4)
FLUSHED_AT, LOST_AT = MIB, 4 * MIB


def wait_until(condition, what, limit_s=15):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def assert_fails(request, error):
    """The request ends soon, with this errno."""
    started = time.monotonic()
    with pytest.raises(nbd.Error) as caught:
        request()
    assert caught.value.errno == error, caught.value.string
    assert time.monotonic() - started < STOP_LIMIT_S


def assert_promises_nothing(handle, error):
    """What is to be durable fails; everything else goes on, as with any volatile write cache."""
    for request in (
        lambda: handle.flush(),
        lambda: handle.pwrite(LOST[:PAGE], LOST_AT, nbd.CMD_FLAG_FUA),
        lambda: handle.pwrite(LOST[10:20], LOST_AT + 10, nbd.CMD_FLAG_FUA),
        lambda: handle.flush(),
    ):
        assert_fails(request, error)
    handle.pwrite(LOST[:10], LOST_AT)


def volume(*pieces):
    """The origin's first content with pieces (data, offset) over it."""
    content = bytearray(OLD)
    for data, offset in pieces:
        content[offset : offset + len(data)] = data
    return bytes(content)


def assert_kept_after_restart(pair, **settings):
    """What was flushed is there; what was not is there or not, page by page; the volume can be written again."""
    with pair.serve(on_exit="destage", **settings) as server, clients.connection(server.uri) as handle:
        found = clients.read_all(handle)
        handle.pwrite(b"again", 77)
        handle.flush()
    lost = range(LOST_AT, LOST_AT + len(LOST), PAGE)
    kept = [at for at in lost if found[at : at + PAGE] == LOST[at - LOST_AT : at - LOST_AT + PAGE]]
    pages = [(LOST[at - LOST_AT : at - LOST_AT + PAGE], at) for at in kept]
    same(found, volume((FLUSHED, FLUSHED_AT), *pages))
    same(pair.origin.read_bytes(), volume((FLUSHED, FLUSHED_AT), *pages, (b"again", 77)))


@pytest.fixture
def faulty_log(pair, folder):
    """Makes the pair's log a faulty device, for one test."""
    with contextlib.ExitStack() as stack:

        def make(**settings):
            pair.make_origin(SIZE, OLD)
            device = stack.enter_context(faulty_device(folder, "cache.log", LOG_BYTES, **settings))
            pair.log = device.path
            return device

        yield make


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("end", ["stop", "stop-destage", "kill"])
def test_write_error(pair, faulty_log, error, end):
    log = faulty_log(error=error)
    on_exit = "destage" if end == "stop-destage" else "commit"
    with pair.serve(tolerate=NOISE, check=False, on_exit=on_exit, ring_memory="private", **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT)
            handle.flush()
            log.fail("write")
            handle.pwrite(LOST, LOST_AT)
            assert_promises_nothing(handle, error)
            same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT), (LOST, LOST_AT)))
        with clients.connection(server.uri) as another:
            same(another.pread(len(LOST), LOST_AT), LOST)
            assert_promises_nothing(another, error)
        text = server.stderr_text()
        assert f"cannot write to log '{log.path}'" in text, text
        assert text.count(NOT_DURABLE) == 1, text
        assert all(word in text for word in ("only in this server's memory", "nbdcopy")), text
        if end == "kill":
            server.kill()
        else:
            assert server.stop() < STOP_LIMIT_S
            assert "are lost" in server.stderr_text().partition("stopping")[2], server.describe()
    log.heal()
    assert pair.origin.read_bytes() in (OLD, volume((FLUSHED, FLUSHED_AT)))
    assert_kept_after_restart(pair)


@pytest.mark.parametrize("end", ["stop", "stop-destage", "kill"])
def test_a_ring_in_shared_memory_keeps_what_could_not_be_written(pair, faulty_log, end):
    log = faulty_log(error="EIO")
    on_exit = "destage" if end == "stop-destage" else "commit"
    with pair.serve(tolerate=NOISE, check=False, on_exit=on_exit, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT)
            handle.flush()
            log.fail("write")
            handle.pwrite(LOST, LOST_AT)
            assert_promises_nothing(handle, "EIO")
            accepted = clients.read_all(handle)
        if end == "kill":
            server.kill()
        else:
            server.stop()
            assert "stay in memory" in server.stderr_text().partition("stopping")[2], server.describe()
    log.heal()
    with pair.serve(on_exit="destage") as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), accepted)
    same(pair.origin.read_bytes(), accepted)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("end", ["flush", "stop", "stop-destage"])
def test_it_comes_back(pair, faulty_log, error, end):
    """Nothing is lost then: the next flush makes all of it durable, and so does a stop."""
    log = faulty_log(error=error)
    on_exit = "destage" if end == "stop-destage" else "commit"
    settings = {**SETTINGS, "commit_interval": "1h"}
    with pair.serve(tolerate=NOISE, check=False, on_exit=on_exit, **settings) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT)
            handle.flush()
            log.fail("write")
            handle.pwrite(LOST, LOST_AT)
            assert_promises_nothing(handle, error)
            log.heal()
            if end == "flush":
                handle.flush()
                server.kill()
            else:
                assert server.stop() < STOP_LIMIT_S
        assert "are lost" not in server.stderr_text()
    if end == "stop-destage":
        same(pair.origin.read_bytes(), volume((FLUSHED, FLUSHED_AT), (LOST, LOST_AT)))
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT), (LOST, LOST_AT)))


def test_it_is_noticed_without_a_flush(pair, faulty_log):
    """The commit in the background fails, and says so at the next request that promises anything."""
    log = faulty_log()
    settings = {**SETTINGS, "commit_interval": "100ms", "ring_memory": "private"}
    with pair.serve(tolerate=NOISE, check=False, **settings) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT)
            handle.flush()
            log.fail("write")
            handle.pwrite(LOST, LOST_AT)
            wait_until(lambda: NOT_DURABLE in server.stderr_text(), "a message")
            assert_promises_nothing(handle, "EIO")
        assert server.stop() < STOP_LIMIT_S
        # What was acknowledged and is lost now is not passed over in silence.
        assert "lost" in server.stderr_text().partition("stopping")[2], server.describe()
    log.heal()
    assert_kept_after_restart(pair)


def test_superblock_write_error(pair, faulty_log):
    """Nobody writes; it is destaging that meets the failure, and goes on when it is over."""
    log = faulty_log()
    settings = {**SETTINGS, "destage_delay": "100ms"}
    with pair.serve(tolerate=[*NOISE, "destaging goes on"], check=False, **settings) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT)
            handle.flush()
            log.fail("write")
            wait_until(lambda: "destaging is stalled: cannot write to log" in server.stderr_text(), "a message")
            same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT)))
            log.heal()
            wait_until(lambda: "destaging goes on" in server.stderr_text(), "a message")
            wait_until(lambda: pair.origin.read_bytes() == volume((FLUSHED, FLUSHED_AT)), "all of it on the origin")
            handle.pwrite(LOST, LOST_AT)
            handle.flush()
        assert server.stop() < STOP_LIMIT_S
    assert_kept_after_restart(pair)


def test_log_that_vanishes(pair, faulty_log):
    """Pulled out while it is in use: what is in RAM or on the origin can be read, the rest not, and nothing hangs."""
    log = faulty_log()
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT)
            handle.flush()
            log.vanish()
            handle.pwrite(LOST, LOST_AT)
            assert_promises_nothing(handle, "EIO")
            same(handle.pread(PAGE, 0), OLD[:PAGE])
            same(handle.pread(PAGE, FLUSHED_AT + MIB - PAGE), FLUSHED[-PAGE:])
            same(handle.pread(len(LOST), LOST_AT), LOST)
        assert server.stop() < STOP_LIMIT_S
    assert pair.origin.read_bytes() in (OLD, volume((FLUSHED, FLUSHED_AT)))
    pair.log = log.backing
    assert_kept_after_restart(pair)


def test_slow_log(pair, faulty_log):
    """Each write of it takes a third of a second. SIGTERM in the middle waits for what was accepted, not longer."""
    faulty_log(delay="300ms")
    with pair.serve(tolerate=NOISE, **SETTINGS) as server:
        loads = [Load(server.uri, number * Load.PAGES) for number in range(3)]
        time.sleep(2)
        assert server.stop() < STOP_LIMIT_S
        for load in loads:
            load.join(20)
            assert not load.is_alive()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        content = handle.pread(SIZE, 0)
    for load in loads:
        load.check(content, acknowledged=True)


def test_nobody_hears_of_the_end_before_the_commit(pair, faulty_log):
    """A client that is told so hangs up, which makes some versions of nbdkit abort: nothing is lost then, even where
    the ring does not outlive the server."""
    faulty_log(delay="300ms")
    pages = [bytes([number % 255 + 1]) * PAGE for number in range(6 * MIB // PAGE)]
    written = 0
    with pair.serve(tolerate=NOISE, **{**SETTINGS, "ring_size": "8M", "ring_memory": "private"}) as server:
        with clients.connection(server.uri) as handle:
            with pytest.raises(nbd.Error):
                for number, page in enumerate(pages + pages):
                    handle.pwrite(page, number % len(pages) * PAGE)
                    written += 1
                    if written == len(pages):
                        server.terminate()
            server.kill()
    assert written >= len(pages)
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        for number, page in enumerate(pages):
            same(handle.pread(PAGE, number * PAGE), page)


@pytest.mark.parametrize("level", ["ack", "fua"])
def test_every_write_that_waits_for_the_log(pair, faulty_log, level):
    log = faulty_log()
    settings = {"ack": "log"} if level == "ack" else {}
    flag = nbd.CMD_FLAG_FUA if level == "fua" else 0
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS, **settings) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(FLUSHED, FLUSHED_AT, flag)
            log.fail("write")
            assert_fails(lambda: handle.pwrite(LOST, LOST_AT, flag), "EIO")
            assert_fails(lambda: handle.pwrite(LOST, LOST_AT, flag), "EIO")
            server.kill()
    log.heal()
    assert_kept_after_restart(pair)


class Load(threading.Thread):
    """Writes a counter to pages of its own until a request fails."""

    PAGES = 64

    def __init__(self, uri, first):
        super().__init__()
        self._uri = uri
        self._first = first
        self.sent = [0] * self.PAGES
        self.written = [0] * self.PAGES
        self.flushed = [0] * self.PAGES
        self.error = None
        self.start()

    def run(self):
        with clients.connection(self._uri) as handle:
            count = 0
            try:
                while True:
                    count += 1
                    page = count * 7 % self.PAGES
                    self.sent[page] = count
                    handle.pwrite(count.to_bytes(8, "little") * (PAGE // 8), (self._first + page) * PAGE)
                    self.written[page] = count
                    if count % 20 == 0:
                        written = list(self.written)
                        handle.flush()
                        self.flushed = written
            except nbd.Error as error:
                self.error = error.errno

    def check(self, content, acknowledged=False):
        """Each page holds one write, not older than what was flushed, or, if asked for, acknowledged."""
        for page in range(self.PAGES):
            place = (self._first + page) * PAGE
            data = content[place : place + PAGE]
            if not self.sent[page]:
                assert data == OLD[place : place + PAGE]
                continue
            count = 0 if data == OLD[place : place + PAGE] else int.from_bytes(data[:8], "little")
            assert not count or data == data[:8] * (PAGE // 8)
            assert (self.written if acknowledged else self.flushed)[page] <= count <= self.sent[page]


@pytest.mark.parametrize("trouble", ["write error", "no space"])
def test_under_load(pair, folder, faulty_log, trouble):
    """Clients of several connections, some of them blocked in a commit or waiting for room, all get the error."""
    with contextlib.ExitStack() as stack:
        if trouble == "write error":
            log = faulty_log(error="EIO", delay="2ms")
        else:
            pair.make_origin(SIZE, OLD)
            small = stack.enter_context(small_file_system(folder, 4 * MIB))
            pair.log = small.path / "cache.log"
        with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
            loads = [Load(server.uri, number * Load.PAGES) for number in range(6)]
            if trouble == "write error":
                time.sleep(0.7)
                log.fail("write")
            for load in loads:
                load.join(20)
                assert not load.is_alive()
                assert load.error == ("EIO" if trouble == "write error" else "ENOSPC")
                assert any(load.flushed)
            with clients.connection(server.uri) as handle:
                for load in loads:
                    load.check(handle.pread(SIZE, 0))
            assert server.stop() < STOP_LIMIT_S
        if trouble == "write error":
            log.heal()
        else:
            clients.run("mount", "-o", "remount,size=64M", small.path)
        with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
            for load in loads:
                load.check(handle.pread(SIZE, 0))


def test_no_space_for_the_log_itself(pair, folder):
    """The first client finds a read-only volume, and the next one may write when there is room: without a restart."""
    pair.make_origin(SIZE, OLD)
    with small_file_system(folder, MIB) as small:
        pair.log = small.path / "cache.log"
        small.fill_up()
        with pair.serve(tolerate=["No space left"], check=False, **SETTINGS) as server:
            for _ in range(2):
                with clients.connection(server.uri) as handle:
                    assert handle.is_read_only()
                    same(clients.read_all(handle), volume())
            assert f"read-only: cannot write to log '{pair.log}': No space left on device" in server.stderr_text()
            small.make_room()
            with clients.connection(server.uri) as handle:
                handle.pwrite(LOST, LOST_AT)
                handle.flush()
                server.kill()
        with pair.serve(on_exit="destage", **SETTINGS) as server, clients.connection(server.uri) as handle:
            same(clients.read_all(handle), volume((LOST, LOST_AT)))
    same(pair.origin.read_bytes(), volume((LOST, LOST_AT)))


def test_read_error(pair, faulty_log):
    """EIO for what only the log has, nothing else suffers; all is well again when the device is."""
    log = faulty_log()
    settings = {**SETTINGS, "on_exit": "destage"}
    with pair.serve(tolerate=[*NOISE, "destaging"], **settings) as server, clients.connection(server.uri) as handle:
        log.fail("read")
        handle.pwrite(FLUSHED, FLUSHED_AT)
        handle.flush()
        handle.pwrite(FLUSHED, FLUSHED_AT + MIB)
        handle.pwrite(LOST, LOST_AT)
        handle.flush()
        same(handle.pread(len(LOST), LOST_AT), LOST)
        same(handle.pread(PAGE, 0), OLD[:PAGE])
        log.forget()
        assert_fails(lambda: handle.pread(PAGE, FLUSHED_AT), "EIO")
        assert_fails(lambda: handle.pwrite(b"part of a page", FLUSHED_AT + 5), "EIO")
        handle.pwrite(FLUSHED[:PAGE], FLUSHED_AT)
        wait_until(lambda: "destaging is stalled: cannot read log" in server.stderr_text(), "a message")
        log.heal()
        same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT), (FLUSHED, FLUSHED_AT + MIB), (LOST, LOST_AT)))
        wait_until(lambda: "destaging goes on" in server.stderr_text(), "destaging")
    same(pair.origin.read_bytes(), volume((FLUSHED, FLUSHED_AT), (FLUSHED, FLUSHED_AT + MIB), (LOST, LOST_AT)))


def unreadable_log_at_start(pair, log):
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        handle.pwrite(FLUSHED, FLUSHED_AT)
        handle.flush()
        server.kill()
    log.fail("read")
    log.forget()


def test_read_error_at_start(pair, faulty_log):
    """A log that cannot be read is no blank log, and no lost one."""
    log = faulty_log()
    unreadable_log_at_start(pair, log)
    before = log.backing.read_bytes()
    for force in ({}, {"force": "discard-log"}):
        server = pair.start(wait=False, **SETTINGS, **force)
        server.wait()
        assert server.status == 1, server.describe()
        assert f"cannot read log '{log.path}': Input/output error" in server.stderr_text(), server.describe()
    assert log.backing.read_bytes() == before
    log.heal()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT)))


def test_write_error_at_start(pair, faulty_log):
    """The recovered state can be read; the volume is read-only until the log takes writes."""
    log = faulty_log()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri) as handle:
        handle.pwrite(FLUSHED, FLUSHED_AT)
        handle.flush()
        server.kill()
    log.fail("write")
    with pair.serve(options=["-r"], check=False, **SETTINGS) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT)))
    with pair.serve(tolerate=NOISE, check=False, on_exit="destage", **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            assert handle.is_read_only()
            same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT)))
        assert f"read-only: cannot write to log '{log.path}'" in server.stderr_text()
        log.heal()
        with clients.connection(server.uri) as handle:
            same(clients.read_all(handle), volume((FLUSHED, FLUSHED_AT)))
            handle.pwrite(LOST, LOST_AT)
    same(pair.origin.read_bytes(), volume((FLUSHED, FLUSHED_AT), (LOST, LOST_AT)))
