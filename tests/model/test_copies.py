# SPDX-License-Identifier: BSD-3-Clause
"""The copy of a standby: nobody writes it or an origin from it by mistake, and with the word it takes over."""

import pytest

from tests.model.test_pins import superblock_of
from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.local_pair import QUIET
from wbcache_core.errors import CopyError
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, decode, encode
from wbcache_core.server.cache import Cache
from wbcache_core.server.log_preparation import check_joinable
from wbcache_core.server.opening import Joining
from wbcache_core.tools import offline_tags
from wbcache_core.tools.info import run_info
from wbcache_core.tools.replay import run_replay
from wbcache_core.tools.resize import run_resize
from wbcache_core.tools.rewind import run_rewind
from wbcache_core.tools.salvage.salvage import run_salvage
from wbcache_core.units import MIB, PAGE_BYTES

WORDS = "copy that a standby keeps of volume .* role=standby.*force=take-over"


def make_copy(path):
    """Let both superblocks say that it is one."""
    with open(path, "r+b") as log:
        for offset in SLOT_OFFSETS:
            log.seek(offset)
            page = memoryview(log.read(PAGE_BYTES))
            log.seek(offset)
            log.write(encode(decode(page).with_changes(is_copy=True)))


@pytest.fixture
def copied(pair):
    """A dirty log that has become a copy, beside the origin that lacks what it has."""
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    for offset in (12288, 8192):
        cache.volume.write(b"x" * PAGE_BYTES, offset, fua=True)
    pair.abandon()
    make_copy(pair.log)
    return pair


def test_it_is_not_served_without_the_word(copied):
    before = copied.log.read_bytes(), copied.origin.read_bytes()
    with pytest.raises(CopyError, match=WORDS):
        copied.start()
    assert (copied.log.read_bytes(), copied.origin.read_bytes()) == before


def test_nor_to_readers(copied):
    with pytest.raises(CopyError, match=WORDS):
        Cache(copied.config())


def test_with_the_word_it_takes_over(copied, caplog):
    before = superblock_of(copied.log)
    cache = copied.start(force="take-over", **QUIET)
    page = bytearray(PAGE_BYTES)
    cache.volume.read_into(page, 8192)
    assert page == b"x" * PAGE_BYTES
    assert "takes over, as forced" in caplog.text
    cache.stop()
    after = superblock_of(copied.log)
    assert not after.is_copy and before.epoch.number == 1 and after.epoch.number == 1000
    check_pair(copied.log, copied.origin)
    # From then on it is a log as others.
    copied.start(**QUIET).stop()


def test_the_word_alone_changes_nothing(copied):
    """Only the first client that may write has the flag cleared."""
    cache = Cache(copied.config(force="take-over"))
    cache.stop()
    assert superblock_of(copied.log).is_copy


def test_a_copy_is_not_attached(copied, tmp_path):
    log = copied.log
    copied.log = tmp_path / "other"
    cache = copied.start(force="other-log", **QUIET)
    copied.log = log
    with pytest.raises(CopyError, match=WORDS):
        check_joinable(copied.config(), cache.handover.origin, Joining(False))


def test_a_ring_that_another_server_left_is_not_joined(copied, caplog):
    """It belongs to the owner's log, also where both were on one machine."""
    cache = copied.start(force="take-over", **QUIET)
    cache.volume.write(b"y" * PAGE_BYTES, 0)
    abandon(cache, memory_stays=True)
    make_copy(copied.log)
    cache = copied.start(force="take-over", **QUIET)
    page = bytearray(PAGE_BYTES)
    cache.volume.read_into(page, 0)
    assert page == bytes(PAGE_BYTES)
    assert "is given up: a copy takes over" in caplog.text


@pytest.mark.parametrize(
    "run",
    [
        lambda pair: offline_tags.tag(str(pair.log), "name", None),
        lambda pair: offline_tags.untag(str(pair.log), "name"),
    ],
    ids=["tag", "untag"],
)
def test_it_gets_no_tags(copied, run):
    with pytest.raises(CopyError, match=WORDS):
        run(copied)


@pytest.mark.parametrize("target", [None, "image"])
def test_it_is_not_replayed(copied, capsys, tmp_path, target):
    assert run_replay(str(copied.log), str(copied.origin), target and str(tmp_path / target), ()) == 1
    said = capsys.readouterr().err
    assert "copy that a standby keeps" in said and "salvage" not in said
    assert copied.origin.read_bytes() == bytes(MIB)


def test_it_is_not_rewound(copied, capsys):
    assert run_rewind(str(copied.log), "last-flush", str(copied.origin)) == 1
    assert "copy that a standby keeps" in capsys.readouterr().err


def test_it_is_not_resized(copied):
    copied.make_origin(2 * MIB)
    with pytest.raises(CopyError, match=WORDS):
        run_resize(str(copied.log), str(copied.origin), (), True, False)


def test_it_can_be_looked_at(copied, capsys):
    assert run_info(str(copied.log), False) == 0
    assert "the copy of a standby, whose owner may have more" in capsys.readouterr().out


@pytest.fixture
def damaged(copied):
    """One with a page that was durable and fails its checksum."""
    with open(copied.log, "r+b") as log:
        log.seek(DATA_START + PAGE_BYTES + 7)
        log.write(b"?")
    return copied


def test_it_is_not_salvaged_without_the_word(damaged, capsys):
    assert run_salvage(str(damaged.log), str(damaged.origin), False, frozenset(), False) == 1
    before = damaged.log.read_bytes(), damaged.origin.read_bytes()
    with pytest.raises(CopyError, match=WORDS):
        run_salvage(str(damaged.log), str(damaged.origin), True, frozenset(), False)
    assert (damaged.log.read_bytes(), damaged.origin.read_bytes()) == before


def test_it_is_salvaged_with_the_word(damaged, capsys):
    force = frozenset(("take-over", "uncertain-log"))
    assert run_salvage(str(damaged.log), str(damaged.origin), True, force, False) == 0
    assert not superblock_of(damaged.log).is_copy
