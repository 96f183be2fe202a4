# SPDX-License-Identifier: BSD-3-Clause
"""Devices on file systems made for the test (as root): full, read-only, without O_DIRECT, and loop devices."""

import contextlib
import errno

import pytest

from tests.support import clients, mounts
from tests.support.faulty_devices import small_file_system
from wbcache_core.device.device import aligned_buffer
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, DeviceInUseError
from wbcache_core.units import MIB, PAGE_BYTES


@contextlib.contextmanager
def read_only_view(folder):
    """The folder once more, mounted read-only."""
    mount_point = folder.with_name(f"{folder.name}-read-only")
    mount_point.mkdir()
    clients.run("mount", "--bind", folder, mount_point)
    try:
        clients.run("mount", "-o", "remount,bind,ro", mount_point)
        yield mount_point
    finally:
        clients.run("umount", "--lazy", mount_point)


def fill(device, offset, count, byte=b"x"):
    page = aligned_buffer(PAGE_BYTES)
    page[:] = byte * PAGE_BYTES
    device.write([page] * count, offset)


@pytest.mark.parametrize("direct", [False, True])
def test_no_space_left(tmp_path, direct):
    with small_file_system(tmp_path, 20 * PAGE_BYTES) as small:
        path = small.path / "image"
        with open(path, "wb") as file:
            file.truncate(MIB)
        device = FileDevice(str(path), "origin", direct=direct)
        with pytest.raises(DeviceError, match="No space left on device") as failure:
            fill(device, 0, 200)
        assert failure.value.errno_value == errno.ENOSPC
        device.zero(0, MIB, may_trim=True)
        fill(device, 100 * PAGE_BYTES, 10)
        device.sync()
        assert path.read_bytes()[100 * PAGE_BYTES : 110 * PAGE_BYTES] == b"x" * 10 * PAGE_BYTES
        device.close()


def test_what_may_only_be_read_is_opened_read_only(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "image").write_bytes(b"o" * PAGE_BYTES)
    with read_only_view(folder) as view:
        device = FileDevice(str(view / "image"), "log", direct=True)
        assert not device.writable
        assert device.size == PAGE_BYTES
        found = aligned_buffer(PAGE_BYTES)
        device.read_uncached_into(found, 0)
        assert found == b"o" * PAGE_BYTES
        with pytest.raises(DeviceError):
            fill(device, 0, 1)
        with pytest.raises(DeviceError):
            device.zero(0, PAGE_BYTES, may_trim=True)
        with pytest.raises(DeviceInUseError):
            FileDevice(str(folder / "image"), "origin")
        device.close()
    assert (folder / "image").read_bytes() == b"o" * PAGE_BYTES


@pytest.fixture
def loop(tmp_path):
    """The path of a loop device of 4 MiB, and of the file behind it."""
    path = tmp_path / "disk"
    path.write_bytes(b"o" * 4 * MIB)
    with mounts.loop_device(path) as device:
        yield device, path


def test_a_block_device(loop):
    name, path = loop
    with contextlib.closing(FileDevice(name, "origin", direct=True)) as device:
        check_writes(device, name, path)
    clients.run("blockdev", "--flushbufs", name)
    zeros = bytes(3 * PAGE_BYTES + 512)
    expected = bytearray(b"o" * 4 * MIB)
    expected[MIB : MIB + 3 * PAGE_BYTES] = b"x" * 3 * PAGE_BYTES
    expected[2 * MIB : 2 * MIB + len(zeros)] = expected[3 * MIB : 3 * MIB + len(zeros)] = zeros
    assert path.read_bytes() == expected


def check_writes(device, name, path):
    assert (device.size, device.writable, device.is_direct) == (4 * MIB, True, True)
    fill(device, MIB, 3)
    device.zero(2 * MIB, 3 * PAGE_BYTES + 512, may_trim=True)
    device.zero(3 * MIB, 3 * PAGE_BYTES + 512, may_trim=False)
    device.sync()
    assert device.extents(1000, 5000) == [(1000, 5000, False, False)]
    assert device.is_file(name)
    assert not device.is_file(str(path))


def test_a_block_device_is_opened_once(loop):
    name, _ = loop
    with contextlib.closing(FileDevice(name, "origin")), pytest.raises(DeviceInUseError):
        FileDevice(name, "log", direct=True)
    FileDevice(name, "log", direct=True).close()


def test_a_block_device_that_is_mounted_is_refused(loop, tmp_path):
    name, _ = loop
    clients.run("mkfs.ext4", "-q", "-F", name)
    with mounts.mounted(name, tmp_path), pytest.raises(DeviceInUseError, match="unmount it"):
        FileDevice(name, "origin")
    FileDevice(name, "origin").close()


def test_a_block_device_that_is_read_only(loop):
    name, _ = loop
    clients.run("blockdev", "--setro", name)
    try:
        device = FileDevice(name, "origin", direct=True)
        assert not device.writable
        device.read_uncached_into(aligned_buffer(PAGE_BYTES), 0)
        device.close()
    finally:
        # A loop device stays read-only for whoever uses it next.
        clients.run("blockdev", "--setrw", name)
