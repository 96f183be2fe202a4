# SPDX-License-Identifier: BSD-3-Clause
"""How much of a log device is read to find out that it is blank, and what is found there."""

import pytest

from wbcache_core.errors import ForeignLogError
from wbcache_core.format.superblock import MAGIC, SLOT_OFFSETS
from wbcache_core.pairing.pairing import read_log
from wbcache_core.units import GIB, MIB

TIB = 1024 * GIB


class LargeDevice:
    """A block device of zeros with a little data, which does not say where; counts what is read of it."""

    name, role, writable = "/dev/large", "log", True

    def __init__(self, size=TIB, **pieces):
        self.size = size
        self.bytes_read = 0
        self.pieces = [(int(offset[1:]), data) for offset, data in pieces.items()]

    def extents(self, offset, length):
        return [(offset, length, False, False)]

    def read_into(self, view, offset):
        assert 0 <= offset and offset + len(view) <= self.size
        self.bytes_read += len(view)
        view[:] = bytes(len(view))
        for start, data in self.pieces:
            first, last = max(start, offset), min(start + len(data), offset + len(view))
            if first < last:
                view[first - offset : last - offset] = data[first - start : last - start]

    read_uncached_into = read_into


def device_with(offset, data, size=TIB):
    return LargeDevice(size, **{f"_{offset}": data})


def test_a_blank_terabyte_is_not_read_from_end_to_end():
    device = LargeDevice()
    assert read_log(device) is None
    assert device.bytes_read < 256 * MIB


def test_a_half_formatted_terabyte_is_blank_and_not_read_from_end_to_end():
    device = device_with(SLOT_OFFSETS[1], MAGIC)
    assert read_log(device) is None
    assert device.bytes_read < 512 * MIB


# Where partition tables, RAID, LVM, file systems and their like have what they are known by.
SIGNATURES = {
    "MBR": 510,
    "ext4": 1080,
    "LVM, md 1.2, bcache": 4096,
    "GPT": 512,
    "swap": 4086,
    "btrfs": 64 * 1024 + 64,
    "LUKS2 copy": 16 * 1024,
    "VMFS": 18 * MIB,
    "a byte before the end of the first part": 32 * MIB - 1,
    "a byte after the beginning of the last part": TIB - 32 * MIB,
    "ZFS at the end": TIB - 512 * 1024 + 16 * 1024,
    "md 0.9": TIB - 64 * 1024,
    "md 1.0": TIB - 8 * 1024,
    "GPT at the end": TIB - 512,
    "the last byte": TIB - 1,
}


@pytest.mark.parametrize("offset", SIGNATURES.values(), ids=SIGNATURES)
def test_a_byte_where_something_is_known_by_is_found(offset):
    with pytest.raises(ForeignLogError, match="nothing has been changed"):
        read_log(device_with(offset, b"x"))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7, 0.999])
def test_data_in_one_piece_is_found_between_the_ends(share):
    """Both ends were overwritten with zeros, and a thousandth of what was there is left."""
    begin = int(TIB * share) - TIB // 1000
    device = device_with(begin, b"")
    device.pieces = [(begin, _Ones(TIB // 1000))]
    with pytest.raises(ForeignLogError):
        read_log(device)


class _Ones:
    """A long run of bytes that takes no memory."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, piece):
        return b"\1" * len(range(*piece.indices(self._length)))


@pytest.mark.parametrize("size", [4 * MIB, 100 * MIB, 128 * MIB])
def test_every_byte_of_a_small_device_is_read(size):
    assert read_log(LargeDevice(size)) is None
    for offset in (size // 2 + 12345, size // 3, size - 33):
        with pytest.raises(ForeignLogError):
            read_log(device_with(offset, b"x", size))


def test_every_byte_of_a_file_is_looked_at(tmp_path):
    """A file tells where it has data, so that a blank one costs nothing and a byte anywhere is found."""
    from wbcache_core.device.file_device import FileDevice

    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.truncate(TIB)
    device = FileDevice(str(path), "log")
    assert read_log(device) is None
    device.close()
    with open(path, "r+b") as file:
        file.seek(TIB // 2 + 4097)
        file.write(b"x")
    device = FileDevice(str(path), "log")
    with pytest.raises(ForeignLogError):
        read_log(device)
    device.close()
