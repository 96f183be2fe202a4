# SPDX-License-Identifier: BSD-3-Clause
"""Where segments are in the log: the position of the next one, and how far a commit may reach."""

from typing import NamedTuple

from wbcache_core.clock import Reading
from wbcache_core.format.epoch import NO_EPOCH, Epoch
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.format.superblock import DATA_START
from wbcache_core.units import PAGE_SHIFT

COMMIT_PAGES = 8192
"""At most this many LSNs (32 MiB) are written between two syncs; recovery looks no further for later segments."""


class LogEnd(NamedTuple):
    """Where the log continues: what recovery hands to the writer."""

    place: int
    previous: int
    generation: int
    time: Reading
    """What the clocks said when that generation was written."""
    epoch: Epoch = NO_EPOCH
    """Of what is going to be written; none before one has begun. See epochs.py."""


def offset_of(place: int, data_pages: int) -> int:
    """Where in the device a position is, in bytes."""
    return DATA_START + (place % data_pages << PAGE_SHIFT)


def fit(place: int, pages: int, data_pages: int) -> int:
    """The position of a segment of that many pages: `place`, or the next lap if it would wrap around the end of the
    log."""
    left = data_pages - place % data_pages
    return place if pages <= left else place + left


def next_places(place: int, data_pages: int) -> list[int]:
    """Where the segment after one that ends at `place` may be: there, or at the next lap."""
    left = data_pages - place % data_pages
    return [place] if left >= MAX_SEGMENT_PAGES else [place, place + left]
