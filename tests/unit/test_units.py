# SPDX-License-Identifier: BSD-3-Clause
"""Sizes and times, as text and as numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import ConfigError
from wbcache_core.units import (
    PAGE_BYTES,
    PAGE_MASK,
    PAGE_SHIFT,
    format_size,
    pages_of,
    parse_duration,
    parse_size,
    quoted,
)


def test_page_constants_agree():
    assert PAGE_BYTES == 1 << PAGE_SHIFT == PAGE_MASK + 1


@pytest.mark.parametrize(
    ("byte_count", "pages"), [(0, 0), (1, 1), (4095, 1), (4096, 1), (4097, 2), (8192, 2), (2**63 + 1, 2**51 + 1)]
)
def test_pages_of(byte_count, pages):
    assert pages_of(byte_count) == pages


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512b", 512),
        ("8s", 4096),
        ("4k", 4096),
        ("64M", 64 * 2**20),
        ("64m", 64 * 2**20),
        ("1G", 2**30),
        ("2T", 2**41),
        ("3P", 3 * 2**50),
        ("7E", 7 * 2**60),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", " ", "x", "1.5M", "-1", "+1", "1 M", "1MB", "1MiB", "M", "0x10", "1e6", "1_000"])
def test_parse_size_refuses(text):
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["8E", "9223372036854775808", "99999999999999999999E"])
def test_parse_size_refuses_what_no_file_can_have(text):
    with pytest.raises(ConfigError, match=f"'{text}'"):
        parse_size(text)


@given(st.integers(0, 2**33 - 1), st.sampled_from("kmgKMG"))
def test_parse_size_is_exact(number, suffix):
    assert parse_size(f"{number}{suffix}") == number << {"k": 10, "m": 20, "g": 30}[suffix.lower()]


@given(st.text())
def test_parsers_raise_nothing_but_config_error(text):
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ConfigError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5", 5), ("2.5", 2.5), ("250ms", 0.25), ("5s", 5), ("0.5m", 30), ("2m", 120), ("1H", 3600)],
)
def test_parse_duration(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1d", "1m30s", ".5", "5.", "inf", "nan", "1e3"])
def test_parse_duration_refuses(text):
    with pytest.raises(ConfigError, match="is not a time"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["10000000000", "99999999999h", "9" * 400])
def test_parse_duration_refuses_what_no_wait_can_take(text):
    with pytest.raises(ConfigError, match="too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("byte_count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (4096, "4.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (2**30, "1.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**50, "1.0 PiB"),
        (2**63, "8.0 EiB"),
        (2**80, "1048576.0 EiB"),
    ],
)
def test_format_size(byte_count, text):
    assert format_size(byte_count) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "''"), ("größe 100%", "'größe 100%'"), ("a\nb\x1b[2J\0", r"'a\nb\x1b[2J\x00'"), ("\udcff", r"'\udcff'"),
        ("x" * 80, f"'{'x' * 80}'"), ("x" * 4096, f"'{'x' * 80}...'"),
    ],
)  # fmt: skip
def test_quoted(text, shown):
    assert quoted(text) == shown
