# SPDX-License-Identifier: BSD-3-Clause
"""A start waits for what a killed server has left behind, and never goes on beside it."""

import subprocess
import sys
import threading
import time

import pytest

from tests.support import mounts
from wbcache_core.device import image_claim
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceInUseError
from wbcache_core.units import PAGE_BYTES

HOLDER = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(15, ctypes.c_char_p(sys.argv[1].encode()), 0, 0, 0)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["file", "block device"])
def path(tmp_path, request):
    path = tmp_path / "image"
    path.write_bytes(bytes(256 * PAGE_BYTES))
    if request.param == "file":
        yield path
    else:
        with mounts.loop_device(path) as device:
            yield device


@pytest.fixture
def left_behind(path):
    """Starts a process with that name which has the lock of a server that is gone."""
    holders = []

    def start(name):
        device = FileDevice(str(path), "origin")
        words = [sys.executable, "-c", HOLDER, name]
        holder = subprocess.Popen(
            words, pass_fds=device.open_file().descriptors, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        holders.append(holder)
        assert holder.stdout.readline() == "ready\n"
        device.close()
        return holder

    yield start
    for holder in holders:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def test_a_start_waits_for_what_a_killed_server_left_behind(path, left_behind):
    """As long as that has the file, it is not opened."""
    holder = left_behind("wbcache-worker")
    started = time.monotonic()
    ended = []

    def end():
        ended.append(time.monotonic())
        holder.stdin.close()

    timer = threading.Timer(2.5, end)
    timer.start()
    FileDevice(str(path), "origin").close()
    assert time.monotonic() > ended[0] > started
    timer.join()


@pytest.mark.parametrize("name", ["wbcache-worker", "nbdkit"])
def test_a_start_beside_it_is_refused(path, left_behind, monkeypatch, name):
    monkeypatch.setattr(image_claim, "LEFT_BEHIND_SECONDS", 0.0)
    holder = left_behind(name)
    with pytest.raises(DeviceInUseError, match="is in use"):
        FileDevice(str(path), "origin")
    holder.stdin.close()
    FileDevice(str(path), "origin").close()
