# SPDX-License-Identifier: BSD-3-Clause
"""Servers whose wall clock is set while they run, and asked for ages and times."""

import time
from datetime import datetime, timezone

import pytest

from tests.support import clients
from tests.support.control import ask

MIB = 1 << 20
YEARS = 10 * 365 * 86400
PLUGIN = clients.REPOSITORY / "tests" / "support" / "wrong_clock_plugin.py"


@pytest.fixture
def set_clock(pair, folder, monkeypatch):
    """To be called with the seconds by which the clock of the pair's servers is to be wrong."""
    pair.plugin = PLUGIN
    monkeypatch.setenv("WBCACHE_TEST_CLOCK", str(folder / "clock"))

    def set_clock(seconds):
        (folder / "new").write_text(str(seconds))
        (folder / "new").rename(folder / "clock")

    set_clock(0)
    return set_clock


def write(server, letter):
    """A commit; returns when it was, by a clock that is right."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(letter * 4096, 0)
        handle.flush()
    return time.time()


def letter_at(server, control, when):
    """What `wbcache resolve` and the export that it names give."""
    number = ask(control, "resolve", when=when)["moment"]["generation"]
    with clients.connection(f"nbd+unix:///@{number}?socket={server.socket}") as handle:
        return handle.pread(1, 0)


def age(then):
    return f"-{time.time() - then:.3f}s"


def iso(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("wrong", [YEARS, -3600])
def test_one_commit_with_a_clock_that_was_wrong(pair, folder, set_clock, wrong):
    pair.make_origin(MIB)
    control = folder / "control"
    settings = {"history": "1h", "control": control}
    with pair.serve(**settings) as server:
        times = {b"a": write(server, b"a") + 0.1}
        time.sleep(0.3)
        set_clock(wrong)
        times[b"b"] = write(server, b"b") + 0.1
        time.sleep(0.3)
        set_clock(0)
        times[b"c"] = write(server, b"c") + 0.1
        time.sleep(0.3)
        shown = [row["end"] for row in ask(control, "history", each=True)["rows"]]
        assert (shown[2] > shown[3]) == (wrong > 0) and (shown[2] < shown[1]) == (wrong < 0), "the clock was right"
        for letter, then in times.items():
            assert letter_at(server, control, age(then)) == letter
        server.kill()
    with pair.serve(**settings) as server:
        # The same boot of the machine: true after a kill too.
        for letter, then in times.items():
            assert letter_at(server, control, age(then)) == letter
        assert letter_at(server, control, iso(times[b"c"])) == b"c"
        rows = ask(control, "history")["rows"]
        assert [row["last"] for row in rows] == [0, 1, 2, 3]


def test_a_time_that_came_twice_is_refused_by_name(pair, folder, set_clock):
    pair.make_origin(MIB)
    control = folder / "control"
    with pair.serve(history="1h", control=control) as server:
        write(server, b"a")
        time.sleep(0.5)
        write(server, b"b")
        set_clock(-1)
        write(server, b"c")
        twice = time.time() - 0.9
        time.sleep(1)
        write(server, b"d")
        answer = ask(control, "resolve", when=iso(twice))
        assert not answer["ok"] and "the clock was set back by" in answer["error"], answer
        assert "between generation 2 and 3" in answer["error"], answer
        with clients.connection(f"nbd+unix:///@3?socket={server.socket}") as handle:
            assert handle.pread(1, 0) == b"c"


@pytest.mark.parametrize("wrong", [YEARS, -YEARS])
def test_history_lets_go_and_keeps_whatever_the_clock_says(pair, folder, set_clock, wrong):
    pair.make_origin(MIB)
    control = folder / "control"
    with pair.serve(history="2s", control=control, destage_delay="0") as server:
        first = write(server, b"a") + 0.1
        time.sleep(0.3)
        set_clock(wrong)
        write(server, b"b")
        assert letter_at(server, control, age(first)) == b"a"
        set_clock(0)
        deadline = time.monotonic() + 20
        while ask(control, "status")["window"]["generations"] > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert time.time() - first > 1.8
