# SPDX-License-Identifier: BSD-3-Clause
"""A worker takes from the ring of its server what that still has, and is not misled by what it has no more."""

import random

import pytest

from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.local_pair import QUIET
from tests.support.watched_workers import Workers, serve_in_a_thread
from wbcache_core.device.file_device import FileDevice
from wbcache_core.flow.batch_executor import DirectExecutor
from wbcache_core.format.superblock import DATA_START
from wbcache_core.units import MIB, PAGE_BYTES
from wbcache_core.worker.shared_page import SharedPage

BLOCKS = 8 * MIB // PAGE_BYTES
EAGER = {"destage_delay": "0", "low_watermark": "0", "commit_interval": "5ms"}


def spoil(log):
    """Everything but the superblocks, as if the disk had lost it."""
    with open(log, "r+b") as file:
        file.seek(DATA_START)
        file.write(bytes(log.stat().st_size - DATA_START))


def write_some(cache):
    """Of each block the last; at least one segment each. Returns what the volume then has."""
    content = bytearray(b"o" * MIB)
    for block in (3, 5, 5, 9, 3, 100):
        page = bytes([block, len(content) & 255, block ^ 255, 7]) * (PAGE_BYTES // 4)
        cache.volume.write(page, block * PAGE_BYTES)
        cache.volume.flush()
        content[block * PAGE_BYTES : (block + 1) * PAGE_BYTES] = page
    return content


@pytest.mark.parametrize("memory", ["shared", "private"])
def test_a_batch_that_the_ring_has_is_not_read_from_the_log(pair, monkeypatch, memory):
    """With a private ring the worker reads the log, which is spoilt, and the server carries the batch out itself."""
    workers = Workers(monkeypatch)
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, ring_memory=memory, **QUIET)
    content = write_some(cache)
    spoil(pair.log)
    in_background(cache.drain).result(PATIENCE_S)
    assert pair.origin.read_bytes() == content
    assert workers.asked[0] == "load"
    assert ("write" in workers.asked) == (memory == "shared")


def test_the_ring_of_a_killed_server_is_read_too(pair, monkeypatch):
    workers = Workers(monkeypatch)
    pair.make_origin(b"o" * MIB)
    killed = pair.start(ack="ram", **QUIET)
    content = write_some(killed)
    page = b"only ram" * (PAGE_BYTES // 8)
    killed.volume.write(page, 11 * PAGE_BYTES)
    content[11 * PAGE_BYTES : 12 * PAGE_BYTES] = page
    abandon(killed, memory_stays=True)
    cache = pair.start(may_spawn=True, **QUIET)
    in_background(cache.drain).result(PATIENCE_S)
    assert pair.origin.read_bytes() == content
    assert "write" in workers.asked


def test_slots_that_were_used_again(pair, monkeypatch, seed):
    """The worker is never told that the ring has gone on, so it reads pages of later laps. Their checksums tell."""
    monkeypatch.setattr(SharedPage, "ring_floor", property(lambda page: 0))
    misled = []
    verified = DirectExecutor._with_recent

    def with_recent(self, segments, end):
        found = verified(self, segments, end)
        if self._recent and not found:
            misled.append(end)
        return found

    monkeypatch.setattr(DirectExecutor, "_with_recent", with_recent)
    content = bytearray(b"o" * BLOCKS * PAGE_BYTES)
    pair.make_origin(content)
    device = FileDevice(str(pair.origin), "origin")
    serve_in_a_thread(monkeypatch, device)
    cache = pair.start(device, may_spawn=True, **EAGER)
    choice = random.Random(seed)
    for _ in range(400):
        first, count = choice.randrange(BLOCKS - 40), choice.choice((1, 3, 40))
        data = choice.randbytes(PAGE_BYTES) * count
        cache.volume.write(data, first * PAGE_BYTES)
        content[first * PAGE_BYTES : first * PAGE_BYTES + len(data)] = data
    in_background(cache.drain).result(PATIENCE_S)
    cache.stop()
    assert pair.origin.read_bytes() == content
    assert misled
    check_pair(pair.log, pair.origin)
