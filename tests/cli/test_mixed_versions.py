# SPDX-License-Identifier: BSD-3-Clause
"""The commands on a log that an older wbcache began and this one went on with, without a stop in between."""

import pytest

from tests.support.damage import damage_superblocks
from tests.support.local_pair import QUIET, LocalPair
from tests.support.matching import same
from tests.support.old_images import put_images, states
from wbcache_core.format.superblock import DATA_START, VERSION
from wbcache_core.units import MIB, PAGE_BYTES


def volume():
    """What tests/data/README.md says, and a page of this version."""
    content = bytearray(states()[-1])
    content[100 * PAGE_BYTES : 101 * PAGE_BYTES] = b"n" * PAGE_BYTES
    return bytes(content)


@pytest.fixture
def mixed(tmp_path):
    """Three dirty segments of descriptor version 2, one of version 3."""
    pair = LocalPair(tmp_path)
    put_images(pair, 3)
    cache = pair.start(force="origin-moved", ring_memory="private", history="1h", **QUIET)
    cache.volume.write(b"n" * PAGE_BYTES, 100 * PAGE_BYTES)
    cache.volume.flush()
    pair.abandon()
    return pair


def test_looking(wbcache, mixed, tmp_path):
    before = mixed.log.read_bytes()
    facts = wbcache("info", "--json", mixed.log).json
    assert (facts["format"], facts["dirty"]["segments"], facts["window"]["newest"]["generation"]) == (VERSION, 4, 5)
    assert facts["epoch"]["number"] == facts["epochs"][0]["number"] == 1
    for words in (
        ("check", "--origin", mixed.origin, mixed.log),
        ("dump", mixed.log),
        ("history", mixed.log),
        ("diff", mixed.log, "1", "5"),
        ("picture", mixed.log, tmp_path / "picture.png"),
    ):
        assert wbcache(*words).status == 0, words
    assert mixed.log.read_bytes() == before


def test_replay(wbcache, mixed):
    assert wbcache("replay", mixed.log, mixed.origin).status == 0
    same(mixed.origin.read_bytes(), volume())


def test_salvage_without_superblocks(wbcache, mixed):
    damage_superblocks(mixed.log, 0, 1)
    outcome = wbcache("salvage", "--yes", mixed.log, mixed.origin)
    assert outcome.status == 0, outcome.stderr
    same(mixed.origin.read_bytes(), volume())


def test_salvage_up_to_a_damaged_older_segment(wbcache, mixed):
    """The first dirty one: nothing behind it is taken."""
    image = bytearray(mixed.log.read_bytes())
    # Generation 1 is on the origin: a descriptor and one compressed page.
    image[DATA_START + 2 * PAGE_BYTES + 100] ^= 1
    mixed.log.write_bytes(image)
    outcome = wbcache("salvage", "--yes", mixed.log, mixed.origin)
    assert outcome.status == 0, outcome.stderr
    expected = bytearray(MIB)
    expected[4096 : 4096 + 12288] = b"one" * 4096
    same(mixed.origin.read_bytes(), expected)


def test_rewind(wbcache, mixed):
    assert wbcache("rewind", "--origin", mixed.origin, mixed.log, "3").status == 0
    facts = wbcache("info", "--json", mixed.log).json
    assert [one["number"] for one in facts["epochs"]] == [1, 2]
    assert wbcache("check", "--origin", mixed.origin, mixed.log).status == 0
    assert wbcache("replay", mixed.log, mixed.origin).status == 0
    expected = bytearray(volume())
    expected[40 * 4096 : 63 * 4096] = bytes(23 * 4096)
    expected[100 * 4096 : 101 * 4096] = bytes(4096)
    same(mixed.origin.read_bytes(), expected)
