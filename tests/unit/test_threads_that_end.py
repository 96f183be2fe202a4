# SPDX-License-Identifier: BSD-3-Clause
"""An internal error in a thread that others wait for."""

import subprocess

import pytest

from tests.support.clients import REPOSITORY
from tests.support.gated_origin import in_background
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
        cache.abandon()


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
    assert result.stderr.count("internal error while stopping") < 2
