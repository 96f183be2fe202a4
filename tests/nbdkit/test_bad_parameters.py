# SPDX-License-Identifier: BSD-3-Clause
"""Parameters that make no sense: refused at start with exit status 1 and a message that says which and what is allowed."""

import os

import pytest

from tests.support import clients
from tests.support.refusal import assert_refused

MIB = 1 << 20

MISSPELT_NAMES = {
    "orign": "origin",
    "logs": "log",
    "log-sizes": "log-size",
    "ring_sise": "ring-size",
    "akc": "ack",
    "flsh": "flush",
    "comit-interval": "commit-interval",
    "commitsize": "commit-size",
    "destage_dealy": "destage-delay",
    "destage-deph": "destage-depth",
    "low-watermarks": "low-watermark",
    "highwatermark": "high-watermark",
    "on-exti": "on-exit",
    "compres": "compress",
    "forced": "force",
    "pin-threadstate": "pin-thread-state",
}

BAD_CHOICES = [
    ("ack", "rom", "ram, log, origin"),
    ("ack", "RAM", "ram, log, origin"),
    ("flush", "ram", "log, origin"),
    ("flush", "lgo", "log, origin"),
    ("fua", "ram", "log, origin"),
    ("fua", "on", "log, origin"),
    ("on-exit", "destage,commit", "commit, destage"),
    ("on-exit", "nothing", "commit, destage"),
    ("compress", "lz4", "off, zstd"),
    ("compress", "zstd:0", "zstd:19"),
    ("compress", "zstd:20", "zstd:19"),
    ("compress", "zstd:", "zstd:19"),
    ("compress", "zstd:best", "zstd:19"),
    ("force", "discard", "origin-changed, discard-log"),
    ("force", "origin-changed,", "origin-changed, discard-log"),
    ("pin-thread-state", "yes", "on, off"),
    ("low-watermark", "101", "percentage"),
    ("low-watermark", "-1", "percentage"),
    ("high-watermark", "half", "percentage"),
    ("high-watermark", "75.5", "percentage"),
    ("destage-depth", "0", "1 to 256"),
    ("destage-depth", "257", "1 to 256"),
    ("destage-depth", "four", "1 to 256"),
]

SIZES = ("log-size", "ring-size", "commit-size")
TIMES = ("commit-interval", "destage-delay")


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


@pytest.mark.parametrize("name", ["origin", "log", *SIZES, *TIMES, "ack", "force", "destage-depth", "low-watermark"])
def test_no_value(folder, origin, name):
    assert_refused(folder, [*origin, f"{name}="], [f"'{name}' needs a value"])


@pytest.mark.parametrize("value", ["zz", "1X", "-1M", "64MM", "1,5G", "99999999999999999999", "16E", "\u0663"])
@pytest.mark.parametrize("name", SIZES)
def test_value_that_is_not_a_size(folder, origin, name, value):
    assert_refused(folder, [*origin, f"{name}={value}"], [f"{name}={value}"])


@pytest.mark.parametrize("value", ["zz", "5x", "-1s", "1h30m", "1e3", "5 s", "nan", "inf"])
@pytest.mark.parametrize("name", TIMES)
def test_value_that_is_not_a_time(folder, origin, name, value):
    assert_refused(folder, [*origin, f"{name}={value}"], [f"{name}={value}", "is not a time", "5s"])


@pytest.mark.parametrize("value", ["0", "0ms", "0.0"])
def test_commit_interval_of_nothing(folder, origin, value):
    assert_refused(folder, [*origin, f"commit-interval={value}"], ["commit-interval", "longer than 0"])


@pytest.mark.parametrize("value", ["0", "4096", str(MIB - 1)])
def test_ring_too_small(folder, origin, value):
    assert_refused(folder, [*origin, f"ring-size={value}"], [f"ring-size={value}", "too small", "1.0 MiB"])


@pytest.mark.parametrize("share", [0.6, 1.1, 1000])
def test_ring_larger_than_half_of_memory(folder, origin, share):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert_refused(folder, [*origin, f"ring-size={int(memory * share)}"], ["ring-size", "half", "memory", "smaller"])


@pytest.mark.parametrize("value", ["0", "64K", str(4 * MIB - 1)])
def test_log_size_too_small(folder, origin, value):
    assert_refused(folder, [*origin, f"log-size={value}"], [f"log-size={value}", "too small", "4.0 MiB"])


@pytest.mark.parametrize(("low", "high"), [(75, 75), (80, 75), (100, 1), (0, 0)])
def test_low_watermark_not_below_high(folder, origin, low, high):
    words = [*origin, f"low-watermark={low}", f"high-watermark={high}"]
    assert_refused(folder, words, [f"low-watermark={low}", "below", f"high-watermark={high}"])


@pytest.mark.parametrize("words", [["low-watermark=80"], ["high-watermark=20%"]])
def test_one_watermark_against_the_default_of_the_other(folder, origin, words):
    assert_refused(folder, [*origin, *words], ["low-watermark", "below", "high-watermark"])


@pytest.mark.parametrize("name", ["commit-interval", "destage-delay"])
@pytest.mark.parametrize("value", ["1000000h", "99999999999h", "9" * 400])
def test_time_that_never_comes(pair, name, value):
    """As good as never: everything that does not wait for this time goes on."""
    pair.make_origin(4 * MIB)
    settings = {name.replace("-", "_"): value, "ring_size": "1M", "log_size": "4M"}
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        for place in range(0, 3 * MIB, MIB):
            handle.pwrite(b"\x5a" * MIB, place)
        handle.flush()
        handle.pwrite(b"\xa5" * 4096, 0)
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == b"\xa5" * 4096 + b"\x5a" * (3 * MIB - 4096) + bytes(MIB)
