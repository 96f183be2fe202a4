# SPDX-License-Identifier: BSD-3-Clause
"""Rates, sizes and latencies between two answers to `status`."""

import pytest

from wbcache_core.counters import BUCKETS, ONE, Counters, bucket_seconds
from wbcache_core.tools.activity import activity, quantile
from wbcache_core.units import PAGE_BYTES


def answer(counters, dirty=0, pid=7):
    return {"pid": pid, "counters": counters.facts(), "bytes": {"dirty": dirty}}


def test_rates():
    counters = Counters()
    before = answer(counters)
    for _ in range(10):
        counters.writes.note(5_000)
        counters.write_totals[0] += ONE + PAGE_BYTES
    counters.reads[1].note(2_000_000)
    counters.read_totals[1] += ONE + 5
    counters.commits.note(100_000)
    counters.commits.note(100_000)
    counters.served += 7
    counters.destaged_pages += 20
    done = activity(before, answer(counters, dirty=100 * PAGE_BYTES), 2.0)
    assert done["requests"]["write"]["per_second"] == 5
    assert bucket_seconds(2) <= done["requests"]["write"]["median"] <= bucket_seconds(3)
    assert done["requests"]["read log"]["per_second"] == 0.5
    assert done["requests"]["read ring"] == {"per_second": 0, "median": None, "percentile_99": None}
    assert done["write_bytes"] == 5 * PAGE_BYTES
    assert done["commits"]["shared_by"] == 3.5
    assert done["destaged_in_seconds"] == 10


def test_a_server_that_was_started_anew():
    counters, new = Counters(), Counters()
    counters.write_totals[0] = 7 * ONE + 1_000_000
    new.write_totals[0] = ONE + 500
    done = activity(answer(counters), answer(new, pid=8), 1.0)
    assert done["write_bytes"] == 500
    assert done["requests"]["write"]["per_second"] == 1


def test_nothing_happened():
    done = activity(answer(Counters()), answer(Counters()), 1.0)
    assert done["commits"]["shared_by"] is None and done["destaged_in_seconds"] is None


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.99, 1])
def test_quantiles_of_one_bucket(share):
    counts = [0] * (BUCKETS + 1)
    counts[4] = 1000
    assert bucket_seconds(3) <= quantile(counts, share) <= bucket_seconds(4) * 1.0001


def test_quantiles():
    counts = [0] * (BUCKETS + 1)
    assert quantile(counts, 0.5) is None
    counts[0], counts[9], counts[BUCKETS] = 98, 1, 1
    assert quantile(counts, 0.5) < bucket_seconds(0)
    assert bucket_seconds(8) < quantile(counts, 0.99) <= bucket_seconds(9)
    assert quantile(counts, 1) == bucket_seconds(BUCKETS - 1)
