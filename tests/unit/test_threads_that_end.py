# SPDX-License-Identifier: BSD-3-Clause
"""An internal error in a thread that others wait for."""

import contextlib
import itertools
import subprocess

import pytest

from tests.support.abandon import abandon
from tests.support.clients import REPOSITORY
from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.injected_errors import error_at
from wbcache_core.errors import LogFailedError
from wbcache_core.flow.committer import Committer
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config

MIB = 1 << 20


def test_writers_do_not_wait_for_a_committer_that_has_ended(tmp_path, monkeypatch):
    def fail(committer):
        raise MemoryError("planted")

    (tmp_path / "image").write_bytes(bytes(8 * MIB))
    settings = {"origin": str(tmp_path / "image"), "log-size": "8M", "ring-size": "1M", "commit-interval": "50ms"}
    cache = Cache(Config.from_pairs(settings.items()))
    try:
        cache.activate()
        monkeypatch.setattr(Committer, "commit_all", fail)

        def write():
            for at in range(0, 4 * MIB, 65536):
                cache.volume.write(memoryview(bytes([1]) * 65536), at)

        with pytest.raises(LogFailedError, match="internal error in commit"):
            in_background(write).result(20)
    finally:
        monkeypatch.undo()
        abandon(cache)


def test_followers_do_not_wait_for_a_leader_that_fails_in_waking_them(tmp_path, monkeypatch):
    """MemoryError at each line of it: each of them becomes the leader, or is told."""
    (tmp_path / "image").write_bytes(bytes(MIB))
    settings = {"origin": str(tmp_path / "image"), "log-size": "8M", "ring-size": "1M", "commit-interval": "1h"}
    cache = Cache(Config.from_pairs(settings.items()))
    followers = []
    written = Committer._write_next

    def write_next(committer):
        monkeypatch.setattr(Committer, "_write_next", written)
        written(committer)
        for at in range(3):
            cache.volume.write(bytes(4096), at * 4096)
            followers.append(in_background(cache.volume.flush))
            wait_until(lambda: len(committer._waiters) == len(followers))

    try:
        cache.activate()
        for countdown in itertools.count():
            assert countdown < 100
            followers.clear()
            monkeypatch.setattr(Committer, "_write_next", write_next)
            cache.volume.write(bytes(4096), 0)
            with (
                error_at(countdown, ("flow/committer.py",), ("_wake_some",)) as injection,
                contextlib.suppress(MemoryError),
            ):
                cache.volume.flush()
            for follower in followers:
                follower.result(PATIENCE_S)
            if not injection.struck:
                break
        assert countdown > 5
    finally:
        monkeypatch.undo()
        abandon(cache)


WATCH = """
import os, signal, threading, time
from wbcache_core.nbdkit_process.shutdown import ShutdownWatcher
seen, over, ticks = [], threading.Event(), threading.Event()

def on_signal():
    seen.append(1)
    if len(seen) == 2:
        over.set()
    raise RuntimeError("planted")

def on_tick():
    if len(seen) == 2:
        ticks.set()
    raise ValueError("planted")

watcher = ShutdownWatcher(on_signal, on_tick)
watcher.start()
for _ in range(2):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.4)
assert over.wait(10) and ticks.wait(10)
print("heard")
os._exit(0)
"""


def test_a_second_signal_is_heard_after_an_internal_error():
    command = ["/usr/bin/python3", "-c", WATCH]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.stdout == "heard\n"
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("internal error in the stop") == 1
