# SPDX-License-Identifier: BSD-3-Clause
"""An NBD origin's server that stalls, restarts, or comes back with something else."""

import os
import signal
import threading
import time

import pytest

from tests.support.gated_origin import in_background, wait_until
from tests.support.nbdkit_server import NbdkitServer
from wbcache_core.device import nbd_device
from wbcache_core.device.nbd_device import NbdDevice
from wbcache_core.device.nbd_times import NbdTimes
from wbcache_core.errors import DeviceError, NoConnectionError

PAGE = 4096
SIZE = 64 * PAGE


class Address:
    """A socket name behind which one server follows another."""

    def __init__(self, folder):
        self._folder, self._link, self.server = folder, folder / "origin.sock", None
        self.uri = f"nbd+unix:///?socket={self._link}"

    def serve(self, size=SIZE, *words):
        self.server = NbdkitServer(self._folder, [*words[:1], "memory", str(size), *words[1:]])
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self.server.socket)


@pytest.fixture
def address(folder):
    address = Address(folder)
    address.serve()
    yield address
    address.server.destroy()


def read(device):
    device.read_into(memoryview(bytearray(PAGE)), 0)


def test_connections_come_back_after_a_stall(address, monkeypatch):
    monkeypatch.setattr(nbd_device, "_FIRST_GROW_PAUSE", 0.3)
    device = NbdDevice(address.uri, 3, NbdTimes(connect=0.4))
    device._take()
    os.kill(address.server.pid, signal.SIGSTOP)
    waiting = in_background(device._take)
    wait_until(lambda: device._limit == 1)
    os.kill(address.server.pid, signal.SIGCONT)
    waiting.result(10)
    in_background(device._take).result(10)


def test_another_size_is_refused_as_often_as_it_is_met_and_leaves_nothing(address):
    device = NbdDevice(address.uri, 2)
    address.server.destroy()
    address.serve(2 * SIZE)
    for _ in range(5):
        with pytest.raises(DeviceError, match=f"has {2 * SIZE} bytes now and had {SIZE}"):
            in_background(read, device).result(20)
    address.server.destroy()
    address.serve()
    in_background(read, device).result(20)


def test_another_process_refuses_what_is_not_the_same_export(address):
    """A larger one, and one whose connections need not see the same; it has not connected before."""
    export = NbdDevice(address.uri, 2).export
    address.server.destroy()
    address.serve(2 * SIZE)
    device = NbdDevice.beside_another(export)
    with pytest.raises(DeviceError, match=f"has {2 * SIZE} bytes now and had {SIZE}"):
        in_background(device.write, [memoryview(bytes(PAGE))], 0).result(20)
    address.server.destroy()
    address.serve(SIZE, "--filter=multi-conn", "multi-conn-mode=disable")
    with pytest.raises(NoConnectionError, match="not multi-conn any more"):
        in_background(device.write, [memoryview(bytes(PAGE))], 0).result(20)
    address.server.destroy()
    address.serve()
    in_background(device.write, [memoryview(bytes(PAGE))], 0).result(20)
    device.sync()


def test_a_planned_restart_is_not_noticed(address):
    """Reads go on all the time; the old server ends because we hang up."""
    device = NbdDevice(address.uri, 2)
    over = threading.Event()

    def read_on():
        while not over.is_set():
            read(device)
            time.sleep(0.005)

    reading = in_background(read_on)
    time.sleep(0.1)
    address.server.stop(10)
    time.sleep(0.5)
    address.serve()
    time.sleep(0.5)
    over.set()
    reading.result(20)
