# SPDX-License-Identifier: BSD-3-Clause
"""Many writes in one system call, with the real kernel: what is written, what fails, what is given back."""

import errno
import os
import random
import resource

import pytest

from tests.support.faulty_devices import small_file_system
from wbcache_core.device import bulk_writes, file_device
from wbcache_core.device.bulk_writes import NOT_TAKEN, KernelAio
from wbcache_core.device.device import aligned_buffer
from wbcache_core.device.file_device import FileDevice
from wbcache_core.units import MIB, PAGE_BYTES

SIZE = 4 * MIB


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture(params=[False, True], ids=["buffered", "direct"])
def device(path, request):
    device = FileDevice(str(path), "origin", direct=request.param)
    yield device
    device.close()


@pytest.fixture
def queue():
    queue = KernelAio(16)
    yield queue
    queue.close()


def pages(content):
    """Views of a page each, on page-aligned memory, as a batch has them."""
    image = aligned_buffer(len(content))
    image[:] = content
    return [image[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]


def spread_writes(rng, count, longest):
    """Writes of random lengths with gaps, and the file they make."""
    content, writes, at = bytearray(SIZE), [], 0
    for _ in range(count):
        at += rng.randint(1, 3) * PAGE_BYTES
        data = rng.randbytes(rng.randint(1, longest) * PAGE_BYTES)
        writes.append((at, pages(data)))
        content[at : at + len(data)] = data
        at += len(data)
    return writes, content[:SIZE]


@pytest.mark.parametrize("seed", range(5))
def test_many_writes_at_once(device, path, seed):
    writes, content = spread_writes(random.Random(seed), 64, 8)
    assert device.write_bulk(writes) == []
    device.sync()
    assert path.read_bytes() == content


def test_more_than_a_queue_has_places_one_call_after_the_other(device, path):
    rng = random.Random(7)
    content = bytearray(SIZE)
    for _ in range(300):
        writes = []
        for block in rng.sample(range(SIZE // PAGE_BYTES), rng.randint(1, device.bulk_depth)):
            data = rng.randbytes(8) * (PAGE_BYTES // 8)
            writes.append((block * PAGE_BYTES, pages(data)))
            content[block * PAGE_BYTES : (block + 1) * PAGE_BYTES] = data
        assert device.write_bulk(writes) == []
    assert path.read_bytes() == content


def test_the_last_view_may_be_short(path):
    device = FileDevice(str(path), "origin")
    tail = pages(b"t" * 2 * PAGE_BYTES)
    tail[-1] = tail[-1][:512]
    assert device.write_bulk([(0, tail)]) == []
    assert path.read_bytes()[: 2 * PAGE_BYTES] == b"t" * (PAGE_BYTES + 512) + bytes(PAGE_BYTES - 512)
    device.close()


def test_each_write_that_fails_is_told_of(tmp_path):
    """A file system without room for all of it."""
    with small_file_system(tmp_path, 20 * PAGE_BYTES) as small:
        path = small.path / "image"
        with open(path, "wb") as file:
            file.truncate(SIZE)
        device = FileDevice(str(path), "origin")
        writes = [(2 * number * PAGE_BYTES, pages(b"w" * PAGE_BYTES)) for number in range(50)]
        failed = device.write_bulk(writes)
        assert 0 < len(failed) < 50
        assert {error.errno_value for _, error in failed} == {errno.ENOSPC}
        refused = [offset for (offset, _), _ in failed]
        content = path.read_bytes()
        for offset, _ in writes:
            assert content[offset : offset + PAGE_BYTES] == (bytes(1) if offset in refused else b"w") * PAGE_BYTES
        device.close()


def test_what_the_kernel_does_not_take_counts_as_not_written(queue, path):
    fd = os.open(path, os.O_RDONLY)
    assert queue.write(fd, [(0, pages(bytes(PAGE_BYTES)))] * 3) == [NOT_TAKEN] * 3
    os.close(fd)
    writes = [(offset, pages(b"w" * PAGE_BYTES)) for offset in (0, -PAGE_BYTES, PAGE_BYTES)]
    fd = os.open(path, os.O_RDWR)
    found = queue.write(fd, writes)
    os.close(fd)
    assert found == [PAGE_BYTES, NOT_TAKEN, NOT_TAKEN]
    assert path.read_bytes()[: 2 * PAGE_BYTES] == b"w" * PAGE_BYTES + bytes(PAGE_BYTES)


def test_failures_name_the_device_and_the_rest_is_written(path):
    """Beyond the largest file that the process may write, each write fails; one across the limit is cut short first."""
    device = FileDevice(str(path), "origin")
    writes = [(offset, pages(b"w" * 2 * PAGE_BYTES)) for offset in (0, 7 * PAGE_BYTES, 20 * PAGE_BYTES, 3 * PAGE_BYTES)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * PAGE_BYTES, limits[1]))
    try:
        failed = device.write_bulk(writes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [write for write, _ in failed] == [writes[1], writes[2]]
    for _, error in failed:
        assert error.errno_value == errno.EFBIG
        assert str(error) == f"cannot write to origin '{path}': File too large"
    content = path.read_bytes()
    assert content[: 9 * PAGE_BYTES] == b"w" * 2 * PAGE_BYTES + bytes(PAGE_BYTES) + b"w" * 2 * PAGE_BYTES + bytes(
        2 * PAGE_BYTES
    ) + b"w" * PAGE_BYTES + bytes(PAGE_BYTES)
    device.close()


def test_without_it_everything_is_written_all_the_same(device, path, monkeypatch):
    def refuse(depth):
        attempts.append(depth)
        raise OSError(errno.EAGAIN, "no more queues on this machine")

    attempts = []
    monkeypatch.setattr(file_device, "KernelAio", refuse)
    writes, content = spread_writes(random.Random(1), 50, 4)
    assert device.write_bulk(writes[:25]) == []
    assert device.write_bulk(writes[25:]) == []
    assert path.read_bytes() == content
    assert len(attempts) == 1, "asked once is enough"
    assert device.bulk_depth == 0


@pytest.mark.parametrize("name", ["_submit", "_getevents"])
def test_where_one_of_the_system_calls_is_refused_everything_is_written_all_the_same(device, path, monkeypatch, name):
    """As by seccomp in a container: the queue is made, and then a call that it needs does not exist."""
    call, refused = bulk_writes._call, []

    def refuse(number, *arguments):
        if device._aio and number == getattr(device._aio, name):
            refused.append(name)
            raise OSError(errno.EPERM, "seccomp")
        return call(number, *arguments)

    monkeypatch.setattr(bulk_writes, "_call", refuse)
    writes, content = spread_writes(random.Random(1), 50, 4)
    assert device.write_bulk(writes[:1]) == []
    assert device.bulk_depth == 0, "it is not asked with each batch"
    assert device.write_bulk(writes[1:]) == []
    assert len(refused) == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("value", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_bulk_writes_only_is_written_all_the_same(device, path, monkeypatch, value):
    monkeypatch.setattr(KernelAio, "write", lambda queue, fd, writes: [-value] * len(writes))
    writes, content = spread_writes(random.Random(1), 50, 4)
    assert device.write_bulk(writes) == []
    assert device.bulk_depth == 0
    assert path.read_bytes() == content


def test_what_an_interrupted_call_leaves_behind_is_not_taken_for_the_next_one(queue, path, monkeypatch):
    def interrupt(count, results):
        raise KeyboardInterrupt

    fd = os.open(path, os.O_RDWR)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(queue, "_reap", interrupt)
        queue.write(fd, [(0, pages(b"w" * PAGE_BYTES))] * 2)
    writes = [(offset, pages(b"w" * PAGE_BYTES)) for offset in (PAGE_BYTES, -PAGE_BYTES, 0)]
    assert queue.write(fd, writes) == [PAGE_BYTES, NOT_TAKEN, NOT_TAKEN]
    os.close(fd)


def test_an_unknown_machine_has_none(monkeypatch):
    monkeypatch.setattr(bulk_writes.platform, "machine", lambda: "pdp11")
    with pytest.raises(OSError, match="this machine") as failure:
        KernelAio(4)
    assert failure.value.errno == errno.ENOSYS


def test_the_queue_is_given_back(path):
    def in_use():
        with open("/proc/self/maps") as maps:
            return sum("[aio]" in line for line in maps)

    before = in_use()
    device = FileDevice(str(path), "origin")
    assert in_use() == before, "not before it is needed: nbdkit goes into the background after the device is opened"
    device.write_bulk([(0, pages(bytes(PAGE_BYTES)))])
    assert in_use() == before + 1
    device.close()
    device.close()
    assert in_use() == before
