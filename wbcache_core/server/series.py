# SPDX-License-Identifier: BSD-3-Clause
"""What a server has counted, over its whole life: samples, of which there are never more than so many.

    seconds  0 ... 4 ... 8 ...                         full: every other sample goes, and the interval doubles

The numbers only grow, so a sample that goes takes nothing away but the detail between its neighbours. While nothing
happens there are no samples.
"""

import time
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

from wbcache_core.counters import SOURCE_NAMES
from wbcache_core.server.history import Facts
from wbcache_core.units import PAGE_SHIFT

MOST_SAMPLES = 360
FIRST_INTERVAL_SECONDS = 4.0

_TIMED = ("reads", "writes", "flushes", "commits")
SUMS = (
    "read_bytes", "write_bytes", "writes", "clears", "flushes", "commits", "served",
    *(f"reads_{source}" for source in SOURCE_NAMES), "log_bytes", "destaged_bytes", "origin_bytes", "throttled_us",
    *(f"timed_{name}" for name in _TIMED), *(f"{name}_us" for name in _TIMED),
)  # fmt: skip
"""Numbers that only grow. timed_reads and timed_writes are those of which reads_us and writes_us are the times."""
LEVELS = ("dirty_bytes", "volatile_bytes", "log_free_bytes")
"""As they are at the moment of the sample."""
SLOWEST = tuple(f"slowest_{name}" for name in _TIMED)
"""The bucket of the histogram that the slowest since the previous sample is in, plus 1; 0 if there was none."""
FIELDS = ("seconds", *SUMS, *LEVELS, *SLOWEST)
"""Of a sample; seconds since the server's start."""
_FIRST_SLOWEST = len(FIELDS) - len(SLOWEST)


class Series:
    """For one thread."""

    def __init__(self, facts: Facts, clock: Callable[[], float] = time.monotonic) -> None:
        """`facts` are the answer to status, here and below."""
        self._clock = clock
        self._start = clock()
        self._began = datetime.now(timezone.utc)
        self._interval = FIRST_INTERVAL_SECONDS
        self._seen = _histograms(facts)
        self._samples = [self._sample(facts)]
        """Each with values as in FIELDS; milliseconds for seconds."""
        self._idle_until = 0
        """Milliseconds up to which nothing had changed since the last sample; 0 if something had at the next look."""

    def look(self, facts: Callable[[], Facts]) -> None:
        """Take a sample if it is time for one, and something has changed. To be called more often than that."""
        now = self._milliseconds()
        if now - max(self._samples[-1][0], self._idle_until) < self._interval * 1000:
            return
        found = facts()
        sample = self._sample(found)
        if sample[1:_FIRST_SLOWEST] == self._samples[-1][1:_FIRST_SLOWEST]:
            self._idle_until = now
            return
        if self._idle_until > self._samples[-1][0]:
            self._add(self._as_last(self._idle_until))
        self._idle_until = 0
        self._seen = _histograms(found)
        self._add(sample)

    def facts(self, facts: Facts) -> Facts:
        """All samples, the last one of this moment, ready for JSON; docs/control-socket.md names the fields."""
        samples = list(self._samples)
        if self._idle_until > samples[-1][0]:
            samples.append(self._as_last(self._idle_until))
        samples.append(self._sample(facts))
        # By the clock as it is now: it may have been set since the start.
        began = datetime.now(timezone.utc) - timedelta(milliseconds=samples[-1][0])
        return {
            "began": began.isoformat(timespec="seconds"), "interval": self._interval, "fields": list(FIELDS),
            "samples": [[sample[0] / 1000, *sample[1:]] for sample in samples],
        }  # fmt: skip

    def _milliseconds(self) -> int:
        return round((self._clock() - self._start) * 1000)

    def _sample(self, facts: Facts) -> "array[int]":
        counters, sizes = facts["counters"], facts["bytes"]
        now = _histograms(facts)
        values = {
            "read_bytes": counters["read_bytes"], "write_bytes": counters["write_bytes"],
            "writes": counters["write_count"], "clears": sum(counters["clears"]["counts"]),
            "flushes": sum(now["flushes"]), "commits": sum(now["commits"]), "served": counters["served"],
            **{f"reads_{source}": count for source, count in counters["read_counts"].items()},
            "log_bytes": counters["log_pages"] << PAGE_SHIFT,
            "destaged_bytes": counters["destaged_pages"] << PAGE_SHIFT,
            "origin_bytes": counters["origin_pages"] << PAGE_SHIFT,
            "throttled_us": round(counters["throttled"]["seconds"] * 1e6),
            **{f"timed_{name}": sum(now[name]) for name in _TIMED},
            **{f"{name}_us": round(_seconds(counters, name) * 1e6) for name in _TIMED},
            **{name: sizes[name.removesuffix("_bytes")] for name in LEVELS},
            **{f"slowest_{name}": _slowest(self._seen[name], now[name]) for name in _TIMED},
        }  # fmt: skip
        return array("q", [self._milliseconds(), *(values[name] for name in FIELDS[1:])])

    def _as_last(self, milliseconds: int) -> "array[int]":
        """The last sample again, of a time up to which nothing happened."""
        last = self._samples[-1]
        return array("q", [milliseconds, *last[1:_FIRST_SLOWEST], *(0 for _ in SLOWEST)])

    def _add(self, sample: "array[int]") -> None:
        if len(self._samples) >= MOST_SAMPLES:
            self._halve()
        self._samples.append(sample)

    def _halve(self) -> None:
        """Keep the first, and of the others every other one, and the last."""
        first, *rest = self._samples
        kept = [first]
        for at in range(1 - len(rest) % 2, len(rest), 2):
            sample = rest[at]
            if at:
                for field in range(_FIRST_SLOWEST, len(FIELDS)):
                    sample[field] = max(sample[field], rest[at - 1][field])
            kept.append(sample)
        self._samples = kept
        self._interval *= 2


def _histograms(facts: Facts) -> dict[str, list[int]]:
    """The counts of each kind of request that is timed; reads of all sources together."""
    counters = facts["counters"]
    reads = [sum(counts) for counts in zip(*(one["counts"] for one in counters["reads"].values()), strict=True)]
    return {"reads": reads} | {name: counters[name]["counts"] for name in _TIMED[1:]}


def _seconds(counters: Facts, name: str) -> float:
    if name == "reads":
        return float(sum(one["seconds"] for one in counters["reads"].values()))
    return float(counters[name]["seconds"])


def _slowest(before: Sequence[int], now: Sequence[int]) -> int:
    """The last bucket that has more now, plus 1."""
    return next((index + 1 for index in range(len(now) - 1, -1, -1) if now[index] > before[index]), 0)
