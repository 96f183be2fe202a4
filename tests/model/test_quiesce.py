# SPDX-License-Identifier: BSD-3-Clause
"""Quiescing where something goes wrong meanwhile."""

import pytest

from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.local_pair import QUIET
from wbcache_core.errors import (
    CommitFailedError,
    DeviceError,
    LogFailedError,
    ReadOnlyError,
    StoppedError,
    SyncFailedError,
)
from wbcache_core.server.cache import Cache
from wbcache_core.units import MIB, PAGE_BYTES


@pytest.fixture
def cache(pair):
    pair.make_origin(MIB)
    return pair.start(**QUIET)


def fail(cache, monkeypatch, name, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(cache._log, name, failing)


@pytest.mark.parametrize("size", [PAGE_BYTES, 10, 3 * PAGE_BYTES])
def test_a_write_waits(cache, size):
    cache.volume.write(b"a" * PAGE_BYTES, 0)
    assert cache.quiesce() == {"quiesced": True, "waiting": 0}
    line = cache._line
    assert line.head == line.committed
    write = in_background(cache.volume.write, b"b" * size, 0)
    wait_until(lambda: line.quiesced_waiters == 1)
    assert line.head == line.committed
    assert cache.resume() == {"quiesced": False, "waiting": 0}
    write.result(PATIENCE_S)
    assert line.head > line.committed


def test_a_log_that_cannot_be_written_now(cache, monkeypatch):
    """Nothing waits then."""
    cache.volume.write(b"a" * PAGE_BYTES, 0)
    with monkeypatch.context() as patch:
        fail(cache, patch, "write", DeviceError("no space"))
        with pytest.raises(CommitFailedError):
            cache.quiesce()
        assert not cache.status()["quiesce"]["quiesced"]
        cache.volume.write(b"b" * PAGE_BYTES, 0)
    assert cache.quiesce()["quiesced"]


def test_a_log_that_fails_while_requests_wait(cache, monkeypatch):
    """They fail, as all writes do then."""
    cache.quiesce()
    write = in_background(cache.volume.write, b"b" * PAGE_BYTES, 0)
    wait_until(lambda: cache._line.quiesced_waiters == 1)
    cache.resume()
    write.result(PATIENCE_S)
    fail(cache, monkeypatch, "sync", SyncFailedError("gone"))
    for call in (cache.volume.flush, cache.quiesce, lambda: cache.volume.write(b"c", 0)):
        with pytest.raises(LogFailedError):
            call()


def test_a_stop_wakes_those_who_wait(cache):
    cache.quiesce()
    write = in_background(cache.volume.write, b"b" * PAGE_BYTES, 0)
    wait_until(lambda: cache._line.quiesced_waiters == 1)
    cache.interrupt()
    with pytest.raises(StoppedError):
        write.result(PATIENCE_S)
    for call in (cache.quiesce, cache.resume):
        with pytest.raises(StoppedError):
            call()


def test_destaging_goes_on(cache):
    cache.volume.write(b"a" * PAGE_BYTES, 0)
    cache.quiesce()
    in_background(cache.drain).result(PATIENCE_S)
    assert cache._line.destaged == cache._line.head


def test_a_failure_of_a_commit_that_is_not_theirs(cache, monkeypatch):
    """A write that waits for the end of the pause does not fail because of a commit that failed before."""
    cache.quiesce()
    write = in_background(cache.volume.write, b"b" * PAGE_BYTES, 0)
    line = cache._line
    wait_until(lambda: line.quiesced_waiters == 1)
    with line.lock:
        line.commits.begun += 1
        line.commits.note_failure(CommitFailedError("no space"), 0.0)
        line.moved.notify_all()
    wait_until(lambda: line.quiesced_waiters == 1)
    assert not write.done()
    cache.resume()
    write.result(PATIENCE_S)


def test_a_volume_that_cannot_be_written(pair, monkeypatch):
    pair.make_origin(MIB)
    monkeypatch.setattr(Cache, "is_writable", property(lambda _: False))
    cache = Cache(pair.config(**QUIET))
    pair.own(cache)
    with pytest.raises(ReadOnlyError):
        cache.quiesce()
    assert not cache.status()["quiesce"]["quiesced"]
