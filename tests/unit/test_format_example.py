# SPDX-License-Identifier: BSD-3-Clause
"""The worked example in docs/format.md is what the code reads and writes."""

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from wbcache_core.device.file_device import FileDevice
from wbcache_core.format import segment as segment_format
from wbcache_core.format import superblock as superblock_format
from wbcache_core.format.answers import LOG, RAM, Answers
from wbcache_core.format.epoch import Epoch, Switch
from wbcache_core.format.origin_facts import BLOCK, OriginFacts
from wbcache_core.log import recovery
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.block_map import HOLE_FLAG, ZERO_FLAG
from wbcache_core.units import MIB, PAGE_BYTES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"

SECOND_NS = 10**9
TIME_NS = int(datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()) * SECOND_NS
PREVIOUS = 0x0123456789ABCDEF
SEGMENT_AT = 458752
EPOCH = Epoch(4, 0x0404040404040404)
LETTERS = b"A" * PAGE_BYTES

# Lines as xxd prints them: offset, bytes in groups, then characters behind two spaces. Lines of zeros are left out.
_LINE = re.compile(r"([0-9a-f]+): +((?:[0-9a-f]{2} ?)+)(?: .*)?")


def dumped_page(kind, document=DOCUMENT, length=PAGE_BYTES):
    """The bytes in the only fenced block that begins with ```hexdump kind."""
    blocks = re.findall(rf"^```hexdump {kind}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"{document.name} has {len(blocks)} blocks 'hexdump {kind}'"
    page = bytearray(length)
    for line in blocks[0].splitlines():
        match = _LINE.fullmatch(line.rstrip())
        assert match, f"not a line of a dump: {line!r}"
        offset, content = int(match[1], 16), bytes.fromhex(match[2])
        assert any(content), f"a line of zeros: {line!r}"
        page[offset : offset + len(content)] = content
    assert len(page) == length
    return page


def test_superblock_is_what_the_code_writes():
    page = dumped_page("superblock")
    assert superblock_format.encode(superblock_format.decode(memoryview(page))) == page


def test_descriptor_is_what_the_code_writes():
    page = dumped_page("descriptor")
    written = bytearray(PAGE_BYTES)
    segment_format.encode(segment_format.decode(memoryview(page)), memoryview(written))
    assert written == page


def test_the_superblock_says_what_the_text_says():
    page = dumped_page("superblock")
    assert superblock_format.decode(memoryview(page)) == superblock_format.Superblock(
        uuid=bytes.fromhex("00112233445566778899aabbccddeeff"),
        sequence=6,
        log_bytes=16 * MIB,
        origin_bytes=64 * MIB,
        origin_name="/dev/sdb",
        samples=(0x93D76FE148C689BA,) * 32,
        oldest=33,
        oldest_place=32,
        destaged=97,
        destaged_place=96,
        destaged_previous=PREVIOUS,
        destaged_generation=9,
        destaged_time_ns=TIME_NS,
        batch_end=97,
        committed=97,
        written_ns=TIME_NS + 5 * SECOND_NS,
        tags=(superblock_format.Tag("before-upgrade", 9, 97, TIME_NS),),
        origin_facts=OriginFacts(BLOCK, hardware="naa.5000c500a1b2c3d4", serial="S3X1"),
        epoch=EPOCH,
        history=(Switch(Epoch(2, 0x0202020202020202), 33, 0x3333333333333333), Switch(EPOCH, 97, PREVIOUS)),
        has_own_origins=True,
        regions_sum=0x34AE835C9E0395BF,
    )
    assert xxh3_64_intdigest(bytes(PAGE_BYTES)) == 0x93D76FE148C689BA
    assert int.from_bytes(page[0xFF8:], "little") == 0x22A59D413CF29065


def test_the_descriptor_says_what_the_text_says():
    page = dumped_page("descriptor")
    descriptor = segment_format.decode(memoryview(page))
    assert descriptor == segment_format.Descriptor(
        encoding=segment_format.RAW,
        page_count=1,
        uuid=bytes.fromhex("00112233445566778899aabbccddeeff"),
        first_lsn=97,
        time_ns=TIME_NS + 7 * SECOND_NS,
        committed=97,
        generation=10,
        previous=PREVIOUS,
        payload_bytes=PAGE_BYTES,
        frame_lengths=(0,) * 16,
        entry_words=(5, segment_format.TRIM << segment_format.KIND_SHIFT | 512),
        arguments=(0xA03DE37A157C16BD, 512),
        boot=0x5EED1234,
        boot_ns=3600 * SECOND_NS,
        checksum=0x8A6B6D459AE85DE2,
        epoch=EPOCH,
        answers=Answers(RAM, LOG),
    )
    assert xxh3_64_intdigest(LETTERS) == 0xA03DE37A157C16BD
    assert (descriptor.end_lsn, descriptor.log_pages) == (99, 2)


@pytest.mark.parametrize(
    ("kind", "offset", "content"),
    [
        ("superblock", 0x00, b"WBCACHEL"),
        ("superblock", 0x0C, (2).to_bytes(4, "little")),
        ("superblock", 0x20, (6).to_bytes(8, "little")),
        ("superblock", 0x30, (65536).to_bytes(8, "little") + (4096).to_bytes(4, "little") + (32).to_bytes(4, "little")),
        ("superblock", 0x40, (64 * MIB).to_bytes(8, "little")),
        ("superblock", 0x58, (97).to_bytes(8, "little") + (96).to_bytes(8, "little")),
        ("superblock", 0x80, (97).to_bytes(8, "little") * 2),
        ("superblock", 0x98, (4).to_bytes(8, "little") + b"\4" * 8),
        ("superblock", 0xA8, (2).to_bytes(4, "little") + b"\2" * 8 + (33).to_bytes(8, "little") + b"\x33" * 8),
        ("superblock", 0xC4, (4).to_bytes(4, "little") + b"\4" * 8 + (97).to_bytes(8, "little")),
        ("superblock", 0xD8, PREVIOUS.to_bytes(8, "little")),
        ("superblock", 0x200, b"/dev/sdb\0"),
        ("superblock", 0x2C8, bytes(48)),
        ("superblock", 0x2F8, (0x34AE835C9E0395BF).to_bytes(8, "little")),
        ("superblock", 0x300, xxh3_64_intdigest(bytes(PAGE_BYTES)).to_bytes(8, "little") * 32),
        ("superblock", 0x400, b"before-upgrade\0"),
        ("superblock", 0x440, (9).to_bytes(8, "little") + (97).to_bytes(8, "little")),
        ("superblock", 0x450, TIME_NS.to_bytes(8, "little")),
        ("superblock", 0xF00, (2).to_bytes(4, "little")),
        ("superblock", 0xF30, b"naa.5000c500a1b2c3d4\0"),
        ("superblock", 0xF70, b"S3X1\0"),
        ("descriptor", 0x00, b"WBCSEGMT"),
        ("descriptor", 0x0B, b"\x21"),
        ("descriptor", 0x58, (4).to_bytes(8, "little") + b"\4" * 8),
        ("descriptor", 0x20, (97).to_bytes(8, "little")),
        ("descriptor", 0x30, (97).to_bytes(8, "little") + (10).to_bytes(8, "little")),
        ("descriptor", 0x4C, (0x5EED1234).to_bytes(4, "little") + (3600 * SECOND_NS).to_bytes(8, "little")),
        ("descriptor", 0x98, (5).to_bytes(8, "little")),
        ("descriptor", 0xA8, (512).to_bytes(7, "little") + b"\1" + (512).to_bytes(8, "little")),
    ],
)
def test_the_fields_are_at_the_offsets_that_the_text_names(kind, offset, content):
    assert dumped_page(kind)[offset : offset + len(content)] == content


def test_recovery_of_a_log_made_of_the_example(tmp_path):
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
        for offset, page in (
            (0, dumped_page("superblock")),
            (SEGMENT_AT, dumped_page("descriptor")),
            (SEGMENT_AT + PAGE_BYTES, LETTERS),
        ):
            file.seek(offset)
            file.write(page)
    superblock = superblock_format.decode(memoryview(dumped_page("superblock")))
    assert superblock.data_pages == 4080
    device = FileDevice(str(path), "log")
    try:
        reader = LogReader(device, superblock.data_pages, superblock.uuid)
        assert reader.offset_of(superblock.destaged_place) == SEGMENT_AT
        recovered = recovery.recover(device, reader, superblock)
    finally:
        device.close()
    assert (recovered.head, recovered.end.place, recovered.end.previous) == (99, 98, 0x8A6B6D459AE85DE2)
    assert recovered.discarded_lsn is None
    trimmed = ZERO_FLAG | HOLE_FLAG | 98
    entries = {block: recovered.locations.get(block) for block in (4, 5, 6, 511, 512, 1023, 1024)}
    assert entries == {4: 0, 5: 98, 6: 0, 511: 0, 512: trimmed, 1023: trimmed, 1024: 0}


@pytest.mark.parametrize("name", ["MAGIC", "VERSION"])
@pytest.mark.parametrize("module", [superblock_format, segment_format])
def test_the_document_names_magics_and_versions(module, name):
    value = getattr(module, name)
    assert (value.decode() if isinstance(value, bytes) else str(value)) in DOCUMENT.read_text()
