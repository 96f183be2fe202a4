# SPDX-License-Identifier: BSD-3-Clause
"""Parameters that make no sense: exit status 1 at start, and a message that says which one and what is allowed."""

import os

import pytest

from tests.support import clients
from tests.support.refusal import assert_refused

MIB = 1 << 20

MISSPELT_NAMES = {
    "orign": "origin",
    "log_sizes": "log-size",
    "ring_sise": "ring-size",
    "comit-interval": "commit-interval",
    "destage_dealy": "destage-delay",
    "highwatermark": "high-watermark",
    "on-exti": "on-exit",
    "loglevel": "log-level",
    "pin-threadstate": "pin-thread-state",
}

BAD_CHOICES = [
    ("ring-memory", "public", "shared, private"),
    ("ack", "rom", "ram, log, peer-ram, peer, origin"),
    ("flush", "ram", "log, peer-ram, peer, origin"),
    ("fua", "ram", "log, peer-ram, peer, origin"),
    ("on-exit", "destage,commit", "commit, destage"),
    ("on-exit", "nothing", "commit, destage"),
    ("compress", "lz4", "off, zstd"),
    ("compress", "zstd:20", "zstd:19"),
    ("compress", "zstd:", "zstd:19"),
    ("force", "discard", "origin-changed, origin-moved, other-log, discard-log, in-use"),
    ("force", "origin-changed,", "origin-changed, origin-moved, other-log, discard-log, in-use"),
    ("pin-thread-state", "yes", "on, off"),
    ("destage-worker", "yes", "on, off"),
    ("low-watermark", "101", "percentage"),
    ("high-watermark", "75.5", "percentage"),
    ("destage-depth", "0", "1 to 256"),
    ("destage-depth", "257", "1 to 256"),
    ("log-level", "warning", "errors, warnings, info, debug"),
    ("log-level", "30", "errors, warnings, info, debug"),
]

TIMES = ("commit-interval", "destage-delay", "origin-settle", "origin-timeout", "origin-connect-timeout")


@pytest.fixture
def origin(pair):
    """What belongs to every command line."""
    pair.make_origin(MIB, b"origin")
    return [f"origin={pair.origin}"]


def test_no_origin(folder):
    assert_refused(folder, [], ["'origin' is missing", "origin=PATH"])
    assert_refused(folder, [f"log={folder}/log"], ["'origin' is missing", "origin=PATH"])


@pytest.mark.parametrize("name", MISSPELT_NAMES)
def test_misspelt_name(folder, origin, name):
    assert_refused(folder, [*origin, f"{name}=1"], [f"'{name}'", f"did you mean '{MISSPELT_NAMES[name]}'?"])


def test_unknown_name(folder, origin):
    message = assert_refused(folder, [*origin, "xyzzy=1"], ["unknown parameter 'xyzzy'"])
    assert "did you mean" not in message


def test_no_name(folder, pair, origin):
    """nbdkit's own message; nothing is guessed from a bare path."""
    assert_refused(folder, [*origin, pair.origin], ["key=value"])


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_CHOICES)
def test_value_that_is_not_one_of_the_choices(folder, origin, name, value, allowed):
    assert_refused(folder, [*origin, f"{name}={value}"], [f"{name}={value}", "is not", allowed])


@pytest.mark.parametrize("name", ["origin", "log", "ring-size", "commit-interval", "ack", "force"])
def test_no_value(folder, origin, name):
    assert_refused(folder, [*origin, f"{name}="], [f"'{name}' needs a value"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log-size", "zz"),
        ("log-size", "1,5G"),
        ("log-size", "99999999999999999999"),
        ("ring-size", "-1M"),
        ("ring-size", "1X"),
        ("commit-size", "64MM"),
        ("commit-size", "\u0663"),
    ],
)
def test_value_that_is_not_a_size(folder, origin, name, value):
    assert_refused(folder, [*origin, f"{name}={value}"], [f"{name}={value}", "size"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commit-interval", "zz"),
        ("commit-interval", "-1s"),
        ("commit-interval", "inf"),
        ("destage-delay", "1h30m"),
        ("origin-timeout", "none"),
        ("origin-connect-timeout", "-1"),
        ("destage-delay", "1e3"),
        ("destage-delay", "5 s"),
    ],
)
def test_value_that_is_not_a_time(folder, origin, name, value):
    assert_refused(folder, [*origin, f"{name}={value}"], [f"{name}={value}", "is not a time", "5s"])


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["10001h", "9" * 400], ids=["hours", "digits"])
def test_time_that_is_too_long(folder, origin, name, value):
    assert_refused(folder, [*origin, f"{name}={value}"], [f"{name}={value}", "too long", "10000 hours"])


@pytest.mark.parametrize("value", ["0", "0ms"])
def test_commit_interval_of_nothing(folder, origin, value):
    assert_refused(folder, [*origin, f"commit-interval={value}"], ["commit-interval", "longer than 0"])


@pytest.mark.parametrize("value", ["0", str(MIB - 1)])
def test_ring_too_small(folder, origin, value):
    assert_refused(folder, [*origin, f"ring-size={value}"], [f"ring-size={value}", "too small", "1.0 MiB"])


@pytest.mark.parametrize("share", [0.6, 1000])
def test_ring_larger_than_half_of_memory(folder, origin, share):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert_refused(folder, [*origin, f"ring-size={int(memory * share)}"], ["ring-size", "half", "memory", "smaller"])


@pytest.mark.parametrize("value", ["0", str(4 * MIB - 1)])
def test_log_size_too_small(folder, origin, value):
    assert_refused(folder, [*origin, f"log-size={value}"], [f"log-size={value}", "too small", "4.0 MiB"])


@pytest.mark.parametrize(("low", "high"), [(75, 75), (100, 1), (0, 0)])
def test_low_watermark_not_below_high(folder, origin, low, high):
    words = [*origin, f"low-watermark={low}", f"high-watermark={high}"]
    assert_refused(folder, words, [f"low-watermark={low}", "below", f"high-watermark={high}"])


@pytest.mark.parametrize("words", [["low-watermark=80"], ["high-watermark=20%"]])
def test_one_watermark_against_the_default_of_the_other(folder, origin, words):
    assert_refused(folder, [*origin, *words], ["low-watermark", "below", "high-watermark"])


@pytest.mark.parametrize("name", TIMES)
def test_longest_time(pair, name):
    """As good as never: everything that does not wait for this time goes on."""
    pair.make_origin(4 * MIB)
    settings = {name.replace("-", "_"): "10000h", "ring_size": "1M", "log_size": "4M"}
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        for place in range(0, 3 * MIB, MIB):
            handle.pwrite(b"\x5a" * MIB, place)
        handle.flush()
        handle.pwrite(b"\xa5" * 4096, 0)
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == b"\xa5" * 4096 + b"\x5a" * (3 * MIB - 4096) + bytes(MIB)
