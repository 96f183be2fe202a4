# SPDX-License-Identifier: BSD-3-Clause
"""Many writes at once on one NBD connection: what is refused, what is lost, and how it is stopped."""

import contextlib
import os
import random
import signal
import threading
import time

import pytest

from tests.support.nbdkit_server import NbdkitServer
from wbcache_core.device import nbd_connection
from wbcache_core.device.nbd_device import NbdDevice
from wbcache_core.errors import DeviceError, DeviceLostError, StoppedError

PAGE = 4096
PAGES = 512
DEPTH = 8


@pytest.fixture
def image(folder):
    path = folder / "image"
    path.write_bytes(bytes(PAGES * PAGE))
    return path


@contextlib.contextmanager
def served(folder, image, *filters, **parameters):
    """An NbdDevice over nbdkit's file plugin, and the server."""
    words = [f"{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    server = NbdkitServer(folder, [*(f"--filter={name}" for name in filters), "file", image, *words])
    device = None
    try:
        device = NbdDevice(server.uri, 4)
        yield device, server
    finally:
        server.destroy()
        if device:
            device.close()


def some_writes(seed=1):
    """Writes of one to nine pages each, some in several views, that together cover the image; and its content then."""
    choose = random.Random(seed)
    content = choose.randbytes(PAGES * PAGE)
    writes, page = [], 0
    while page < PAGES:
        count = min(choose.randint(1, 9), PAGES - page)
        view = memoryview(content)[page * PAGE : (page + count) * PAGE]
        views = [view] if choose.random() < 0.5 else [view[at : at + PAGE] for at in range(0, len(view), PAGE)]
        writes.append((page * PAGE, views))
        page += count
    choose.shuffle(writes)
    return writes, content


def taker(writes):
    waiting = list(writes)
    return lambda: waiting.pop() if waiting else None


def unexpected(write, error):
    raise AssertionError(f"{write[0]}: {error}")


@pytest.mark.parametrize("depth", [1, 2, 16])
def test_all_is_written(folder, image, depth):
    writes, content = some_writes()
    with served(folder, image) as (device, _):
        device.write_many(taker(writes), unexpected, depth)
        device.sync()
        assert image.read_bytes() == content


def test_a_server_with_small_requests(folder, image):
    writes, content = some_writes()
    policy = {"blocksize_minimum": 1, "blocksize_preferred": PAGE, "blocksize_maximum": 2 * PAGE}
    with served(folder, image, "blocksize-policy", **policy, blocksize_error_policy="error") as (device, _):
        device.write_many(taker(writes), unexpected, DEPTH)
        device.sync()
        assert image.read_bytes() == content


def test_what_is_refused_is_told_and_all_else_is_there(folder, image):
    writes, content = some_writes()
    refused = []
    with served(folder, image, "error", error="ENOSPC", error_pwrite_rate="30%") as (device, _):
        device.write_many(taker(writes), lambda write, error: refused.append((write, error)), DEPTH)
        device.sync()
    assert 0 < len(refused) < len(writes)
    assert {type(error) for _, error in refused} == {DeviceError}
    assert all("No space left" in str(error) for _, error in refused)
    left_out = {offset for (offset, _), _ in refused}
    found = image.read_bytes()
    for offset, views in writes:
        if offset not in left_out:
            length = sum(map(len, views))
            assert found[offset : offset + length] == content[offset : offset + length]


def test_an_error_of_the_owner_comes_after_all_that_was_under_way(folder, image):
    """Nothing reads the buffers any more, and the connection is as good as before."""
    writes, content = some_writes()
    taken = []

    def take():
        if len(taken) == 20:
            raise StoppedError("enough")
        taken.append(writes[len(taken)])
        return taken[-1]

    with served(folder, image, "delay", wdelay="30ms") as (device, _):
        with pytest.raises(StoppedError, match="enough"):
            device.write_many(take, unexpected, DEPTH)
        found = image.read_bytes()
        for offset, views in taken:
            length = sum(map(len, views))
            assert found[offset : offset + length] == content[offset : offset + length]
        device.sync()


def test_too_many_failures(folder, image):
    """What fail() raises ends it, and the server is asked no more than what was under way."""
    writes, _ = some_writes()
    seen = []

    def fail(write, error):
        seen.append(write)
        if len(seen) >= 3:
            raise error

    with served(folder, image, "error", error="EIO", error_pwrite_rate="100%") as (device, _):
        with pytest.raises(DeviceError, match="Input/output"):
            device.write_many(taker(writes), fail, DEPTH)
        assert 3 <= len(seen) < 3 + DEPTH
        device.sync()


def test_a_server_that_dies(folder, image):
    writes, _ = some_writes()
    with served(folder, image, "delay", wdelay="100ms") as (device, server):
        timer = threading.Timer(0.3, server.kill)
        timer.start()
        with pytest.raises(DeviceLostError, match="was lost"):
            device.write_many(taker(writes), unexpected, DEPTH)
        timer.join()


def test_a_server_that_is_silent_while_the_cache_stops(folder, image, monkeypatch):
    monkeypatch.setattr(nbd_connection, "_GRACE_SECONDS", 0.4)
    writes, _ = some_writes()
    with served(folder, image, "delay", wdelay="20ms") as (device, server):
        os.kill(server.pid, signal.SIGSTOP)
        device.interrupt()
        started = time.monotonic()
        with pytest.raises(StoppedError, match="does not answer"):
            device.write_many(taker(writes), unexpected, DEPTH)
        assert time.monotonic() - started < 5
        os.kill(server.pid, signal.SIGCONT)


def test_a_slow_server_is_waited_for_while_the_cache_stops(folder, image, monkeypatch):
    """The grace begins anew with each answer."""
    monkeypatch.setattr(nbd_connection, "_GRACE_SECONDS", 0.4)
    writes, content = some_writes()
    with served(folder, image, "delay", wdelay="100ms") as (device, _):
        device.interrupt()
        started = time.monotonic()
        device.write_many(taker(writes), unexpected, DEPTH)
        assert time.monotonic() - started > 0.8
        device.sync()
        assert image.read_bytes() == content
