# SPDX-License-Identifier: BSD-3-Clause
"""A drain of a cache in this process, with an origin that is held up or fails at a chosen moment."""

import errno

import pytest

from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, GatedOrigin, in_background, wait_until
from tests.support.local_pair import QUIET
from wbcache_core.errors import StoppedError
from wbcache_core.units import MIB, PAGE_BYTES

PAGE = b"p" * PAGE_BYTES


@pytest.fixture
def origin(pair):
    pair.make_origin(b"o" * 4 * MIB)
    return GatedOrigin(pair.origin)


@pytest.fixture
def cache(pair, origin):
    cache = pair.start(origin, **QUIET)
    yield cache
    origin.write_gate.set()
    origin.errno_of_writes = 0
    cache.stop()
    check_pair(pair.log, pair.origin)


def state(cache):
    return cache.status()["drain"]["state"]


def write(cache, block):
    cache.volume.write(PAGE, block * PAGE_BYTES)


def test_a_write_is_not_answered_before_the_origin_has_it(cache, origin, pair):
    write(cache, 0)
    cache.begin_drain()
    wait_until(lambda: state(cache) == "drained")
    origin.write_gate.clear()
    origin.wants_to_write.clear()
    answer = in_background(write, cache, 1)
    wait_until(lambda: answer.done() or origin.wants_to_write.is_set())
    assert not answer.done() and state(cache) == "drained"
    origin.write_gate.set()
    answer.result(PATIENCE_S)
    assert pair.origin.read_bytes()[PAGE_BYTES : 2 * PAGE_BYTES] == PAGE


def test_what_was_answered_without_the_origin_counts_as_not_drained(cache, origin, monkeypatch):
    monkeypatch.setattr("wbcache_core.flow.failure.ORIGIN_PATIENCE", 0.05)
    write(cache, 0)
    cache.begin_drain()
    wait_until(lambda: state(cache) == "drained")
    origin.errno_of_writes = errno.EIO
    write(cache, 1)
    facts = cache.status()["drain"]
    assert facts["state"] == "draining" and facts["bytes_left"] > 0
    origin.errno_of_writes = 0
    wait_until(lambda: state(cache) == "drained")


def test_a_cancel_while_writes_wait(cache, origin):
    """Who waits already goes on waiting; nobody else does, and no drain is left."""
    origin.write_gate.clear()
    write(cache, 0)
    cache.begin_drain()
    answer = in_background(write, cache, 1)
    assert origin.wants_to_write.wait(PATIENCE_S)
    cache.cancel_drain()
    write(cache, 2)
    assert not answer.done()
    origin.write_gate.set()
    answer.result(PATIENCE_S)
    assert state(cache) == "off"


def test_it_begins_once(cache, origin):
    origin.write_gate.clear()
    write(cache, 0)
    first = cache.begin_drain()
    in_background(write, cache, 1)
    assert cache.begin_drain() == first
    cache.cancel_drain()
    assert cache.begin_drain() != first


def test_after_the_stop(pair, origin):
    cache = pair.start(origin, **QUIET)
    write(cache, 0)
    cache.stop()
    with pytest.raises(StoppedError):
        cache.begin_drain()
