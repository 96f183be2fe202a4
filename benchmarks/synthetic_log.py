# SPDX-License-Identifier: BSD-3-Clause
"""A dirty log as a server would have left it, without writing the data: pages of zeros, which may be holes."""

import random
import uuid

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import aligned_buffer
from wbcache_core.device.file_device import FileDevice
from wbcache_core.format.answers import LOG, RAM, Answers
from wbcache_core.format.epoch import Epoch, Switch
from wbcache_core.format.segment import MAX_ENTRIES, RAW, Descriptor, encode
from wbcache_core.format.superblock import DATA_START, SAMPLE_COUNT, Superblock
from wbcache_core.log.superblocks import SuperblockStore, format_log
from wbcache_core.pairing import fingerprint
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT

_ZERO_SUM = xxh3_64_intdigest(bytes(PAGE_BYTES))
_EPOCH = Epoch(1, 1)


def make(path, origin, size, pages_each=MAX_ENTRIES, filled=False, blocks=None, share=0.95, is_copy=False):
    """A log of `size` bytes, that share of it full of segments of pages_each pages; filled=True allocates their pages.

    The pages are of random blocks of the origin; with `blocks`, of all blocks below that number in turn. With
    is_copy it is that of a standby.
    """
    with open(path, "wb") as file:
        file.truncate(size)
    device = FileDevice(str(path), "log", direct=not filled)
    target = FileDevice(str(origin), "origin")
    try:
        _fill(device, target, pages_each, filled, blocks, share, is_copy)
        device.sync()
    finally:
        device.close()
        target.close()
    return path


def _fill(device, origin, pages_each, filled, blocks, share, is_copy):
    first = Superblock(uuid.uuid4().bytes, 1, device.size, origin.size, origin.name, (0,) * SAMPLE_COUNT)
    first = first.with_changes(
        samples=fingerprint.take(origin), epoch=_EPOCH, history=(Switch(_EPOCH, first.destaged, 0),),
        is_copy=is_copy,
    )
    slots = format_log(device, first)
    choose = random.Random(1)
    image = aligned_buffer((1 + pages_each) * PAGE_BYTES)
    origin_blocks = origin.size >> PAGE_SHIFT
    lsn, place, previous, written = 1, 0, 0, 0
    while place + 1 + pages_each <= share * first.data_pages:
        if blocks:
            entry_words = tuple(number % blocks for number in range(written, written + pages_each))
        else:
            entry_words = tuple(choose.randrange(origin_blocks) for _ in range(pages_each))
        descriptor = Descriptor(
            RAW, pages_each, first.uuid, lsn, place + 1, lsn, place + 1, previous, pages_each * PAGE_BYTES, (),
            entry_words, (_ZERO_SUM,) * pages_each, epoch=_EPOCH, answers=Answers(RAM, LOG),
        )  # fmt: skip
        previous = encode(descriptor, image[:PAGE_BYTES])
        device.write([image if filled else image[:PAGE_BYTES]], DATA_START + (place << PAGE_SHIFT))
        lsn, place, written = descriptor.end_lsn, place + descriptor.log_pages, written + pages_each
    device.sync()
    store = SuperblockStore(device, slots)
    for _ in range(2):
        store.write(committed=lsn)
