# SPDX-License-Identifier: BSD-3-Clause
"""Files as devices: reads and writes, what the kernel cuts short, zeroing, extents, locks, refusals."""

import errno
import mmap
import os
import random
import subprocess
import sys

import pytest

from wbcache_core.device import file_device
from wbcache_core.device.device import aligned_buffer
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import ConfigError, DeviceError, DeviceInUseError
from wbcache_core.units import KIB, MIB, PAGE_BYTES

SIZE = 64 * PAGE_BYTES


@pytest.fixture
def path(tmp_path):
    """A file of SIZE bytes, none of them zero."""
    path = tmp_path / "image"
    path.write_bytes(b"o" * SIZE)
    return path


@pytest.fixture
def opened():
    """FileDevice as a function; what it opened is closed at the end."""
    devices = []

    def open_device(path, role="origin", direct=False):
        devices.append(FileDevice(str(path), role, direct))
        return devices[-1]

    yield open_device
    for device in devices:
        device.close()


@pytest.fixture(params=[False, True], ids=["buffered", "direct"])
def device(path, opened, request):
    return opened(path, direct=request.param)


def aligned(content):
    view = aligned_buffer(len(content))
    view[:] = content
    return view


def make_views(sizes, seed=1):
    rng = random.Random(seed)
    return [aligned(rng.randbytes(size)) for size in sizes]


def test_what_is_written_is_read(device, path):
    views = make_views([PAGE_BYTES, 3 * PAGE_BYTES, PAGE_BYTES])
    device.write(views, 2 * PAGE_BYTES)
    device.sync()
    content = b"".join(views)
    for read in (device.read_into, device.read_uncached_into):
        found = aligned_buffer(len(content))
        read(found, 2 * PAGE_BYTES)
        assert found == content
    assert path.read_bytes() == b"o" * 2 * PAGE_BYTES + content + b"o" * (SIZE - 7 * PAGE_BYTES)


def test_any_alignment_without_direct_io(path, opened):
    device = opened(path)
    device.write([memoryview(b"abc"), memoryview(b""), memoryview(b"defg")], 4094)
    found = bytearray(9)
    device.read_into(memoryview(found), 4093)
    assert found == b"oabcdefgo"


def test_more_views_than_one_system_call_takes(device, path):
    count = 2500
    os.truncate(path, count * 512)
    page = aligned(bytes(range(256)) * 16)
    device.write([page[at % 8 * 512 :][:512] for at in range(count)], 0)
    assert path.read_bytes() == (bytes(range(256)) * 16 * (count // 8 + 1))[: count * 512]


@pytest.mark.parametrize("cut", [0, 512, PAGE_BYTES, PAGE_BYTES + 512, 5 * PAGE_BYTES - 512])
def test_a_write_cut_short_by_the_kernel_is_finished(device, path, monkeypatch, cut):
    """Over and over: each system call writes no more than 1024 bytes of what it is given."""
    pwritev, pwrite = os.pwritev, os.pwrite

    def write_some(fd, views, offset):
        return pwritev(fd, [aligned(b"".join(views)[:cut])], offset) if cut else 0

    monkeypatch.setattr(os, "pwritev", write_some)
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[:1024], offset))
    views = make_views([PAGE_BYTES, PAGE_BYTES, 3 * PAGE_BYTES])
    device.write(views, PAGE_BYTES)
    assert path.read_bytes()[PAGE_BYTES : 6 * PAGE_BYTES] == b"".join(views)
    assert path.read_bytes()[6 * PAGE_BYTES :] == b"o" * (SIZE - 6 * PAGE_BYTES)


def test_a_write_without_progress_is_an_error(device, monkeypatch):
    monkeypatch.setattr(os, "pwritev", lambda fd, views, offset: 512)
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: 0)
    with pytest.raises(DeviceError) as failure:
        device.write(make_views([PAGE_BYTES]), 0)
    assert failure.value.errno_value == errno.ENOSPC


@pytest.mark.parametrize(
    ("name", "request_of"),
    [
        ("preadv", lambda device: device.read_into(aligned_buffer(512), 0)),
        ("preadv", lambda device: device.read_uncached_into(aligned_buffer(PAGE_BYTES), 0)),
        ("pwritev", lambda device: device.write(make_views([PAGE_BYTES]), 0)),
        ("fdatasync", lambda device: device.sync()),
    ],
)
@pytest.mark.parametrize("value", [errno.EIO, errno.ENOSPC])
def test_a_failed_system_call_says_what_where_and_why(device, monkeypatch, name, request_of, value):
    def fail(*_arguments):
        raise OSError(value, "not this text")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(DeviceError, match=f"origin '{device.name}': {os.strerror(value)}") as failure:
        request_of(device)
    assert failure.value.errno_value == value


def test_a_read_cut_short_by_the_kernel_is_finished(path, monkeypatch, opened):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:700]], offset))
    device = opened(path)
    device.write(make_views([3 * PAGE_BYTES]), 0)
    found = bytearray(3 * PAGE_BYTES)
    device.read_into(memoryview(found), 0)
    assert found == path.read_bytes()[: 3 * PAGE_BYTES]


def test_a_read_beyond_the_end_is_an_error(device, path):
    os.truncate(path, 2 * PAGE_BYTES)
    for read in (device.read_into, device.read_uncached_into):
        with pytest.raises(DeviceError, match=f"ends at byte {2 * PAGE_BYTES}"):
            read(aligned_buffer(2 * PAGE_BYTES), PAGE_BYTES)


@pytest.mark.parametrize("may_trim", [True, False])
@pytest.mark.parametrize(("offset", "length"), [(0, SIZE), (4096, 8192), (1000, 10), (4095, 2), (100, 20000)])
def test_zero_covers_just_the_range(device, path, offset, length, may_trim):
    device.zero(offset, length, may_trim)
    content = bytearray(b"o" * SIZE)
    content[offset : offset + length] = bytes(length)
    assert path.read_bytes() == content
    assert path.stat().st_size == SIZE


def test_trimmed_pages_are_given_back_and_zeroed_ones_are_not(tmp_path, opened):
    path = tmp_path / "image"
    path.write_bytes(b"o" * MIB)
    device = opened(path)
    device.sync()
    allocated = path.stat().st_blocks
    device.zero(0, MIB // 2, may_trim=False)
    assert path.stat().st_blocks >= allocated
    device.zero(0, MIB // 2, may_trim=True)
    device.sync()
    assert path.stat().st_blocks <= allocated * 3 // 4
    assert path.read_bytes() == bytes(MIB // 2) + b"o" * (MIB // 2)


class Fallocate:
    """Stands in for the system call: fails with one errno value after the other, then calls the real one."""

    def __init__(self, monkeypatch, *values):
        self._values, self._real = list(values), file_device._libc
        self.calls = 0
        monkeypatch.setattr(file_device, "_libc", self)

    def fallocate(self, *arguments):
        self.calls += 1
        if self._values:
            file_device.ctypes.set_errno(self._values.pop(0))
            return -1
        return self._real.fallocate(*arguments)


REFUSALS = [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EIO, errno.ENOSPC, errno.EPERM]


@pytest.mark.parametrize("value", REFUSALS)
@pytest.mark.parametrize("refusals", [1, 2])
def test_zeros_are_written_where_the_file_system_refuses_to_zero(device, path, monkeypatch, value, refusals):
    """From the first refusal on: neither the request that met it nor the next one fails, and it is not asked again."""
    fallocate = Fallocate(monkeypatch, *[value] * refusals)
    device.zero(PAGE_BYTES, 3 * PAGE_BYTES, may_trim=True)
    assert fallocate.calls == 2
    device.zero(8 * PAGE_BYTES, PAGE_BYTES, may_trim=True)
    assert fallocate.calls == (3 if refusals == 1 else 2)
    content = bytearray(b"o" * SIZE)
    content[PAGE_BYTES : 4 * PAGE_BYTES] = bytes(3 * PAGE_BYTES)
    content[8 * PAGE_BYTES : 9 * PAGE_BYTES] = bytes(PAGE_BYTES)
    assert path.read_bytes() == content


def test_more_zeros_are_written_than_one_write_has(tmp_path, monkeypatch, opened):
    path = tmp_path / "image"
    path.write_bytes(b"o" * (3 * MIB))
    Fallocate(monkeypatch, errno.EOPNOTSUPP)
    opened(path).zero(1, 2 * MIB + 5, may_trim=False)
    assert path.read_bytes() == b"o" + bytes(2 * MIB + 5) + b"o" * (MIB - 6)


def test_an_interrupted_zero_is_tried_again(path, monkeypatch, opened):
    fallocate = Fallocate(monkeypatch, errno.EINTR, errno.EINTR)
    opened(path).zero(0, SIZE, may_trim=True)
    assert fallocate.calls == 3
    assert path.read_bytes() == bytes(SIZE)


@pytest.mark.parametrize("value", [errno.EIO, errno.ENOSPC])
def test_where_zeros_cannot_be_written_either_it_is_an_error_and_no_refusal(path, monkeypatch, value, opened):
    """The device failed. When it works again it is asked to zero as before."""
    device = opened(path)
    fallocate = Fallocate(monkeypatch, errno.EINVAL, errno.EINVAL)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", fail_with(value))
        with pytest.raises(DeviceError, match="cannot write to origin") as failure:
            device.zero(0, SIZE, may_trim=True)
    assert failure.value.errno_value == value
    assert path.read_bytes() == b"o" * SIZE
    device.zero(0, SIZE, may_trim=True)
    assert fallocate.calls == 3
    assert path.read_bytes() == bytes(SIZE)


def test_extents_show_the_holes_of_a_file(tmp_path, opened):
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(MIB)
        file.seek(256 * KIB)
        file.write(b"d" * 128 * KIB)
    device = opened(path)
    device.sync()
    hole, data = (True, True), (False, False)
    assert device.extents(0, MIB) == [
        (0, 256 * KIB, *hole), (256 * KIB, 128 * KIB, *data), (384 * KIB, 640 * KIB, *hole)
    ]  # fmt: skip
    assert device.extents(300 * KIB, 1000) == [(300 * KIB, 1000, *data)]
    assert device.extents(10, 1000) == [(10, 1000, *hole)]
    assert device.extents(MIB - 1, 1) == [(MIB - 1, 1, *hole)]
    assert device.extents(0, 0) == []


@pytest.mark.parametrize("value", REFUSALS)
def test_a_file_system_that_knows_no_holes_has_only_data(path, monkeypatch, opened, value):
    device = opened(path)
    looks = []

    def refuse(_fd, _offset, whence):
        looks.append(whence)
        raise OSError(value, "no such whence")

    monkeypatch.setattr(os, "lseek", refuse)
    assert device.extents(100, 5000) == [(100, 5000, False, False)]
    assert device.extents(0, SIZE) == [(0, SIZE, False, False)]
    assert len(looks) == 1, "asked once is enough"


def test_extents_are_never_empty_though_the_file_changes_between_two_looks(path, monkeypatch, opened):
    """A hole is punched after the kernel said that data begins there."""
    device = opened(path)
    lseek, looks = os.lseek, []

    def punch_between(fd, offset, whence):
        looks.append(whence)
        if looks == [os.SEEK_DATA, os.SEEK_HOLE]:
            device.zero(0, 8 * PAGE_BYTES, may_trim=True)
        return lseek(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", punch_between)
    found = device.extents(0, SIZE)
    assert looks[:2] == [os.SEEK_DATA, os.SEEK_HOLE]
    assert all(length > 0 for _, length, _, _ in found)
    assert sum(length for _, length, _, _ in found) == SIZE


def test_prefetch_of_any_range(device):
    device.prefetch(0, SIZE)
    device.prefetch(SIZE - 1, 1)
    device.prefetch(0, 0)


def test_grow(tmp_path, opened):
    path = tmp_path / "log"
    path.touch()
    device = opened(path, "log", direct=True)
    assert device.size == 0
    device.grow(MIB)
    assert device.size == path.stat().st_size == MIB
    device.write([aligned(b"x" * PAGE_BYTES)], MIB - PAGE_BYTES)
    assert path.read_bytes() == bytes(MIB - PAGE_BYTES) + b"x" * PAGE_BYTES


def test_direct_io_is_used_only_when_asked_for(path, opened):
    device = opened(path)
    assert not device.is_direct
    device.close()
    assert opened(path, direct=True).is_direct


@pytest.mark.parametrize("name", ["open", "preadv"])
def test_direct_io_is_not_used_where_it_fails(path, opened, monkeypatch, name):
    real = getattr(os, name)

    def refuse(first, second, *rest):
        if name == "preadv" or second & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return real(first, second, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        device = opened(path, direct=True)
    assert not device.is_direct
    device.write([memoryview(b"any alignment")], 3)
    found = bytearray(13)
    device.read_uncached_into(memoryview(found), 3)
    assert found == b"any alignment"


def fail_with(value):
    def fail(*_arguments):
        raise OSError(value, "as the test wants it")

    return fail


def test_a_second_opening_is_refused_until_the_first_is_closed(path, opened):
    first = opened(path)
    with pytest.raises(DeviceInUseError, match="in use by another wbcache"):
        opened(path, "log", direct=True)
    first.close()
    opened(path).close()


def test_the_lock_holds_between_processes_and_ends_with_them(path, opened):
    script = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DeviceInUseError):
            opened(path)
        holder.kill()
    opened(path).close()


def test_a_refused_opening_leaves_no_descriptor(path, opened):
    first = opened(path)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(DeviceInUseError):
            opened(path)
    assert os.listdir("/proc/self/fd") == before
    first.close()


def test_close_twice(device):
    device.close()
    device.close()


def test_what_is_no_file_or_block_device_is_refused(tmp_path, opened):
    os.mkfifo(tmp_path / "fifo")
    for name, text in [(tmp_path, "a folder"), (tmp_path / "fifo", "neither"), ("/dev/null", "neither")]:
        with pytest.raises(ConfigError, match=text):
            opened(name)


def test_what_does_not_exist_is_refused(tmp_path, opened):
    with pytest.raises(DeviceError, match=r"cannot open origin .*No such file") as failure:
        opened(tmp_path / "missing")
    assert failure.value.errno_value == errno.ENOENT


def test_is_file_under_any_name(path, tmp_path, opened):
    device = opened(path)
    (tmp_path / "link").symlink_to(path)
    os.link(path, tmp_path / "other-name")
    (tmp_path / "copy").write_bytes(path.read_bytes())
    assert device.is_file(str(path))
    assert device.is_file(str(tmp_path / "link"))
    assert device.is_file(str(tmp_path / "other-name"))
    assert not device.is_file(str(tmp_path / "copy"))
    assert not device.is_file(str(tmp_path / "missing"))


@pytest.mark.parametrize("through", ["write", "write_bulk", "read"])
def test_direct_io_that_is_refused_later_is_given_up(path, opened, monkeypatch, caplog, through):
    device = opened(path, "log", direct=True)
    direct_fd = device._direct_fd
    caplog.set_level("WARNING", "wbcache")

    def refusing(real):
        def call(fd, *arguments):
            if fd == direct_fd:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(fd, *arguments)

        return call

    for name in ("preadv", "pwritev"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(file_device, "KernelAio", fail_with(errno.ENOSYS))
    page = aligned_buffer(PAGE_BYTES)
    for letter in (b"a", b"b"):
        page[:] = letter * PAGE_BYTES
        if through == "write":
            device.write([page], PAGE_BYTES)
        elif through == "write_bulk":
            assert device.write_bulk([(PAGE_BYTES, [page])]) == []
        else:
            device.read_uncached_into(page, 0)
    assert not device.is_direct
    device.sync()
    with open(path, "rb") as file:
        expected = file.read(2 * PAGE_BYTES)[0 if through == "read" else PAGE_BYTES :][:PAGE_BYTES]
    assert bytes(page) == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"log '{path}' rejects direct I/O: the page cache is used from now on"
    ]


def test_a_block_device_that_does_not_tell_whether_it_is_read_only(path):
    with open(path, "rb") as file:
        assert not file_device._is_read_only(file.fileno())


def test_aligned_buffer():
    view = aligned_buffer(PAGE_BYTES)
    assert len(view) == PAGE_BYTES
    assert file_device.ctypes.addressof(file_device.ctypes.c_char.from_buffer(view)) % mmap.PAGESIZE == 0
