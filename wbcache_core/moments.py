# SPDX-License-Identifier: BSD-3-Clause
"""Moments to and from text. Inside wbcache they are nanoseconds since 1970; people read and write ISO 8601."""

from datetime import datetime, timezone

from wbcache_core.errors import ConfigError

_NS = 10**9


def iso(time_ns: int) -> str:
    """UTC to the microsecond, as parse() reads it: `2026-11-22T12:24:33.123456Z`."""
    whole = datetime.fromtimestamp(time_ns // _NS, timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{time_ns % _NS // 1000:06d}Z"


def words(time_ns: int) -> str:
    """UTC to the second, for sentences."""
    return f"{datetime.fromtimestamp(time_ns // _NS, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def parse(text: str) -> int:
    """ISO 8601 with or without a time of day, a fraction and a zone; without a zone it is local time.

    Raises ConfigError.
    """
    # Before Python 3.11 fromisoformat() does not know the Z.
    spelled = text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text
    try:
        moment = datetime.fromisoformat(spelled).astimezone()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"'{text}' is not a time; write one like 2026-11-22, 2026-11-22T12:24:33 or 2026-11-22T12:24:33.5Z"
        ) from None
    whole = moment.replace(microsecond=0)
    return int(whole.timestamp()) * _NS + moment.microsecond * 1000
