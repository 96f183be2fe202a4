# SPDX-License-Identifier: BSD-3-Clause
"""Counting, and where the buckets of a histogram end."""

import threading

import pytest

from wbcache_core.counters import BUCKETS, ONE, Counters, Histogram, bucket_seconds


@pytest.mark.parametrize(
    ("nanoseconds", "bucket"),
    [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), ((1 << 35) - 1, 25), (1 << 35, 26), (1 << 70, 26)],
)
def test_buckets(nanoseconds, bucket):
    histogram = Histogram()
    histogram.note(nanoseconds)
    assert histogram.counts[bucket] == histogram.count == 1
    assert bucket == BUCKETS or nanoseconds / 1e9 < bucket_seconds(bucket)
    assert not bucket or nanoseconds / 1e9 >= bucket_seconds(bucket - 1)
    assert histogram.facts() == {"counts": histogram.counts, "seconds": nanoseconds / 1e9}


def test_no_count_is_lost_between_threads():
    """What the module says of CPython."""
    counters, histogram = Counters(), Histogram()

    step = ONE + 3

    def work():
        for _ in range(100_000):
            counters.read_totals[1] += step
            histogram.note(5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    facts = counters.facts()
    assert facts["read_bytes"] == 3 * 800_000
    assert facts["read_counts"] == {"ring": 0, "log": 800_000, "origin": 0}
    assert (histogram.count, histogram.total_ns) == (800_000, 5 * 800_000)
