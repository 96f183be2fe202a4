# SPDX-License-Identifier: BSD-3-Clause
"""How a cache stops: whoever waits for it is told, whatever goes wrong, and what is left undone is said."""

import contextlib

import pytest

from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, GatedOrigin, in_background
from tests.support.injected_errors import each_line_once, error_at
from tests.support.local_pair import QUIET
from wbcache_core.errors import DeviceError, StoppedError
from wbcache_core.server.cache import Cache
from wbcache_core.units import MIB, PAGE_BYTES

STEPS = (
    "server/cache.py", "server/stopping.py", "flow/committer.py", "flow/destager.py", "flow/throttle.py",
    "log/writer.py", "log/superblocks.py", "memory/cursors.py", "memory/segment_table.py",
)  # fmt: skip


def page(letter):
    return letter * PAGE_BYTES


def read(cache, block=0):
    found = bytearray(PAGE_BYTES)
    cache.volume.read_into(found, block * PAGE_BYTES)
    return bytes(found)


def fail(*_):
    raise MemoryError("as the test wants it")


def dirty_log(pair):
    """A log with a page for its origin, left by a kill."""
    pair.make_origin(b"o" * MIB)
    pair.start(**QUIET).volume.write(page(b"n"), 0, fua=True)
    pair.abandon()


@pytest.mark.parametrize("part", ["_committer.commit_all", "_throttle.stop", "_committer.join"])
def test_after_an_internal_error_nobody_waits(pair, monkeypatch, part):
    """And what is accepted is not given up: the next attempt, which nbdkit's end makes, commits it."""
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    cache.volume.write(page(b"n"), 0)
    owner, name = part.split(".")
    with monkeypatch.context() as patched:
        patched.setattr(getattr(cache, owner), name, fail)
        in_background(cache.finish).result(PATIENCE_S)
        assert cache.is_settled
        assert cache.is_unfinished
    cache.stop()
    assert not cache.is_unfinished
    check_pair(pair.log, pair.origin)
    assert read(pair.start()) == page(b"n")


def test_memory_error_at_every_line(pair):
    def started():
        pair.abandon()
        # A new file: the one before is marked as that of its log.
        pair.origin.unlink(missing_ok=True)
        pair.log.unlink(missing_ok=True)
        pair.make_origin(MIB)
        cache = pair.start(on_exit="destage", **QUIET)
        cache.volume.write(page(b"f"), PAGE_BYTES, fua=True)
        cache.volume.write(page(b"n"), 0)
        return cache

    cache = started()
    with error_at(10**6, STEPS, ("finish",)) as undisturbed:
        cache.finish()
    for countdown in each_line_once(undisturbed):
        cache = started()
        with error_at(countdown, STEPS, ("finish",)) as injection, contextlib.suppress(MemoryError):
            cache.finish()
        assert cache.is_settled, injection.struck
        in_background(cache.stop).result(PATIENCE_S)
        failed = cache._line.log_error is not None
        check_pair(pair.log, pair.origin)
        again = pair.start(**QUIET)
        assert read(again, 1) == page(b"f"), injection.struck
        assert read(again) == page(b"n") or (failed and cache.is_unfinished), injection.struck
        if not cache.is_unfinished:
            assert pair.origin.read_bytes()[: 2 * PAGE_BYTES] == page(b"n") + page(b"f"), injection.struck


def test_a_client_that_opens_during_a_drain_is_refused_at_once(pair):
    pair.make_origin(MIB)
    origin = GatedOrigin(pair.origin)
    cache = pair.start(origin, on_exit="destage", **QUIET)
    cache.volume.write(page(b"n"), 0)
    origin.write_gate.clear()
    stopping = in_background(cache.stop)
    try:
        assert origin.wants_to_write.wait(PATIENCE_S)
        for call in (cache.activate, lambda: cache.tag("now"), lambda: cache.give_up(0, PAGE_BYTES)):
            with pytest.raises(StoppedError):
                in_background(call).result(5)
        # Nor one that looked at the flag before the stop.
        assert cache._lifecycle.acquire(timeout=5)
        cache._lifecycle.release()
        assert read(cache) == page(b"n")
    finally:
        origin.write_gate.set()
    stopping.result(PATIENCE_S)
    assert pair.origin.read_bytes()[:PAGE_BYTES] == page(b"n")


def test_nothing_is_begun_once_the_server_stops(pair):
    """Not even the log is made."""
    pair.make_origin(MIB)
    cache = Cache(pair.config())
    pair.own(cache)
    cache.interrupt()
    with pytest.raises(StoppedError):
        cache.activate()
    cache.stop()
    assert not pair.log.exists()


def test_a_log_that_no_client_came_to_write_is_told_of(pair, caplog):
    dirty_log(pair)
    before = pair.log.read_bytes()
    cache = Cache(pair.config(on_exit="destage"))
    assert read(cache) == page(b"n")
    cache.stop()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    command = f"wbcache replay '{pair.log}' '{pair.origin}'"
    for text in ("the origin is not complete", "no client that may write was let in", "8.0 KiB", command):
        assert text in record.getMessage()
    assert cache.is_unfinished
    assert pair.log.read_bytes() == before
    assert pair.origin.read_bytes() == b"o" * MIB


@pytest.mark.parametrize("what", ["drained", "no log", "commit only"])
def test_nothing_is_told_where_nothing_is_left_undone(pair, caplog, what):
    dirty_log(pair)
    if what == "drained":
        pair.start(on_exit="destage").stop()
    elif what == "no log":
        pair.log.unlink()
    settings = {"on_exit": "commit"} if what == "commit only" else {"on_exit": "destage"}
    force = {"force": "other-log"} if what == "no log" else {}
    caplog.clear()
    cache = Cache(pair.config(**settings, **force))
    cache.stop()
    assert not cache.is_unfinished
    assert "not complete" not in caplog.text


def test_a_drain_that_ends_early_leaves_the_stop_unfinished(pair):
    pair.make_origin(MIB)
    cache = pair.start(on_exit="destage", **QUIET)
    cache.volume.write(page(b"n"), 0)
    cache.tag("kept")
    cache.volume.write(page(b"m"), 0)
    cache.stop()
    assert cache.is_unfinished
    again = pair.start(on_exit="destage", **QUIET)
    again.untag("kept")
    again.stop()
    assert not again.is_unfinished
    assert pair.origin.read_bytes()[:PAGE_BYTES] == page(b"m")


@pytest.mark.parametrize(("memory", "fate"), [("private", "are lost"), ("shared", "stay in memory")])
def test_writes_that_are_lost_leave_the_stop_unfinished(pair, monkeypatch, caplog, memory, fate):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET, ring_memory=memory)
    cache.volume.write(page(b"n"), 0)

    def refuse(*_):
        raise DeviceError("cannot sync log: as the test wants it")

    with monkeypatch.context() as patched:
        patched.setattr(cache._log, "sync", refuse)
        cache.stop()
    assert cache.is_unfinished
    assert fate in caplog.text
