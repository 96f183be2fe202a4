# SPDX-License-Identifier: BSD-3-Clause
"""A policy that is put in force while the cache runs: requests, commits and destaging follow it from then on."""

import dataclasses
import threading
import time

import pytest

from tests.support.checker import check_pair
from tests.support.gated_origin import wait_until
from tests.support.local_pair import QUIET, LocalPair
from tests.support.watched_workers import serve_in_a_thread
from wbcache_core.device.file_device import FileDevice
from wbcache_core.memory.policy import LOG, ORIGIN
from wbcache_core.units import MIB, PAGE_BYTES

PAGE = b"p" * PAGE_BYTES


class CountingOrigin(FileDevice):
    """Slow, and `most` writes were under way at once."""

    def __init__(self, path):
        super().__init__(str(path), "origin")
        self.most = self._under_way = 0
        self._lock = threading.Lock()

    def write(self, views, offset):
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        time.sleep(0.005)
        super().write(views, offset)
        with self._lock:
            self._under_way -= 1


@pytest.fixture
def pair(tmp_path):
    pair = LocalPair(tmp_path)
    pair.origin.write_bytes(b"o" * 4 * MIB)
    return pair


@pytest.fixture
def cache(pair):
    cache = pair.start(**QUIET)
    yield cache
    cache.stop()
    check_pair(pair.log, pair.origin)


def apply(cache, **changes):
    line = cache._line
    line.apply(dataclasses.replace(line.policy, **changes))


def test_levels_are_those_of_the_moment(cache):
    line, volume = cache._line, cache.volume
    volume.write(PAGE, 0)
    assert line.committed < line.head
    apply(cache, ack=LOG, fua=LOG)
    volume.write(PAGE, PAGE_BYTES)
    assert line.destaged < line.committed == line.head
    apply(cache, ack=ORIGIN, flush=ORIGIN, fua=ORIGIN)
    volume.write(PAGE, 2 * PAGE_BYTES)
    assert line.destaged == line.head
    apply(cache, ack=0, flush=LOG, fua=LOG)
    volume.write(PAGE, 3 * PAGE_BYTES)
    assert line.committed < line.head
    volume.flush()
    assert line.destaged < line.committed == line.head


def test_a_shorter_interval_commits_what_is_volatile(cache):
    line = cache._line
    cache.volume.write(PAGE, 0)
    apply(cache, commit_interval=0.01)
    wait_until(lambda: line.committed == line.head)


def test_a_smaller_commit_size_commits_what_is_volatile(cache):
    line = cache._line
    for index in range(20):
        cache.volume.write(PAGE, index * PAGE_BYTES)
    assert line.committed == 1
    apply(cache, commit_pages=10)
    cache.volume.write(PAGE, 0)
    wait_until(lambda: line.committed > 20)


def test_a_lower_watermark_destages_what_is_dirty(cache):
    line = cache._line
    for index in range(20):
        cache.volume.write(PAGE, index * PAGE_BYTES)
    cache.volume.flush()
    assert line.destaged == 1
    apply(cache, low_pages=5)
    wait_until(lambda: line.destaged == line.head)


@pytest.mark.parametrize("is_worker", [False, True])
def test_a_batch_has_the_depth_that_is_in_force_when_it_starts(pair, monkeypatch, is_worker):
    """Whoever writes it."""
    origin = CountingOrigin(pair.origin)
    if is_worker:
        serve_in_a_thread(monkeypatch, origin)
    cache = pair.start(origin, may_spawn=is_worker, **QUIET | {"destage_depth": "6", "flush": "origin"})
    for depth in ("", "1", "12"):
        if depth:
            cache.settings.change({"destage-depth": depth})
        origin.most = 0
        for block in range(0, 400, 10):
            cache.volume.write(PAGE, block * PAGE_BYTES)
        cache.volume.flush()
        assert 1 < origin.most <= int(depth or 6) or origin.most == int(depth) == 1
    assert origin.most > 6
    cache.stop()
    check_pair(pair.log, pair.origin)


def test_history_that_is_no_longer_wanted_is_destaged(pair):
    cache = pair.start(**QUIET | {"history": "1G", "destage_delay": "0"})
    line = cache._line
    cache.volume.write(PAGE, 0)
    cache.volume.flush()
    apply(cache, history_pages=0, low_pages=0)
    wait_until(lambda: line.destaged == line.head)
    cache.stop()
    check_pair(pair.log, pair.origin)


@pytest.mark.parametrize("drains", [True, False])
def test_what_a_stop_does_is_said_at_the_end(pair, drains):
    cache = pair.start(**QUIET | {"on_exit": "commit" if drains else "destage"})
    cache.volume.write(PAGE, 0)
    apply(cache, drain_at_stop=drains)
    cache.stop()
    assert (pair.origin.read_bytes()[:PAGE_BYTES] == PAGE) == drains
    check_pair(pair.log, pair.origin)
