# SPDX-License-Identifier: BSD-3-Clause
"""The worked example in docs/shared-ring.md is what the code reads and writes."""

from tests.unit.test_format_example import DOCUMENT, dumped_page
from wbcache_core.format.segment import TRIM, Entry, entries_of
from wbcache_core.format.shared_ring import HEAD, Anchor, Layout, RingHeader, decode_header, encode_header
from wbcache_core.log.ring_recovery import joins, read_ring
from wbcache_core.memory.ring_journal import RingJournal
from wbcache_core.units import MIB

PAGES = 256
HEADER = RingHeader(bytes.fromhex("00112233445566778899aabbccddeeff"), 0x5EED1234, PAGES, PAGES)
ANCHOR = Anchor(99, 0x28F902B35A3E42C1, 10)
LAYOUT = Layout(PAGES, PAGES)


def dumped_journal():
    return dumped_page("ring", DOCUMENT.with_name("shared-ring.md"), LAYOUT.journal_bytes)


def test_it_says_what_the_text_says():
    buffer = dumped_journal()
    assert decode_header(buffer[:4096]) == HEADER
    assert LAYOUT.journal_bytes == 45056 and LAYOUT.range_count == 1024
    content = read_ring(RingJournal(memoryview(buffer), LAYOUT), PAGES, 64 * MIB)
    assert (content.anchor, content.head) == (ANCHOR, 103)
    (segment,) = content.beyond(99)
    assert segment.end_lsn == 103
    assert list(entries_of(99, segment.entry_words, segment.arguments([0, 0, 0]))) == [
        Entry(0, 100, 5, 1, 0), Entry(0, 101, 6, 1, 0), Entry(TRIM, 101, 512, 512, None), Entry(0, 102, 7, 1, 0),
    ]  # fmt: skip
    assert joins(content, 99, ANCHOR.checksum, lambda lsn: memoryview(bytes(4096)))
    assert not joins(content, 99, ANCHOR.checksum + 1, lambda lsn: memoryview(bytes(4096)))


def test_it_is_what_the_code_writes():
    written = bytearray(LAYOUT.journal_bytes)
    journal = RingJournal(memoryview(written), LAYOUT)
    journal.begin(99, ANCHOR)
    journal.header[:] = encode_header(HEADER)
    journal.note_segment(99)
    journal.note_pages(100, 5, 2)
    journal.state[HEAD] = 102
    journal.note_range(TRIM << 56 | 512, 512, 101)
    journal.note_pages(102, 7, 1)
    journal.state[HEAD] = 103
    assert written == dumped_journal()
