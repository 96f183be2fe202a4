# SPDX-License-Identifier: BSD-3-Clause
"""The pages of a segment as far as they can be read: damage is known page by page, compressed or not."""

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import DamagedPageError
from wbcache_core.format.segment import Descriptor
from wbcache_core.log.reader import LogPiece, LogReader, page_views
from wbcache_core.log.survey import Segment
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT


def load(reader: LogReader, segment: Segment, descriptor: Descriptor, image: memoryview) -> None:
    """Fill an image of the segment: a page for the descriptor, which does not count, then its uncompressed pages.

    The content of damaged pages is undefined and fails its checksum. Raises DeviceError.
    """
    try:
        reader.load([segment.located], segment.end_lsn, image, segment.first_lsn)
        return
    except DamagedPageError:
        pass
    # The compressed segment cannot be decompressed as a whole: page by page, whatever does not need the bad frame.
    for index, expected in enumerate(descriptor.page_sums):
        lsn = segment.first_lsn + 1 + index
        view = image[1 + index << PAGE_SHIFT : 2 + index << PAGE_SHIFT]
        try:
            reader.read_into(LogPiece(lsn, segment.located, [expected]), view)
        except DamagedPageError:
            view[:] = bytes(PAGE_BYTES)


def damaged_pages(reader: LogReader, segment: Segment, descriptor: Descriptor, image: memoryview) -> list[int]:
    """Indices of the pages of a segment that are not as they were written; image has room for the segment.

    Raises DeviceError.
    """
    view = image[: 1 + descriptor.page_count << PAGE_SHIFT]
    load(reader, segment, descriptor, view)
    sums = map(xxh3_64_intdigest, page_views(view[PAGE_BYTES:]))
    return [
        index
        for index, (found, expected) in enumerate(zip(sums, descriptor.page_sums, strict=True))
        if found != expected
    ]
