# SPDX-License-Identifier: BSD-3-Clause
"""Damage as large as a commit, or larger: something far behind it still tells that the log goes on there."""

import os

import pytest

from tests.support.abandon import abandon
from tests.support.local_pair import QUIET
from wbcache_core.errors import DamagedLogError
from wbcache_core.flow import destager
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log.geometry import COMMIT_PAGES
from wbcache_core.units import MIB, PAGE_BYTES

VOLUME_BYTES = 96 * MIB
SETTINGS = QUIET | {"ring_size": "192M", "commit_size": "96M", "log_size": "1G"}
"""What is written here is committed when it is flushed, and stays in the log: nothing but a crash ends it."""
CHUNK = os.urandom(MIB)


@pytest.fixture(autouse=True)
def never_idle(monkeypatch):
    """Not even an idle volume is destaged."""
    monkeypatch.setattr(destager, "_IDLE_SECONDS", 3600)


def write(cache, start, end):
    """Fill the volume from start to end, in MiB."""
    for offset in range(start, end):
        cache.volume.write(CHUNK, offset * MIB)


def wipe(path, length):
    """The first bytes of the data area are lost."""
    with open(path, "r+b") as log:
        log.seek(DATA_START)
        log.write(bytes(length))


def test_the_loss_of_the_first_page_of_a_long_commit_is_noticed(pair):
    """The commit after it says so. It is found because no commit is longer than recovery looks ahead."""
    pair.make_origin(VOLUME_BYTES)
    cache = pair.start(**SETTINGS)
    write(cache, 0, 80)
    assert cache._line.committed == 1 and cache._line.head > 2 * COMMIT_PAGES
    cache.volume.flush()
    assert cache._committer.generation >= 3
    write(cache, 80, 81)
    cache.volume.flush()
    abandon(cache)
    wipe(pair.log, PAGE_BYTES)
    with pytest.raises(DamagedLogError):
        pair.start(**SETTINGS)


def test_the_loss_of_more_than_recovery_looks_through_is_noticed(pair):
    """A superblock says so, though nothing was destaged."""
    pair.make_origin(VOLUME_BYTES)
    cache = pair.start(**SETTINGS)
    for start in range(0, 80, 4):
        write(cache, start, start + 4)
        cache.volume.flush()
    assert cache._line.destaged == 1
    abandon(cache)
    wipe(pair.log, 70 * MIB)
    with pytest.raises(DamagedLogError):
        pair.start(**SETTINGS)
