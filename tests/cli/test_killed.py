# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 of replay and salvage at random instants, then the same command again."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.cli.history import History
from tests.support.clients import REPOSITORY, environment
from tests.support.matching import same

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
KILLS = 4
LIMIT_S = 60


def start(*words):
    return subprocess.Popen(
        ["/usr/bin/python3", "-m", "wbcache_core", *map(str, words)],
        cwd=REPOSITORY,
        env=dict(environment(), PYTHONDONTWRITEBYTECODE="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*words):
    """Run to the end; returns the seconds it took."""
    started = time.monotonic()
    process = start(*words)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    return time.monotonic() - started


def kill_after(seconds, *words):
    process = start(*words)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("command", ["replay", "salvage", "salvage without superblocks"])
def test_it_is_killed_and_run_again(tmp_path, command):
    rng = random.Random(f"{SEED} {command}")
    print(f"seed {SEED}")
    history = History(f"killed {SEED}", pages=2000, commits=14, drained_at=(2,), largest=100, log_bytes=16 << 20)
    end = history.segments()[-1].end_lsn
    words = ["replay"]
    if command != "replay":
        words = ["salvage", "--yes"]
        if command == "salvage":
            end = history.segments()[-4].first_lsn
            history.damage_descriptor(history.segments()[-4])
        else:
            history.damage_superblocks()
    log, origin = history.save(tmp_path)
    copies = tmp_path / "log.copy", tmp_path / "origin.copy"
    shutil.copy(log, copies[0])
    shutil.copy(origin, copies[1])
    seconds = finish(*words, *copies)
    same(copies[1].read_bytes(), history.states[end])
    for _ in range(KILLS):
        kill_after(rng.uniform(0.3, 1.05) * seconds, *words, log, origin)
    finish(*words, log, origin)
    same(origin.read_bytes(), history.states[end])
    finish("check", log, "--origin", origin)
