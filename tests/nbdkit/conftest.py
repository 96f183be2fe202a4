# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the real-client tests. A missing program fails the tests: what is not run is not known to work."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.nbdkit_server import CachePair
from tests.support.peer_pair import ORIGIN_BYTES, PeerPair

PROGRAMS = (
    "nbdkit nbdinfo nbdcopy nbdfuse fusermount3 qemu-io qemu-img fio losetup blockdev mount umount fstrim setpriv "
    "mkfs.ext4 e2fsck mkfs.xfs xfs_repair cmp certtool psktool ip nft"
).split()


@pytest.fixture(scope="session", autouse=True)
def programs():
    path = clients.environment()["PATH"]
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.fail(f"programs that these tests need are missing: {', '.join(missing)}")


@pytest.fixture
def folder():
    """A temporary folder with a short name (a Unix socket's path has at most 107 bytes), removed at the end."""
    with tempfile.TemporaryDirectory(prefix="wbcache-") as name:
        yield Path(name)


@pytest.fixture
def control(folder):
    """For `control=`; short, like the folder."""
    return folder / "c"


@pytest.fixture
def other(folder):
    """Of a log to attach."""
    return folder / "other.log"


@pytest.fixture
def hosts(folder):
    """An owner and a standby to be, in front of an origin whose last page is not whole; at the end they are killed."""
    hosts = PeerPair(folder)
    hosts.pair.make_origin(ORIGIN_BYTES)
    yield hosts
    hosts.pair.destroy()


@pytest.fixture
def pair(folder):
    """An origin and a log to serve; servers that the test left running are killed."""
    pair = CachePair(folder)
    yield pair
    pair.destroy()
