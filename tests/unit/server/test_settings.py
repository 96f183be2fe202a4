# SPDX-License-Identifier: BSD-3-Clause
"""Parameters of a running cache: shown as they may be written, and changed all or none."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import ConfigError
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.policy import LOG, ORIGIN
from wbcache_core.server.config import Config
from wbcache_core.server.settings import NAMES, Setting, Settings
from wbcache_core.units import MIB

DATA_PAGES = 65536


def made(**parameters):
    """Settings, and the line that they are for."""
    pairs = {"origin": "/disk", "log": "/log"} | {name.replace("_", "-"): text for name, text in parameters.items()}
    config = Config.from_pairs(pairs.items())
    line = NumberLine(4096, DATA_PAGES, config.policy(DATA_PAGES))
    return Settings(config, line), line


def values(settings):
    return {one.name: one.now for one in settings.all()}


def test_defaults():
    settings, _ = made()
    assert values(settings) == {
        "ack": "ram", "flush": "log", "fua": "log", "commit-interval": "1s", "commit-size": "16M",
        "destage-delay": "5s", "destage-depth": "64", "low-watermark": "25%", "high-watermark": "75%",
        "history": "off", "history-full": "drop", "on-exit": "commit", "peer-lost": "wait",
        "log-level": "warnings",
    }  # fmt: skip
    assert tuple(values(settings)) == NAMES


def test_changes_are_in_force():
    settings, line = made()
    changed = settings.change({"ack": "log", "flush": "origin", "commit_interval": "250ms", "history": "2h"})
    assert changed == [
        Setting("ack", "ram", "log"), Setting("flush", "log", "origin"), Setting("commit-interval", "1s", "0.25s"),
        Setting("history", "off", "2h"),
    ]  # fmt: skip
    policy = line.policy
    assert policy.destage_depth == 64 and settings.log_level == logging.WARNING
    assert (policy.ack, policy.flush, policy.commit_interval) == (LOG, ORIGIN, 0.25)
    assert policy.history_ns == 7200 * 10**9 and policy.fua == LOG
    assert [one for one in settings.all() if one.before != one.now] == changed


def test_depth_and_log_level():
    settings, line = made(destage_depth="8", log_level="debug")
    assert line.policy.destage_depth == 8 and settings.log_level == logging.DEBUG
    changed = settings.change({"destage-depth": "256", "log-level": "errors"})
    assert changed == [Setting("destage-depth", "8", "256"), Setting("log-level", "debug", "errors")]
    assert line.policy.destage_depth == 256 and settings.log_level == logging.ERROR
    for wrong in ({"destage-depth": "257"}, {"destage-depth": "0"}, {"log-level": "all"}, {"log-level": "30"}):
        with pytest.raises(ConfigError, match="is not"):
            settings.change({"destage-depth": "2", "log-level": "info"} | wrong)
        assert line.policy.destage_depth == 256 and settings.log_level == logging.ERROR


def test_of_several_one_is_refused():
    settings, line = made()
    before = line.policy
    for wrong in ({"low-watermark": "80"}, {"commit-interval": "0"}, {"ack": "disk"}, {"ring-size": "1G"}, {"x": "1"}):
        with pytest.raises(ConfigError):
            settings.change({"flush": "origin"} | wrong)
        assert line.policy is before and values(settings)["flush"] == "log"
    both = settings.change({"low-watermark": "80", "high-watermark": "90%"})
    assert both == [Setting("low-watermark", "25%", "80%"), Setting("high-watermark", "75%", "90%")]


def test_what_cannot_be_changed_is_named_with_what_can():
    settings, _ = made()
    with pytest.raises(ConfigError, match=r"'log-size' cannot be changed while the server runs; what can: ack, flush"):
        settings.change({"log-size": "1G"})


def test_commit_size_is_limited_by_the_ring():
    settings, line = made()
    line.volatile_pages = 100
    assert settings.change({"commit-size": "1G"}) == [Setting("commit-size", "16M", "32M")]
    assert line.policy.commit_pages == 50
    settings, _ = made(ring_size="8M")
    assert settings.change({"commit-size": "1G"}) == [Setting("commit-size", "2M", "4M")]
    assert settings.change({"commit-size": "0"}) == [Setting("commit-size", "4M", "2M")]


TIMES = st.one_of(
    st.integers(1, 10**5).map(lambda count: f"{count}ms"), st.integers(1, 10**4).map(lambda count: f"{count}s"),
    st.integers(1, 1000).map(lambda count: f"{count}m"), st.integers(1, 20).map(lambda count: f"{count}h"),
)  # fmt: skip
SIZES = st.one_of(st.integers(4096, 4 * MIB).map(str), st.integers(1, 4).map(lambda count: f"{count}M"))


@given(
    st.fixed_dictionaries({}, optional={
        "ack": st.sampled_from(["ram", "log", "origin"]), "flush": st.sampled_from(["log", "origin"]),
        "fua": st.sampled_from(["log", "origin"]), "commit-interval": TIMES, "commit-size": SIZES,
        "destage-delay": TIMES, "destage-depth": st.integers(1, 256).map(str),
        "log-level": st.sampled_from(["errors", "warnings", "info", "debug"]),
        "low-watermark": st.integers(0, 40).map(str),
        "high-watermark": st.integers(41, 100).map(lambda percent: f"{percent}%"),
        "history": st.one_of(st.just("off"), TIMES, st.sampled_from(["500M", "20G", "1d", "36h"])),
        "history-full": st.sampled_from(["drop", "hold"]), "on-exit": st.sampled_from(["commit", "destage"]),
        "peer-lost": st.sampled_from(["wait", "continue"]),
    })
)  # fmt: skip
def test_what_is_shown_may_be_written(wanted):
    """Shown by one server, the settings give another one the same policy."""
    one, one_line = made()
    one.change(wanted)
    other, other_line = made()
    other.change(values(one))
    assert other_line.policy == one_line.policy and values(other) == values(one)
