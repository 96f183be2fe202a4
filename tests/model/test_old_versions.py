# SPDX-License-Identifier: BSD-3-Clause
"""Logs that an older wbcache wrote: read, served and gone on with."""

import pytest

from tests.model.test_pins import numbers, page_of, superblock_of, write_page
from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.local_pair import QUIET
from tests.support.matching import same
from tests.support.old_images import put_images, states
from wbcache_core.format import segment as segment_format
from wbcache_core.format.epoch import Switch
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, VERSION
from wbcache_core.units import MIB, PAGE_BYTES


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_a_log_of_an_older_version_is_served_and_becomes_one_of_this(pair, version):
    put_images(pair, version)
    expected = states()[: 4 if version >= 3 else 3]
    assert superblock_of(pair.log).version == version
    cache = pair.start(force="origin-moved", **QUIET)
    assert numbers(cache) == list(range(1, len(expected) + 1))
    for number, content in enumerate(expected, 1):
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


@pytest.mark.parametrize("version", [1, 3])
def test_segments_of_this_version_follow_older_ones(pair, version):
    """An upgrade in the middle of a log that is dirty, then a kill."""
    put_images(pair, version)
    older = [1, 2, 3] if version == 1 else [1, 2, 3, 4]
    cache = pair.start(history="1h", force="origin-moved", **QUIET)
    assert numbers(cache) == older
    write_page(cache, b"x", 100)
    write_page(cache, b"y", 100)
    abandon(cache)
    image = memoryview(pair.log.read_bytes())
    pages = [image[at : at + PAGE_BYTES] for at in range(DATA_START, len(image), PAGE_BYTES)]
    found = [segment_format.decode(page) for page in pages if segment_format.has_magic(page)]
    end = found[len(older) - 1]
    assert [(one.generation, one.version) for one in found] == [
        *((number, 1 if version == 1 else 2) for number in older),
        *((end.generation + number, segment_format.VERSION) for number in (1, 2)),
    ]
    # There are no epochs in what was written before.
    assert [one.epoch.number for one in found] == [*[0] * len(older), 1, 1]
    superblock = superblock_of(pair.log)
    assert superblock.history == (Switch(found[-1].epoch, end.end_lsn, end.checksum),)
    check_pair(pair.log, pair.origin)
    cache = pair.start(history="1h", **QUIET)
    assert numbers(cache) == [*older, *(end.generation + number for number in (1, 2))]
    for number, content in zip(older, states(), strict=False):
        volume = bytearray(MIB)
        cache.open_snapshot(str(number)).read_into(volume, 0)
        same(volume, content)
    for when, letter in ((str(end.generation + 1), b"x"), ("last-flush", b"y"), ("-0s", b"y")):
        assert page_of(cache.open_snapshot(when), 100) == letter
