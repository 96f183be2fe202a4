# SPDX-License-Identifier: BSD-3-Clause
"""What a server counts while it works, from its start on: requests, bytes, times.

No lock guards the numbers. Each changes by statements like `counters.served += step`,
which CPython does not interrupt, since nothing in them is a call or a jump. An
interpreter that did could lose a count, and nothing else.
"""


RING, LOG, ORIGIN = range(3)
"""Where a read found its data; for one that found it in several places, the slowest of them."""
SOURCE_NAMES = ("ring", "log", "origin")

_FIRST_SHIFT = 10
UNTIMED = 0xF000
"""Bits of an offset. Reads and writes are so frequent that only those are timed that begin in every 16th block: to
count for that would cost more than the clock."""
ONE = 1 << 64
"""Reads and writes, and their bytes, are one number each: every store to memory that all CPUs use takes time."""
BUCKETS = 26
"""Of a histogram. Bucket n is for what took less than 1,024 << n ns; the last one, for the rest, begins at 17 s."""


def bucket_seconds(index: int) -> float:
    """Where a bucket ends."""
    return (1 << _FIRST_SHIFT + index) / 1e9


class Histogram:
    """How many of something took how long."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * (BUCKETS + 1)
        self.total_ns = 0

    def note(self, nanoseconds: int) -> None:
        """One more has taken so long."""
        self.counts[min((nanoseconds >> _FIRST_SHIFT).bit_length(), BUCKETS)] += 1
        self.total_ns += nanoseconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def facts(self) -> dict[str, object]:
        """Ready for JSON: `counts` by bucket, and `seconds` altogether."""
        return {"counts": list(self.counts), "seconds": self.total_ns / 1e9}


class Counters:
    """One of each for a server."""

    __slots__ = (
        "checksum_failures",
        "clears",
        "commit_failures",
        "commits",
        "destage_failures",
        "destaged_pages",
        "flushes",
        "log_pages",
        "origin_pages",
        "origin_requests",
        "read_totals",
        "reads",
        "served",
        "throttled",
        "write_totals",
        "writes",
    )

    def __init__(self) -> None:
        self.read_totals = [0] * len(SOURCE_NAMES)
        self.write_totals = [0]
        """ONE for each request of clients that was carried out, and its bytes. And how long they took:"""
        self.reads = [Histogram() for _ in SOURCE_NAMES]
        self.writes, self.clears, self.flushes = Histogram(), Histogram(), Histogram()
        """Of reads and writes some; clears are trims and zeroes."""
        self.commits = Histogram()
        """Commits that made something durable."""
        self.served = 0
        """Requests, of the server itself too, that waited for one of them."""
        self.commit_failures = 0
        self.log_pages = 0
        """Written to the log, descriptors included; superblocks are not."""
        self.destaged_pages = 0
        """Of the log, that the origin does not need any more."""
        self.origin_pages = 0
        """Written to the origin; less than destaged_pages by what was written several times, and by descriptors."""
        self.origin_requests = 0
        """In so many requests."""
        self.destage_failures = 0
        self.checksum_failures = 0
        """Pages of the log that were not what was written there."""
        self.throttled = Histogram()
        """Pauses that writers had to make because the log was getting full."""

    def facts(self) -> dict[str, object]:
        """Ready for JSON; docs/metrics.md explains them."""
        return {
            "reads": {name: self.reads[source].facts() for source, name in enumerate(SOURCE_NAMES)},
            "read_counts": {name: self.read_totals[source] // ONE for source, name in enumerate(SOURCE_NAMES)},
            "read_bytes": sum(total % ONE for total in self.read_totals),
            "write_count": self.write_totals[0] // ONE,
            "write_bytes": self.write_totals[0] % ONE,
            **{name: getattr(self, name).facts() for name in ("writes", "clears", "flushes", "commits", "throttled")},
            **{
                name: getattr(self, name)
                for name in (
                    "served", "commit_failures", "log_pages", "destaged_pages", "origin_pages", "origin_requests",
                    "destage_failures", "checksum_failures",
                )
            },
        }  # fmt: skip
