# SPDX-License-Identifier: BSD-3-Clause
"""Trim is offered where the origin can deallocate. Elsewhere a client's mkfs would have the whole disk written with
zeros, since what was trimmed reads as zeros."""

import contextlib

import nbd
import pytest

from tests.support import clients, mounts
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
SIZE = 8 * MIB
OLD = b"\x5a" * SIZE


@pytest.fixture
def ramfs(tmp_path):
    """A file system whose files cannot have holes punched, so that a loop device on one of them cannot discard."""
    with mounts.memory_file_system(tmp_path / "ramfs", "ramfs") as path:
        yield path


@contextlib.contextmanager
def disk_on(folder):
    image = folder / "image"
    image.write_bytes(OLD)
    with mounts.loop_device(image) as device:
        yield device


def is_offered(pair, origin):
    with pair.serve(origin=origin, check=False, options=["-v"]) as server:
        export = clients.nbdinfo(server.uri)
    assert export["can_zero"] and export["can_fast_zero"]
    assert ("clients are not offered trim" in server.stderr_text()) is not export["can_trim"]
    return export["can_trim"]


def test_a_disk_that_can_deallocate(pair, tmp_path):
    with disk_on(tmp_path) as device:
        assert is_offered(pair, device)


def test_a_disk_that_cannot(pair, ramfs):
    with disk_on(ramfs) as device:
        assert not is_offered(pair, device)
        expected = OLD[: MIB + 512] + bytes(2 * MIB) + OLD[: 2 * MIB - 512] + bytes(MIB) + OLD[: 2 * MIB]
        with pair.serve(origin=device, check=False, on_exit="destage") as server:
            with clients.connection(server.uri) as handle:
                handle.zero(2 * MIB, MIB + 512)
                handle.zero(MIB, 5 * MIB, nbd.CMD_FLAG_NO_HOLE)
                assert clients.read_all(handle) == expected
        clients.run("blockdev", "--flushbufs", device)
        with open(device, "rb") as disk:
            assert disk.read() == expected


@pytest.mark.parametrize(("filters", "expected"), [((), True), (("--filter=nozero",), False)], ids=str)
def test_a_server(pair, tmp_path, filters, expected):
    server = NbdkitServer(tmp_path, [*filters, "memory", f"{SIZE}"])
    try:
        assert is_offered(pair, server.uri) is expected
    finally:
        server.destroy()
