# SPDX-License-Identifier: BSD-3-Clause
"""The command on a log whose generations are not in the order of the wall clock."""

import time

import pytest

from tests.cli.history import History
from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.format.epoch import NO_EPOCH, Epoch
from wbcache_core.tools.salvage.lost_superblocks import _last_written

YEARS = 10 * 365 * 86400


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Generations 1 to 3 by a clock that is right, 4 and 5 by one ten years ahead, 6 and 7 by one an hour behind."""
    history = History("clock", commits=3)
    right = time.time_ns
    for ahead in (YEARS, -3600):
        with monkeypatch.context() as wrong:
            wrong.setattr(time, "time_ns", lambda ahead=ahead: right() + ahead * 10**9)
            history.run(2)
    return history.save(tmp_path)[0]


@pytest.mark.parametrize(
    "words",
    [("info",), ("check",), ("dump",), ("history",), ("history", "--all"), ("diff", "2", "6"),
     ("diff", "--origin=origin", "6", "2"),
     ("resolve", "-0s"), ("tag", "name", "5"), ("rewind", "--origin=origin", "5")],
    ids=" ".join,
)  # fmt: skip
def test_each_command_stands_it(wbcache, log, words, monkeypatch):
    monkeypatch.chdir(log.parent)
    done = wbcache(words[0], *(word for word in words[1:] if word.startswith("--")), log,
                   *(word for word in words[1:] if not word.startswith("--")))  # fmt: skip
    assert done.status == 0, done.stderr
    assert wbcache("check", log).status == 0


def test_a_picture(wbcache, log, tmp_path):
    assert wbcache("picture", log, tmp_path / "picture.png").status == 0


def test_what_resolve_prints(wbcache, log):
    assert wbcache("resolve", log, "-0s").stdout == "@7\n"
    assert wbcache("resolve", log, "3").stdout == "@3\n"
    assert wbcache("resolve", log, "last-flush").stdout == "@7\n"
    refused = wbcache("resolve", log, "-500d")
    assert refused.status == 2 and ("outside the window" in refused.stderr or "the clock was set" in refused.stderr)


def test_history_keeps_the_order_of_the_commits(wbcache, log):
    rows = wbcache("history", "--json", log).json["rows"]
    assert [row["last"] for row in rows] == list(range(rows[0]["last"], 8))
    assert rows[-1]["end"] < rows[-3]["end"]


def test_of_two_attempts_at_a_generation_the_later_counts_whatever_the_clock_said():
    """Salvage without superblocks: a killed server's last commit, and the one that took its number an hour back."""

    class Attempt:
        generation, first_lsn = 9, 50

        def __init__(self, reading, epoch=NO_EPOCH):
            self.time, self.time_ns, self.epoch = reading, reading.wall_ns, epoch

    now = clock.read()
    first = Attempt(now)
    second = Attempt(now._replace(wall_ns=now.wall_ns - 3600 * 10**9, boot_ns=now.boot_ns + 10**9))
    assert _last_written([second, first]) is second
    # Of another boot nothing but the wall clock is known.
    other = Attempt(Reading(now.wall_ns + 1, 5, now.boot ^ 1 or 2))
    assert _last_written([first, other]) is other
    # Epochs follow each other whatever the clocks said.
    later = Attempt(now._replace(wall_ns=1, boot_ns=1), Epoch(1, 1))
    assert _last_written([later, first, second, other]) is later


def test_the_checker_stands_what_was_destaged_with_the_clock_set_back(wbcache, tmp_path, monkeypatch):
    """The time in the superblocks goes back then."""
    history = History("destaged", commits=3, drained_at=(2,))
    right = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: right() - 3600 * 10**9)
    history.run(3, drained_at=(2,))
    log, _ = history.save(tmp_path)
    done = wbcache("check", log)
    assert done.status == 0, done.stdout
