# SPDX-License-Identifier: BSD-3-Clause
"""zstd frames of a compressed segment's payload: 16 pages (64 KiB) each, so that one page costs little to read.

A frame that does not shrink is stored uncompressed. Its length tells: a stored
frame is exactly as long as its pages, a zstd frame is always shorter.
"""

from collections.abc import Iterator

import zstandard

from wbcache_core.errors import FormatError
from wbcache_core.format.segment import FRAME_COUNT, FRAME_PAGES, plain_bytes


def pack(compressor: zstandard.ZstdCompressor, pages: list[memoryview]) -> list[bytes]:
    """The frames of the pages. A compressor serves one thread at a time."""
    frames = []
    for start in range(0, len(pages), FRAME_PAGES):
        plain = b"".join(pages[start : start + FRAME_PAGES])
        frame = compressor.compress(plain)
        frames.append(frame if len(frame) < len(plain) else plain)
    return frames


def lengths_of(frames: list[bytes]) -> tuple[int, ...]:
    """The descriptor's table of frame lengths."""
    return (*map(len, frames), *[0] * (FRAME_COUNT - len(frames)))


def unpack(frame: bytes | bytearray | memoryview, number: int, page_count: int) -> bytes | bytearray | memoryview:
    """The pages of frame `number` of a segment of page_count pages. Raises FormatError for any other bytes."""
    length = plain_bytes(number, page_count)
    if len(frame) == length:
        return frame
    try:
        # The size in the frame's header is not trusted: it could ask for any amount of memory.
        if zstandard.frame_content_size(frame) != length:
            raise FormatError("a zstd frame of the wrong size")
        # A context serves one thread at a time, so each call has its own.
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError:
        raise FormatError("not a zstd frame") from None


def unpack_all(payload: memoryview, lengths: tuple[int, ...], page_count: int) -> Iterator[memoryview]:
    """The pages of each frame of a segment's payload, in order. Raises FormatError."""
    at = 0
    for number, length in enumerate(lengths):
        if length:
            yield memoryview(unpack(payload[at : at + length], number, page_count))
            at += length
