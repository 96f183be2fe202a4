# SPDX-License-Identifier: BSD-3-Clause
"""The sizes everything is measured in, and text to and from sizes and times."""

import re

from wbcache_core.errors import ConfigError

SECTOR_BYTES = 512
PAGE_BYTES = 4096
PAGE_SHIFT = 12
PAGE_MASK = PAGE_BYTES - 1

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"(\d+)([bkmgtpes]?)", re.IGNORECASE)
_SIZE_FACTOR = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": 2**40, "p": 2**50, "e": 2**60, "s": SECTOR_BYTES}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", re.IGNORECASE)
_TIME_FACTOR = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LARGEST_SIZE = 2**63 - 1
_LONGEST_DURATION = 10_000 * 3600
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def pages_of(byte_count: int) -> int:
    """Number of pages that byte_count bytes touch if they start at a page boundary."""
    return (byte_count + PAGE_MASK) >> PAGE_SHIFT


def parse_size(text: str) -> int:
    """Bytes for nbdkit's size grammar (`64M`, `8s` for sectors). Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"'{text}' is not a size; write a number of bytes or one like 64M, 1G")
    size = int(match[1]) * _SIZE_FACTOR[match[2].lower()]
    if size > _LARGEST_SIZE:
        raise ConfigError(f"'{text}' is larger than any file can be")
    return size


def parse_duration(text: str) -> float:
    """Seconds for `250ms`, `5s`, `2m`, `1h` or a bare number of seconds, to the nanosecond. Raises ConfigError."""
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"'{text}' is not a time; write seconds or one like 250ms, 5s, 2m")
    seconds = round(float(match[1]) * _TIME_FACTOR[match[2].lower()], 9)
    if seconds > _LONGEST_DURATION:
        raise ConfigError(f"'{text}' is too long: at most {_LONGEST_DURATION // 3600} hours")
    return seconds


def format_share(part: int, whole: int) -> str:
    """In percent, rounded down: "100%" is all of it. `whole` is not 0."""
    return f"{100 * part // whole}%"


def format_size(byte_count: int) -> str:
    """A byte count for people: `4096` -> `4.0 KiB`."""
    if byte_count < KIB:
        return f"{byte_count} bytes"
    exponent = min((byte_count.bit_length() - 1) // 10, len(_UNITS))
    return f"{byte_count / 1024**exponent:.1f} {_UNITS[exponent - 1]}"


_LONGEST_QUOTE = 80


def quoted(text: str) -> str:
    """Text from somebody else, for a message: in quotes, shortened, and with escapes for what cannot be printed."""
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."
    escaped = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)
    return f"'{''.join(escaped)}'"
