# SPDX-License-Identifier: BSD-3-Clause
"""What tells an origin from its twin: bytes, and what counts as a difference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import FormatError
from wbcache_core.format.origin_facts import (
    BLOCK,
    FACTS_BYTES,
    FILE,
    NBD,
    NO_FACTS,
    OriginFacts,
    decode,
    differences,
    encode,
    shortened,
)

U64 = st.integers(0, 2**64 - 1)
TEXTS = st.text("aZ09 .-_é漢", max_size=16)
FACTS = st.builds(OriginFacts, st.integers(0, 3), U64, U64, st.binary(min_size=16, max_size=16), U64, *[TEXTS] * 3)
A_FILE = OriginFacts(FILE, inode=7, birth_ns=10**18, filesystem=b"f" * 16)
A_DISK = OriginFacts(BLOCK, hardware="naa.5000", serial="S1", start=1 << 20, partition="aa-bb")
RESERVED = (*range(4, 8), *range(FACTS_BYTES - 24, FACTS_BYTES))


@given(FACTS)
def test_what_is_encoded_is_decoded(facts):
    raw = encode(facts)
    assert len(raw) == FACTS_BYTES
    assert decode(raw) == facts


def test_nothing_known_is_all_zeros():
    assert encode(NO_FACTS) == bytes(FACTS_BYTES)


@pytest.mark.parametrize("position", RESERVED)
def test_reserved_bytes_have_to_be_zero(position):
    raw = bytearray(encode(A_FILE))
    raw[position] = 1
    with pytest.raises(FormatError):
        decode(bytes(raw))


@pytest.mark.parametrize("content", [b"\xff", b"\x01", b"\n"])
def test_texts_are_what_can_be_printed(content):
    raw = bytearray(encode(A_DISK))
    raw[48 : 48 + len(content)] = content
    with pytest.raises(FormatError):
        decode(bytes(raw))


@pytest.mark.parametrize(
    ("facts", "name", "value"),
    [
        (A_FILE, "inode", 8), (A_FILE, "birth_ns", 10**18 + 1), (A_FILE, "filesystem", b"g" * 16),
        (A_FILE, "start", 512), (A_DISK, "hardware", "naa.5001"), (A_DISK, "serial", "S2"),
        (A_DISK, "partition", "aa-bc"), (A_DISK, "start", 0),
    ],
)  # fmt: skip
def test_one_difference_is_enough_where_both_sides_know(facts, name, value):
    other = facts._replace(**{name: value})
    assert len(differences(facts, other)) == len(differences(other, facts)) == 1
    if name != "start":
        unknown = facts._replace(**{name: type(value)() if not isinstance(value, bytes) else bytes(16)})
        assert differences(facts, unknown) == differences(unknown, facts) == []


@pytest.mark.parametrize("facts", [A_FILE, A_DISK, OriginFacts(NBD), NO_FACTS])
def test_nobody_differs_from_himself_or_from_the_unknown(facts):
    assert differences(facts, facts) == differences(NO_FACTS, facts) == differences(facts, NO_FACTS) == []


def test_an_export_is_no_file():
    assert differences(A_FILE, OriginFacts(NBD))
    assert differences(OriginFacts(NBD), A_DISK)


def test_long_texts_are_told_apart_by_their_end():
    one, two = (shortened("x" * 100 + end) for end in "12")
    assert one != two
    assert max(len(text.encode()) for text in (one, two, shortened("漢" * 100))) <= 64
    assert shortened(" S1\n") == "S1"
