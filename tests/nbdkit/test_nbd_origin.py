# SPDX-License-Identifier: BSD-3-Clause
"""The origin is an NBD server: it goes away and comes back, it is slow, it takes one client only."""

import errno
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nbd
import pytest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.matching import same
from tests.support.modelled_load import ModelledVolume
from tests.support.nbdkit_server import HANG_UP_ERRORS, running
from tests.support.volatile_disk import VolatileDisk
from wbcache_core.device.nbd_device import NbdDevice
from wbcache_core.errors import DeviceLostError

MIB = 1 << 20
PAGE = 4096
RUN = 4 * PAGE
SIZE = 8 * MIB
OLD = random.Random(1).randbytes(SIZE)
SETTINGS = {"ring_size": "1M", "log_size": "4M", "destage_delay": "50ms", "origin_settle": "0"}
SLOW = {"write_seconds": 0.0005, "flush_seconds": 0.02}
LIMIT_S = 30
NOISE = ["destaging", "log is full", "origin 'nbd", *HANG_UP_ERRORS]


def _wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _outages(disk, rng, count):
    """Kill a disk's server time and again, lose some of what it had not flushed, and start it anew; returns how often
    something was lost. In the thread that started the disk: nbdkit ends with it."""
    losses = 0
    for _ in range(count):
        # A batch goes well before the next outage: clients are not kept waiting for ever.
        _wait_until(lambda: disk.has_unsynced)
        _wait_until(lambda: not disk.has_unsynced)
        time.sleep(rng.uniform(0, 0.3))
        _wait_until(lambda: disk.has_unsynced)
        unsynced, survived = disk.settle(rng, rng.choice(("none", "mixed")))
        losses += unsynced > survived
        time.sleep(rng.choice((0, 0.3, 1)))
        disk.start(**SLOW)
    return losses


def _load(written, uri, over):
    while not over.is_set():
        written.run(uri, MIB // 2, largest=32 * 1024)
        over.wait(0.1)


def test_a_server_that_is_killed_and_comes_back(pair, folder, seed):
    """It loses writes that it had answered and not flushed. No client notices, and nothing is lost in the end."""
    disk = VolatileDisk(folder, "origin", SIZE)
    disk.durable.write_bytes(OLD)
    disk.start(**SLOW)
    pair.origin = disk.uri
    written = ModelledVolume(OLD, seed)
    over = threading.Event()
    try:
        settings = {**SETTINGS, "on_exit": "destage", "destage_depth": "4", "log_size": "16M"}
        with pair.serve(tolerate=NOISE, check=False, **settings) as server:
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(_load, written, server.uri, over)
                try:
                    assert _outages(disk, random.Random(seed), 6)
                finally:
                    over.set()
                load.result()
            written.compare(server.uri)
        disk.settle(random.Random(seed), "none")
    finally:
        disk.destroy()
    written.compare_origin(disk.durable)
    pair.origin = disk.durable
    pair.check()


@pytest.mark.parametrize("connections", [1, 4])
def test_a_sync_does_not_pass_over_what_a_lost_server_had_not_flushed(folder, connections):
    """Though a read has met the loss first, and the server is back."""
    disk = VolatileDisk(folder, "origin", SIZE)
    try:
        disk.start()
        device = NbdDevice(disk.uri, connections)
        device.write([memoryview(b"w" * PAGE)], 5 * PAGE)
        disk.settle(random.Random(1), "none")
        disk.start()
        page = memoryview(bytearray(PAGE))
        device.read_into(page, 5 * PAGE)
        assert not any(page)
        with pytest.raises(DeviceLostError):
            device.sync()
        device.write([memoryview(b"w" * PAGE)], 5 * PAGE)
        device.sync()
        disk.settle(random.Random(1), "none")
    finally:
        disk.destroy()
    assert disk.durable.read_bytes()[5 * PAGE : 6 * PAGE] == b"w" * PAGE


def test_a_flush_does_not_wait_for_a_slow_server(pair, folder):
    with faulty_device(folder, "origin.img", SIZE, OLD, delay="300ms") as origin:
        pair.origin = origin.uri
        settings = {**SETTINGS, "destage_depth": "1", "destage_delay": "0", "low_watermark": "0"}
        with pair.serve(tolerate=NOISE, check=False, **settings) as server:
            with clients.connection(server.uri) as handle:
                started = time.monotonic()
                for block in range(0, 400, 20):
                    handle.pwrite(b"w" * PAGE, block * PAGE)
                handle.flush()
                assert time.monotonic() - started < 2 < 20 * 0.3
                assert handle.pread(PAGE, 380 * PAGE) == b"w" * PAGE


def test_a_full_log_before_a_slow_server(pair, folder):
    """Writes take longer, and none fails."""
    data = random.Random(3).randbytes(4 * MIB)
    with faulty_device(folder, "origin.img", SIZE, OLD, delay="40ms") as origin:
        pair.origin = origin.uri
        settings = {**SETTINGS, "destage_depth": "2", "low_watermark": "10", "high_watermark": "30"}
        with pair.serve(tolerate=NOISE, check=False, options=["-v"], **settings) as server:
            with clients.connection(server.uri) as handle:
                content = bytearray(OLD)
                for number, start in enumerate(range(0, len(data), RUN)):
                    at = number * 7 % (SIZE // RUN) * RUN
                    content[at : at + RUN] = data[start : start + RUN]
                    handle.pwrite(content[at : at + RUN], at)
                same(clients.read_all(handle), bytes(content))
    assert "throttling" in server.stderr_text()


def _requests(log):
    """(connection, request, rest of the line) of what nbdkit's log filter has seen, in order."""
    return re.findall(r"connection=(\d+) (Write|Zero|Trim|Flush) id=(.*)", log.read_text())


def _most_writes_at_once(log):
    """How many the filter saw come in whose answer it had not seen yet."""
    under_way, most = 0, 0
    for has_ended in re.findall(r"connection=\d+ (\.\.\.)?Write ", log.read_text()):
        under_way += -1 if has_ended else 1
        most = max(most, under_way)
    assert under_way == 0
    return most


@pytest.mark.parametrize("at_start", [20, 1, 200])
def test_what_a_server_is_asked(pair, folder, at_start):
    """Several writes at a time on each of two connections, never more than destage-depth in all, and each connection
    is flushed; zeros and trims stay what they are."""
    log = folder / "requests"
    image = folder / "image"
    image.write_bytes(OLD)
    words = ["--filter=log", "--filter=delay", "file", image, f"logfile={log}", "wdelay=20ms"]
    with running(folder, words) as origin:
        pair.origin = origin.uri
        settings = {**SETTINGS, "destage_depth": at_start, "flush": "origin", "control": folder / "c"}
        with pair.serve(tolerate=NOISE, check=False, **settings) as server, clients.connection(server.uri) as handle:
            if at_start != 20:
                assert wbcache("set", folder / "c", "destage-depth=20")[0] == 0
            for block in range(0, 400, 10):
                handle.pwrite(b"w" * PAGE, block * PAGE)
            handle.flush()
            written, at_once = _requests(log), _most_writes_at_once(log)
            handle.trim(MIB, 4 * MIB)
            handle.flush()
            trimmed = _requests(log)[len(written) :]
            handle.zero(MIB, 5 * MIB, nbd.CMD_FLAG_NO_HOLE)
            handle.flush()
            zeroed = _requests(log)[len(written) + len(trimmed) :]
        expected = bytearray(OLD[: 4 * MIB] + bytes(2 * MIB) + OLD[6 * MIB :])
        for block in range(0, 400, 10):
            expected[block * PAGE : (block + 1) * PAGE] = b"w" * PAGE
        assert image.read_bytes() == expected
    writers = {connection for connection, request, _ in written if request == "Write"}
    assert len(writers) == 2
    assert 10 < at_once <= 20
    for writer in writers:
        assert [request for connection, request, _ in written if connection == writer][-1] == "Flush"
    for requests, flag in ((trimmed, "trim=1"), (zeroed, "trim=0")):
        assert any(request == "Zero" and flag in rest for _, request, rest in requests), requests
        assert not any(request == "Write" for _, request, _ in requests), requests


def test_a_server_that_takes_one_client_only(pair, folder):
    """qemu-nbd lets the next one wait until the first has gone."""
    image = folder / "image"
    image.write_bytes(OLD)
    socket = folder / "qemu.sock"
    process = clients.start("qemu-nbd", "--persistent", "--format=raw", f"--socket={socket}", image)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pair.origin = f"nbd+unix:///?socket={socket}"
        written = ModelledVolume(OLD, seed=4)
        with pair.serve(tolerate=NOISE, check=False, on_exit="destage", **SETTINGS) as server:
            written.run(server.uri, 6 * MIB)
            written.compare(server.uri)
    finally:
        process.terminate()
        process.wait(20)
    written.compare_origin(image)


def test_a_connection_that_fails_on_its_way_does_not_blame_the_uri(folder, monkeypatch):
    """libnbd says EINVAL where its connection changes state under poll(): seen when a server had just come back."""

    def fail(*arguments):
        raise nbd.Error("nbd_poll: external event 0 is invalid in state CONNECT.START", errno.EINVAL)

    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        monkeypatch.setattr(nbd.NBD, "poll", fail)
        with pytest.raises(DeviceLostError) as failure:
            NbdDevice(f"nbd+unix:///?socket={path}", 1)
    assert failure.value.errno_value == errno.EIO
