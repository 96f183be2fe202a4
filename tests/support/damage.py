# SPDX-License-Identifier: BSD-3-Clause
"""Damage to the bytes of a log, and what to know for putting it in the right place."""

import struct

from xxhash import xxh3_64_intdigest

from wbcache_core.format import segment as segment_format
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS

PAGE = 4096
_CHECKSUM_AT = PAGE - 8
_VERSION_AT = 8


def patch(path, offset, data):
    """Overwrite bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def damage_superblocks(path, *slots):
    for slot in slots:
        flip_bit(path, SLOT_OFFSETS[slot] + 1000)


def set_superblock_version(path, slot, version):
    """As a later wbcache would write it: the checksum is right."""
    with open(path, "r+b") as file:
        file.seek(SLOT_OFFSETS[slot])
        page = bytearray(file.read(PAGE))
        struct.pack_into("<I", page, _VERSION_AT, version)
        struct.pack_into("<Q", page, _CHECKSUM_AT, xxh3_64_intdigest(bytes(page[:_CHECKSUM_AT])))
        file.seek(SLOT_OFFSETS[slot])
        file.write(page)


def descriptor_offsets(path):
    """Where in a log, which must not have gone round yet, its segments begin, in bytes."""
    content = path.read_bytes()
    found = []
    for offset in range(DATA_START, len(content), PAGE):
        page = content[offset : offset + PAGE]
        if page.startswith(segment_format.MAGIC):
            found.append(offset)
    return found
