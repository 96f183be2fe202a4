# SPDX-License-Identifier: BSD-3-Clause
"""Parameters: names, values, defaults, and what is refused."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import ConfigError
from wbcache_core.memory.policy import LOG, ORIGIN, RAM
from wbcache_core.server.config import COMMIT, DESTAGE, DROP, HOLD, NO_HISTORY, PRIVATE, SHARED, Config, History
from wbcache_core.units import GIB, MIB

NAMES = (
    "origin log log-size ring-size ring-memory ack flush fua commit-interval commit-size destage-delay destage-depth "
    "origin-settle origin-timeout origin-connect-timeout low-watermark high-watermark on-exit compress history "
    "history-full force pin-thread-state destage-worker log-level"
).split()


def parse(**parameters):
    pairs = {"origin": "/images/disk"} | {name.replace("_", "-"): value for name, value in parameters.items()}
    return Config.from_pairs(pairs.items())


def test_defaults():
    assert parse() == Config(
        origin="/images/disk",
        log="/images/disk.wblog",
        log_size=GIB,
        ring_size=None,
        ring_memory=SHARED,
        ack=RAM,
        flush=LOG,
        fua=LOG,
        commit_interval=1.0,
        commit_size=16 * MIB,
        destage_delay=5.0,
        destage_depth=64,
        origin_settle=30.0,
        origin_timeout=30.0,
        origin_connect_timeout=20.0,
        low_watermark=25,
        high_watermark=75,
        on_exit=COMMIT,
        compress=None,
        history=NO_HISTORY,
        history_full=DROP,
        force=frozenset(),
        pin_thread_state=True,
        destage_worker=True,
        log_level=logging.WARNING,
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("origin", "/a/../b", "/b"),
        ("log", "/dev/nvme0n1p1", "/dev/nvme0n1p1"),
        ("log_size", "4M", 4 * MIB),
        ("ring_size", "1M", MIB),
        ("ring_size", "auto", None),
        ("ring_memory", "shared", SHARED),
        ("ring_memory", "private", PRIVATE),
        ("ack", "ram", RAM),
        ("ack", "log", LOG),
        ("ack", "origin", ORIGIN),
        ("flush", "log", LOG),
        ("flush", "origin", ORIGIN),
        ("fua", "origin", ORIGIN),
        ("commit_interval", "250ms", 0.25),
        ("commit_size", "1M", MIB),
        ("destage_delay", "2m", 120),
        ("destage_delay", "0", 0),
        ("destage_depth", "1", 1),
        ("origin_settle", "0", 0),
        ("origin_settle", "2m", 120),
        ("origin_timeout", "1500ms", 1.5),
        ("origin_connect_timeout", "1m", 60),
        ("destage_depth", "256", 256),
        ("log_level", "errors", logging.ERROR),
        ("log_level", "debug", logging.DEBUG),
        ("low_watermark", "0", 0),
        ("low_watermark", "74%", 74),
        ("high_watermark", "100", 100),
        ("on_exit", "commit", COMMIT),
        ("on_exit", "destage", DESTAGE),
        ("compress", "off", None),
        ("compress", "zstd", 1),
        ("compress", "zstd:19", 19),
        ("history", "off", NO_HISTORY),
        ("history", "0", NO_HISTORY),
        ("history", "5M", History(byte_count=5 * MIB)),
        ("history", "2G", History(byte_count=2 * GIB)),
        ("history", "5m", History(seconds=300)),
        ("history", "1.5h", History(seconds=5400)),
        ("history", "500ms", History(seconds=0.5)),
        ("history", "2d", History(seconds=172_800)),
        ("history_full", "drop", DROP),
        ("history_full", "hold", HOLD),
        ("force", "origin-changed", {"origin-changed"}),
        ("force", "origin-changed,discard-log", {"origin-changed", "discard-log"}),
        ("force", "in-use", {"in-use"}),
        ("pin_thread_state", "off", False),
        ("destage_worker", "off", False),
    ],
)
def test_values(name, text, value):
    for spelling in (name, name.replace("_", "-")):
        config = Config.from_pairs([("origin", "/x"), (spelling, text)])
        assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log-size", "4095K"),
        ("log-size", "x"),
        ("history", "5"),
        ("history", "5g"),
        ("history", "5H"),
        ("history", "-5m"),
        ("history", "on"),
        ("history", "1.5G"),
        ("history", "\N{ARABIC-INDIC DIGIT FIVE}m"),
        ("history", "99999999h"),
        ("history-full", "wait"),
        ("log-size", "16E"),
        ("ring-size", "1023K"),
        ("ring-size", "0"),
        ("ring-size", "Auto"),
        ("ring-size", "-1"),
        ("ring-size", "9" * 5000),
        ("ack", "disk"),
        ("ack", "RAM"),
        ("flush", "ram"),
        ("fua", "ram"),
        ("commit-interval", "0"),
        ("commit-interval", "soon"),
        ("origin-timeout", "0"),
        ("origin-timeout", "-1s"),
        ("origin-timeout", "never"),
        ("origin-connect-timeout", "0"),
        ("origin-connect-timeout", "10000000000"),
        ("commit-interval", "10000000000"),
        ("commit-size", "1.5M"),
        ("destage-delay", "-1"),
        ("destage-delay", "9" * 400),
        ("destage-depth", "0"),
        ("destage-depth", "257"),
        ("destage-depth", "\N{SUPERSCRIPT TWO}"),
        ("low-watermark", "75"),
        ("low-watermark", "101"),
        ("low-watermark", "-1"),
        ("high-watermark", "25"),
        ("high-watermark", "half"),
        ("on-exit", "destroy"),
        ("compress", "lz4"),
        ("compress", "zstd:"),
        ("compress", "zstd:0"),
        ("compress", "zstd:20"),
        ("compress", "off:1"),
        ("force", "yes"),
        ("force", "discard-log,"),
        ("pin-thread-state", "true"),
        ("destage-worker", "yes"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(name, text):
    with pytest.raises(ConfigError, match=name):
        Config.from_pairs([("origin", "/x"), (name, text)])


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_is_refused_with_its_name(name):
    with pytest.raises(ConfigError, match=name):
        Config.from_pairs([("origin", "/x"), (name, "")])


@pytest.mark.parametrize(
    ("name", "meant"), [("orign", "origin"), ("log_sise", "log-size"), ("destage-dealy", "destage-delay")]
)
def test_an_unknown_name_is_refused_with_what_was_meant(name, meant):
    with pytest.raises(ConfigError, match=f"unknown parameter '{name}'; did you mean '{meant}'"):
        Config.from_pairs([("origin", "/x"), (name, "1")])


def test_an_unknown_name_like_no_other():
    with pytest.raises(ConfigError, match=r"unknown parameter 'zzz'$"):
        Config.from_pairs([("zzz", "1")])


@given(st.sampled_from(NAMES), st.text(min_size=1))
def test_any_text_is_a_value_or_refused_with_the_name(name, text):
    try:
        Config.from_pairs([("origin", "/x"), (name, text)])
    except ConfigError as error:
        assert name in str(error)


def test_origin_is_required():
    with pytest.raises(ConfigError, match="'origin' is missing"):
        Config.from_pairs([("log", "/dev/nvme0n1p1")])


def test_beside_a_device_the_log_has_to_be_named():
    with pytest.raises(ConfigError, match="'log' is missing"):
        parse(origin="/dev/null")
    assert parse(origin="/dev/null", log="/log").log == "/log"


def test_beside_an_nbd_server_the_log_has_to_be_named():
    with pytest.raises(ConfigError, match="'log' is missing"):
        parse(origin="nbd://host/disk")
    assert parse(origin="nbd+unix:///?socket=/sock", log="/log").origin == "nbd+unix:///?socket=/sock"


def test_a_relative_path_is_seen_from_the_folder_of_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(origin="disk").log == f"{tmp_path}/disk.wblog"


@pytest.mark.parametrize(("given_size", "used"), [(None, 4 * MIB), ("1M", MIB), ("1G", 8 * MIB), ("1", 1)])
def test_commit_size_is_a_quarter_of_the_ring_and_at_most_half(given_size, used):
    parameters = {"ring_size": "16M"} | ({"commit_size": given_size} if given_size else {})
    assert parse(**parameters).commit_size == used


@pytest.mark.parametrize(("given_size", "used"), [(None, 16 * MIB), ("1M", MIB), ("1G", 32 * MIB)])
def test_with_auto_commit_size_depends_on_what_may_be_volatile(given_size, used):
    config = parse(**({"commit_size": given_size} if given_size else {}))
    assert config.commit_size == used
    assert config.policy(65536).commit_pages == min(used, 32 * MIB) // 4096
    # Where memory was so scarce at the start that the ring is smaller than that.
    assert config.policy(65536, volatile_pages=400).commit_pages == min(used // 4096, 200)


def test_the_last_of_two_values_counts():
    assert Config.from_pairs([("origin", "/a"), ("origin", "/b")]).origin == "/b"


def test_sizes_are_parsed_as_the_caller_wants():
    config = Config()
    config.set("ring-size", "anything", size=lambda text: 7)
    assert config.ring_size == 7
