# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel or a file system may lack and is only a hint, or has another way: served all the same."""

import random
import subprocess

import pytest

from tests.support import clients
from tests.support.matching import same
from tests.support.nbdkit_server import REPOSITORY

MIB = 1 << 20
WRAPPER = REPOSITORY / "tests" / "support" / "without_features.py"
MISSING = {
    "huge pages": ["huge pages=EINVAL"],
    "flock": ["flock=ENOLCK"],
    "locks": ["flock=ENOSYS", "OFD locks=EINVAL"],
    "locks of a read-only file": ["flock=EBADF", "OFD locks=EBADF"],
    "fallocate": ["fallocate=EOPNOTSUPP"],
    "direct I/O": ["direct I/O=EINVAL"],
    "all of it": [
        "huge pages=EINVAL", "flock=EOPNOTSUPP", "OFD locks=ENOLCK", "fallocate=ENOSYS", "fadvise=EINVAL",
        "kernel AIO=EPERM", "affinity=ENOSYS", "statx=EPERM", "direct I/O=EINVAL",
    ],
}  # fmt: skip


def without(features):
    return ["/usr/bin/python3", str(WRAPPER), *features, "--"]


@pytest.mark.parametrize("features", MISSING.values(), ids=MISSING.keys())
def test_it_serves_without(pair, features):
    """Write, trim, zero, read back, kill; recover, drain, stop; look at it."""
    content = bytearray(random.Random(5).randbytes(4 * MIB))
    pair.make_origin(len(content), content)
    settings = {"prefix": without(features), "compress": "zstd", "control": pair.folder / "control",
                "tolerate": ["has no locks", "the ring is in private memory: cannot lock"], "check": False}  # fmt: skip
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        for number in range(300):
            data = bytes([number % 251]) * (4096 + number)
            offset = number * 8192
            handle.pwrite(data, offset)
            content[offset : offset + len(data)] = data
        handle.trim(MIB, 2 * MIB)
        handle.zero(MIB // 2 + 100, MIB // 4 + 7)
        content[2 * MIB : 3 * MIB] = bytes(MIB)
        content[MIB // 4 + 7 : MIB // 4 + 7 + MIB // 2 + 100] = bytes(MIB // 2 + 100)
        handle.flush()
        handle.cache(MIB, MIB)
        assert clients.read_all(handle) == content
        server.kill()
    with pair.serve(**settings, on_exit="destage") as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == content
        handle.pwrite(b"end", 0)
        content[:3] = b"end"
    same(pair.origin.read_bytes(), content)
    done = wbcache(features, "check", pair.log, "--origin", pair.origin)
    assert done.returncode == 0, done.stderr


def wbcache(features, *words):
    command = [*without(features), "/usr/bin/python3", "-m", "wbcache_core", *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "features",
    [
        ["hard links=EPERM"], ["hard links=EOPNOTSUPP", "exclusive renames=EINVAL"],
        ["hard links=EPERM", "exclusive renames=ENOSYS", "flock=ENOLCK"],
    ],
    ids=["links", "links, renames", "links, renames, locks"],
)  # fmt: skip
def test_an_image_where_there_are_no_hard_links(pair, features):
    pair.make_origin(4 * MIB)
    with pair.serve(destage_delay="1h") as server:
        clients.qemu_io(server.uri, "write -P 7 4096 4096")
    image = pair.folder / "image"
    done = wbcache(features, "replay", pair.log, pair.origin, "--to", image)
    assert done.returncode == 0, done.stderr
    same(image.read_bytes(), bytes(4096) + b"\7" * 4096 + bytes(4 * MIB - 8192))
    assert not list(pair.folder.glob("*.partial"))
    assert wbcache(features, "replay", pair.log, pair.origin, "--to", image).returncode == 2
