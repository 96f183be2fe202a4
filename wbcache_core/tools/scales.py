# SPDX-License-Identifier: BSD-3-Clause
"""Numbers for people, and where a chart has its lines."""

import math
from datetime import datetime, timedelta

from wbcache_core.units import format_size

_STEPS_S = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    2 * 86400,
    7 * 86400,
    14 * 86400,
    30 * 86400,
    90 * 86400,
    365 * 86400,
    3650 * 86400,
)
_MOST_TICKS = 5
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("\N{MICRO SIGN}s", 1e-6))


def size(byte_count: float) -> str:
    """`4096` -> `4.0 KiB`."""
    return format_size(int(byte_count))


def rate(byte_count: float) -> str:
    """The same per second."""
    return f"{size(byte_count)}/s"


def duration(seconds: float) -> str:
    """`0.0025` -> `2.5 ms`; three digits at the most."""
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1e6:.2g} \N{MICRO SIGN}s" if seconds else "0 s"


def count(number: float) -> str:
    """`12345` -> `12,345`."""
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"


def share(part: float, whole: float) -> str:
    """In percent; a dash if there is nothing."""
    return f"{part / whole:.0%}" if whole else "\N{EN DASH}"


def linear(most: float, in_bytes: bool) -> list[float]:
    """From 0 to a round number that is not below `most`, in a few steps."""
    most = max(most, 1.0 if in_bytes else 1e-9)
    if in_bytes:
        step = max(2.0 ** math.ceil(math.log2(most / 4)), 1.0)
    else:
        power = 10.0 ** math.floor(math.log10(most / 4))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 4 >= most)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def decades(least: float, most: float) -> list[float]:
    """Powers of ten around two positive numbers."""
    low = math.floor(math.log10(least))
    high = max(math.ceil(math.log10(most) - 1e-9), low + 1)
    return [10.0**power for power in range(low, high + 1)]


def clock_ticks(start: datetime, end: datetime) -> list[tuple[datetime, str]]:
    """A few round times between two, with their labels."""
    span = (end - start).total_seconds()
    step = next((step for step in _STEPS_S if span / step <= _MOST_TICKS), _STEPS_S[-1])
    form = "%H:%M:%S" if step < 60 else "%H:%M" if span <= 86400 else "%d %b %H:%M" if step < 86400 else "%d %b %Y"
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    first = math.ceil((start - midnight).total_seconds() / step)
    found: list[tuple[datetime, str]] = []
    while (moment := midnight + timedelta(seconds=first * step)) <= end and len(found) <= 2 * _MOST_TICKS:
        found.append((moment, moment.strftime(form)))
        first += 1
    return found
