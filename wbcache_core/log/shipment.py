# SPDX-License-Identifier: BSD-3-Clause
"""Whether what an owner sent is a whole segment of this volume, down to the checksum of every page."""

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError, ShipmentError
from wbcache_core.format.frames import unpack_all
from wbcache_core.format.segment import RAW, Descriptor, decode
from wbcache_core.log.reader import page_views
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT


def segment_in(data: memoryview, uuid: bytes) -> Descriptor:
    """Its descriptor. Raises ShipmentError."""
    if len(data) < PAGE_BYTES or len(data) % PAGE_BYTES:
        raise ShipmentError(f"a write of {len(data)} bytes is no segment: it has whole pages of {PAGE_BYTES} bytes")
    try:
        descriptor = decode(data[:PAGE_BYTES])
    except FormatError as error:
        raise ShipmentError(f"what was sent is no segment: {error}") from None
    first = descriptor.first_lsn
    if descriptor.uuid != uuid:
        raise ShipmentError(f"the segment at LSN {first} is of another volume")
    if descriptor.log_pages << PAGE_SHIFT != len(data):
        raise ShipmentError(
            f"the segment at LSN {first} has {descriptor.log_pages << PAGE_SHIFT} bytes, and {len(data)} were sent"
        )
    try:
        sums = _page_sums(descriptor, data[PAGE_BYTES:])
    except FormatError as error:
        raise ShipmentError(f"the segment at LSN {first} is damaged: {error}") from None
    if sums != list(descriptor.page_sums):
        raise ShipmentError(f"the segment at LSN {first} is damaged: a page fails its checksum")
    return descriptor


def _page_sums(descriptor: Descriptor, payload: memoryview) -> list[int]:
    """Raises FormatError."""
    if descriptor.encoding == RAW:
        return list(map(xxh3_64_intdigest, page_views(payload)))
    frames = unpack_all(payload, descriptor.frame_lengths, descriptor.page_count)
    return [xxh3_64_intdigest(page) for plain in frames for page in page_views(plain)]
