# SPDX-License-Identifier: BSD-3-Clause
"""What a cache has flushed survives a crash and is destaged whole."""

from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.matching import same


def content_of(cache):
    """The whole volume."""
    found = bytearray(cache.volume.size)
    cache.volume.read_into(found, 0)
    return found


def assert_survives(pair, cache):
    """Flush, end the cache like a crash, start another, and drain: all of them have the same content."""
    live = content_of(cache)
    cache.volume.flush()
    abandon(cache)
    check_pair(pair.log, pair.origin)
    cache = pair.start()
    same(content_of(cache), live)
    cache.drain()
    same(pair.origin.read_bytes(), live)
