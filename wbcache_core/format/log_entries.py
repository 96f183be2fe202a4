# SPDX-License-Identifier: BSD-3-Clause
"""The entries of a segment one by one, for who looks at a log instead of serving it."""

from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.format.segment import BLOCK_MASK, KIND_SHIFT, TRIM, Descriptor


class Entry(NamedTuple):
    """One entry of a segment: a page, with its checksum, or a trim or zero of so many `blocks`."""

    kind: str
    lsn: int
    block: int
    blocks: int
    checksum: int | None


def entries_of(descriptor: Descriptor) -> Iterator[Entry]:
    """The entries in their order. A range stands at the LSN before it."""
    lsn = descriptor.first_lsn
    for head, argument in zip(descriptor.heads, descriptor.arguments, strict=True):
        if head <= BLOCK_MASK:
            lsn += 1
            yield Entry("page", lsn, head, 1, argument)
        else:
            kind = "trim" if head >> KIND_SHIFT == TRIM else "zero"
            yield Entry(kind, lsn, head & BLOCK_MASK, argument, None)
