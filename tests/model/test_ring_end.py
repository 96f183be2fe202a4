# SPDX-License-Identifier: BSD-3-Clause
"""The oldest pages of the ring, and those that have just left it, are read right, one page or a few at a time."""

import pytest

from tests.support.local_pair import QUIET
from wbcache_core.units import MIB, PAGE_BYTES

RING_PAGES = MIB // PAGE_BYTES
BLOCKS = 2 * RING_PAGES
NEAR = 4


def content(block):
    return block.to_bytes(4, "little") * (PAGE_BYTES // 4)


@pytest.mark.parametrize("pages", [1, 2])
def test_the_oldest_page_of_the_ring(pair, pages):
    pair.make_origin(BLOCKS * PAGE_BYTES)
    volume = pair.start(**QUIET).volume
    for block in range(BLOCKS):
        volume.write(content(block), block * PAGE_BYTES)
        if block % 3:
            continue
        # Each segment's descriptor has a slot as well, so the ring holds a few pages less than it has slots.
        first = max(block - RING_PAGES - NEAR, 0)
        for near in range(first, min(first + 3 * NEAR, block)):
            found = bytearray(pages * PAGE_BYTES)
            volume.read_into(found, near * PAGE_BYTES)
            assert found == b"".join(map(content, range(near, near + pages))), f"block {near} after block {block}"
