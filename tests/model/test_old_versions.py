# SPDX-License-Identifier: BSD-3-Clause
"""Logs that an older wbcache wrote: read, served and gone on with."""

import gzip
from pathlib import Path

import pytest

from tests.model.test_pins import numbers, page_of, superblock_of, write_page
from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.local_pair import QUIET
from tests.support.matching import same
from wbcache_core.format import segment as segment_format
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, VERSION
from wbcache_core.units import MIB, PAGE_BYTES

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.parametrize("version", [1, 2])
def test_a_log_of_an_older_version_is_served_and_becomes_one_of_this(pair, version):
    """The images were made by wbcache of then: see their README."""
    pair.origin.write_bytes(gzip.decompress((DATA / f"origin-v{version}.img.gz").read_bytes()))
    pair.log.write_bytes(gzip.decompress((DATA / f"log-v{version}.img.gz").read_bytes()))
    expected = bytearray(MIB)
    expected[4096 : 4096 + 3 * 4096] = b"one" * 4096
    first = bytes(expected)
    expected[8192 : 8192 + 300] = b"two" * 100
    second = bytes(expected)
    expected[65536 : 65536 + 8192] = bytes(8192)
    expected[70000 : 70000 + 10000] = b"three" * 2000
    assert superblock_of(pair.log).version == version
    cache = pair.start(**QUIET)
    assert numbers(cache) == [1, 2, 3]
    for number, content in ((1, first), (2, second), (3, expected)):
        found = bytearray(MIB)
        cache.open_snapshot(str(number)).read_into(found, 0)
        same(found, content)
    cache.tag("from then", "2")
    cache.stop()
    image = pair.log.read_bytes()
    assert {image[offset + 8] for offset in SLOT_OFFSETS} == {VERSION}
    check_pair(pair.log, pair.origin)
    cache = pair.start(**QUIET)
    assert cache.open_snapshot("from then").generation.number == 2


def test_segments_of_version_2_follow_those_of_version_1(pair):
    """An upgrade in the middle of a log that is dirty, then a kill."""
    pair.origin.write_bytes(gzip.decompress((DATA / "origin-v1.img.gz").read_bytes()))
    pair.log.write_bytes(gzip.decompress((DATA / "log-v1.img.gz").read_bytes()))
    cache = pair.start(history="1h", **QUIET)
    assert numbers(cache) == [1, 2, 3]
    write_page(cache, b"x", 100)
    write_page(cache, b"y", 100)
    abandon(cache)
    image = memoryview(pair.log.read_bytes())
    pages = [image[at : at + PAGE_BYTES] for at in range(DATA_START, len(image), PAGE_BYTES)]
    found = [segment_format.decode(page) for page in pages if segment_format.has_magic(page)]
    assert [(one.generation, one.version) for one in found] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    check_pair(pair.log, pair.origin)
    cache = pair.start(history="1h", **QUIET)
    assert numbers(cache) == [1, 2, 3, 4, 5]
    for when, letter in (("4", b"x"), ("last-flush", b"y"), ("-0s", b"y")):
        assert page_of(cache.open_snapshot(when), 100) == letter
