# SPDX-License-Identifier: BSD-3-Clause
"""Commands that only look do not change a byte, and none touches what a server holds."""

import pytest

from tests.cli.history import History
from tests.support import clients
from tests.support.nbdkit_server import CachePair
from tests.support.refusal import unchanged
from wbcache_core.device.device import aligned_buffer
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, DeviceInUseError

LOOKING = (
    ("info", "LOG"),
    ("check", "LOG"),
    ("check", "LOG", "--origin", "ORIGIN"),
    ("dump", "LOG"),
    ("salvage", "LOG", "ORIGIN"),
    ("resize", "LOG", "ORIGIN"),
    ("history", "LOG"),
    ("history", "LOG", "--all", "--json"),
    ("diff", "LOG", "4", "6"),
    ("diff", "LOG", "6", "3", "--origin", "ORIGIN", "--json"),
)
WRITING = (
    ("replay", "LOG", "ORIGIN"),
    ("salvage", "--yes", "LOG", "ORIGIN"),
    ("resize", "--yes", "LOG", "ORIGIN"),
    ("rewind", "LOG", "0", "--origin", "ORIGIN"),
    ("tag", "LOG", "name"),
    ("untag", "LOG", "name"),
)


def nothing(history):
    """Sound and dirty."""


def hole(history):
    history.damage_descriptor(history.segments()[1])


def damaged_page(history):
    history.damage_page(history.segments()[1])


def no_superblocks(history):
    history.damage_superblocks()


def blank(history):
    history.log[:] = bytes(len(history.log))


def empty(history):
    del history.log[:]


def cut_short(history):
    del history.log[100_000:]


def foreign(history):
    history.log[:] = b"letters " * (len(history.log) // 8)


def fill_in(words, log, origin):
    return [{"LOG": log, "ORIGIN": origin}.get(word, word) for word in words]


@pytest.mark.parametrize("damage", [nothing, hole, damaged_page, no_superblocks, blank, empty, cut_short, foreign])
def test_looking_changes_nothing(wbcache, tmp_path, damage):
    history = History("look", commits=6, drained_at=(2,))
    damage(history)
    log, origin = history.save(tmp_path)
    with unchanged(tmp_path):
        for words in LOOKING:
            outcome = wbcache(*fill_in(words, log, origin))
            assert outcome.status in (0, 1, 2)
            assert "Traceback" not in outcome.stderr
    before = log.read_bytes(), origin.read_bytes()
    wbcache("replay", log, origin, "--to", tmp_path / "image")
    assert (log.read_bytes(), origin.read_bytes()) == before


def test_a_device_that_was_opened_to_be_read_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(bytes(8192))
    device = FileDevice(str(tmp_path / "file"), "log", direct=True, read_only=True)
    assert not device.writable
    with pytest.raises(DeviceError):
        device.write([aligned_buffer(4096)], 0)
    with pytest.raises(DeviceInUseError):
        FileDevice(str(tmp_path / "file"), "log", read_only=True)
    device.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Log and origin of a server that runs."""
    pair = CachePair(tmp_path_factory.mktemp("served"))
    pair.make_origin(1 << 20)
    with pair.serve() as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"x" * 4096, 0)
            handle.flush()
        yield pair.log, pair.origin


@pytest.mark.parametrize("words", LOOKING + WRITING, ids=" ".join)
def test_what_a_server_holds_is_refused(wbcache, served, words):
    outcome = wbcache(*fill_in(words, *served))
    assert outcome.status == 2
    assert "in use by another wbcache" in outcome.stderr
    assert not outcome.stdout


def test_an_origin_that_a_server_holds_is_refused(wbcache, served, tmp_path):
    log, _ = History("mine", commits=2).save(tmp_path)
    for words in (
        ("check", log, "--origin", served[1]),
        ("replay", log, served[1]),
        ("salvage", log, served[1]),
        ("resize", log, served[1]),
        ("diff", log, "1", "2", "--origin", served[1]),
        ("rewind", log, "1", "--origin", served[1]),
    ):
        outcome = wbcache(*words)
        assert outcome.status == 2
        assert f"origin '{served[1]}' is in use" in outcome.stderr
