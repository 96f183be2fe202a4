# SPDX-License-Identifier: BSD-3-Clause
"""An origin's server refuses what it offers (zero, trim, extents, cache): the cache does without it from then on."""

import contextlib
import random

import pytest

from tests.support import clients, mounts
from tests.support.matching import same
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
SIZE = 32 * MIB
OLD = random.Random(1).randbytes(SIZE)
SETTINGS = {"ring_size": "2M", "log_size": "16M", "destage_delay": "50ms", "on_exit": "destage", "lifetime_s": 60}
NOISE = ["cannot (zero|map|prefetch|deallocate blocks of) origin"]
KINDS = ("zero", "trim", "extents", "cache")


@contextlib.contextmanager
def refusing_origin(pair, folder, error, kinds=KINDS):
    """The pair's origin over NBD; `backing` is its file."""
    backing = folder / "backing.img"
    backing.write_bytes(OLD)
    words = [f"error-{kind}-rate=100%" for kind in kinds]
    server = NbdkitServer(folder, ["--filter=error", "file", backing, f"error={error}", *words])
    pair.origin = server.uri
    try:
        yield backing, server
    finally:
        server.destroy()


@pytest.mark.parametrize("error", ["EINVAL", "EIO", "EPERM"])
def test_a_file_system_on_an_origin_that_refuses_to_zero(pair, folder, error):
    """As in everyday use: mkfs trims and zeroes, files are made and trimmed, the stop drains."""
    with refusing_origin(pair, folder, error) as (backing, _):
        with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
            with mounts.fuse_file(server.uri, folder) as file, mounts.loop_device(file) as device:
                clients.run("mkfs.ext4", "-q", device)
                with mounts.mounted(device, folder) as target:
                    (target / "kept").write_bytes(OLD[:MIB])
                    (target / "removed").write_bytes(OLD[:MIB])
                    clients.run("sync", "--file-system", target)
                    (target / "removed").unlink()
                    clients.run("fstrim", target)
                clients.run("blockdev", "--flushbufs", device)
            with clients.connection(server.uri) as handle:
                volume = clients.read_all(handle)
        assert server.stderr_text().count("cannot zero origin") == 1, "it is told once"
        same(backing.read_bytes(), volume)
        with mounts.loop_device(backing) as device:
            clients.run("e2fsck", "-f", "-n", device)
        pair.origin = backing
        pair.check()


def test_each_kind(pair, folder):
    with refusing_origin(pair, folder, "EINVAL") as (backing, origin):
        with pair.serve(tolerate=NOISE, check=False, options=["-v"], **SETTINGS) as server:
            assert clients.extent_map(server.uri) == [(0, SIZE, False, False)]
            with clients.connection(server.uri) as handle:
                for _ in range(3):
                    handle.cache(MIB, 0)
                    handle.zero(MIB, MIB)
                    handle.trim(MIB, 3 * MIB)
                    handle.flush()
                assert handle.pread(MIB, 0) == OLD[:MIB]
        expected = bytearray(OLD)
        expected[MIB : 2 * MIB] = expected[3 * MIB : 4 * MIB] = bytes(MIB)
        same(backing.read_bytes(), bytes(expected))
        refused = origin.stderr_text()
        assert refused.count("error into cache") == refused.count("error into extents") == 1, "asked once is enough"
        assert refused.count("error into zero") == 2, "with and without a hole"


def test_an_origin_that_refuses_to_write_is_none_that_refuses_to_zero(pair, folder):
    """What fails is the device: it is waited for, and what it can do is used when it is back."""
    with refusing_origin(pair, folder, "EIO", ()) as (backing, _):
        trigger = folder / "fail"
        words = [f"error-{kind}-{word}" for kind in ("zero", "pwrite") for word in ("rate=100%", f"file={trigger}")]
        failing = NbdkitServer(folder, ["-v", "--filter=error", "file", backing, *words])
        pair.origin = failing.uri
        trigger.touch()
        noise = [*NOISE, "destaging", "cannot write to origin"]
        with pair.serve(tolerate=noise, check=False, **SETTINGS) as server, clients.connection(server.uri) as handle:
            handle.zero(MIB, MIB)
            handle.flush()
            while "destaging is stalled" not in server.stderr_text():
                handle.pread(512, 0)
            trigger.unlink()
            while "destaging goes on" not in server.stderr_text():
                handle.pread(512, 0)
            assert "cannot zero" not in server.stderr_text()
        failing.destroy()
        assert failing.stderr_text().rpartition("injecting")[2].count("error-inject: zero") >= 1
        same(backing.read_bytes(), OLD[:MIB] + bytes(MIB) + OLD[2 * MIB :])
