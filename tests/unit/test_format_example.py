# SPDX-License-Identifier: BSD-3-Clause
"""The worked example in docs/format.md is what the code reads and writes."""

import re
from pathlib import Path

import pytest

from wbcache_core import segment_format, superblock_format
from wbcache_core.units import PAGE_BYTES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"

# Lines as xxd prints them: offset, bytes in groups, then characters behind two spaces. Lines of zeros are left out.
_LINE = re.compile(r"([0-9a-f]+): +((?:[0-9a-f]{2} ?)+)(?: .*)?")


def dumped_page(kind):
    """The page in the only fenced block that begins with ```hexdump kind."""
    blocks = re.findall(rf"^```hexdump {kind}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"{DOCUMENT.name} has {len(blocks)} blocks 'hexdump {kind}'"
    page = bytearray(PAGE_BYTES)
    for line in blocks[0].splitlines():
        match = _LINE.fullmatch(line.rstrip())
        assert match, f"not a line of a dump: {line!r}"
        offset, content = int(match[1], 16), bytes.fromhex(match[2])
        assert any(content), f"a line of zeros: {line!r}"
        page[offset : offset + len(content)] = content
    assert len(page) == PAGE_BYTES
    return page


def test_superblock():
    page = dumped_page("superblock")
    assert superblock_format.encode(superblock_format.decode(memoryview(page))) == page


def test_descriptor():
    page = dumped_page("descriptor")
    written = bytearray(PAGE_BYTES)
    segment_format.encode(segment_format.decode(memoryview(page)), memoryview(written))
    assert written == page


def test_both_are_of_one_log():
    superblock = superblock_format.decode(memoryview(dumped_page("superblock")))
    descriptor = segment_format.decode(memoryview(dumped_page("descriptor")))
    assert superblock.uuid == descriptor.uuid


@pytest.mark.parametrize("name", ["MAGIC", "VERSION"])
@pytest.mark.parametrize("module", [superblock_format, segment_format])
def test_the_document_names_magics_and_versions(module, name):
    value = getattr(module, name)
    assert (value.decode() if isinstance(value, bytes) else str(value)) in DOCUMENT.read_text()
