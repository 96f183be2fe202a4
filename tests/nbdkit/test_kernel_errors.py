# SPDX-License-Identifier: BSD-3-Clause
"""What the durability of the cache relies on in the kernel: errors of writing back are told once to each descriptor."""

import errno
import os

import pytest

from tests.support import clients
from tests.support.faulty_devices import faulty_device

MIB = 1 << 20
PAGE = 4096


def sync_error(fd):
    try:
        os.fdatasync(fd)
    except OSError as error:
        return error.errno
    return 0


@pytest.fixture
def loop(folder):
    """A loop device that goes through the page cache, and the FaultyDevice below it."""
    with faulty_device(folder, "below", 16 * MIB) as device:
        path = clients.run("losetup", "--find", "--show", device.path).strip()
        try:
            yield path, device
        finally:
            device.heal()
            clients.run("losetup", "--detach", path)


def test_each_descriptor_is_told_once(loop):
    """So a sync takes no error that belongs to another descriptor, and one that follows a failed one says nothing."""
    path, device = loop
    first, second = (os.open(path, os.O_RDWR) for _ in range(2))
    try:
        os.pwrite(first, b"x" * PAGE, 0)
        device.fail("write")
        assert sync_error(second) == errno.EIO
        assert sync_error(first) == errno.EIO
        assert sync_error(first) == sync_error(second) == 0, "where it stays, it need not be latched"
        device.heal()
        os.posix_fadvise(first, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(first, PAGE, 0) == bytes(PAGE), "what could not be written is gone, though a sync succeeded"
    finally:
        os.close(first)
        os.close(second)
