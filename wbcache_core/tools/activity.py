# SPDX-License-Identifier: BSD-3-Clause
"""What a server did between two answers to `status`: rates, sizes, latencies."""

from wbcache_core.counters import SOURCE_NAMES, bucket_seconds
from wbcache_core.server.history import Facts
from wbcache_core.units import PAGE_BYTES


def activity(before: Facts, now: Facts, seconds: float) -> Facts:
    """Ready for JSON. Rates are per second; latencies are seconds, null where nothing happened.

    If the server was started anew between the two, it is what that one did.
    """
    then, counters = before["counters"], now["counters"]
    if before["pid"] != now["pid"]:
        then = _nothing(counters)
    pairs = {f"read {name}": (counters["reads"][name], then["reads"][name]) for name in SOURCE_NAMES}
    pairs |= {name: (counters[key], then[key]) for name, key in _KINDS.items()}
    requests = {name: _requests(*pair, seconds) for name, pair in pairs.items()}
    # Of these not all are timed.
    for name in SOURCE_NAMES:
        requests[f"read {name}"]["per_second"] = (counters["read_counts"][name] - then["read_counts"][name]) / seconds
    requests["write"]["per_second"] = (counters["write_count"] - then["write_count"]) / seconds
    commits = _requests(counters["commits"], then["commits"], seconds)
    count = commits["per_second"] * seconds

    def rate(name: str, unit: int = 1) -> float:
        return float((counters[name] - then[name]) * unit / seconds)

    destaged = rate("destaged_pages", PAGE_BYTES)
    return {
        "seconds": seconds,
        "requests": requests,
        "read_bytes": rate("read_bytes"),
        "write_bytes": rate("write_bytes"),
        "commits": {**commits, "shared_by": rate("served") * seconds / count if count else None},
        "log_written_bytes": rate("log_pages", PAGE_BYTES),
        "destaged_bytes": destaged,
        "origin_written_bytes": rate("origin_pages", PAGE_BYTES),
        "destaged_in_seconds": now["bytes"]["dirty"] / destaged if destaged else None,
        "throttled": (counters["throttled"]["seconds"] - then["throttled"]["seconds"]) / seconds,
    }


_KINDS = {"write": "writes", "trim, zero": "clears", "flush": "flushes"}


def _nothing(counters: Facts) -> Facts:
    """The same with zeros."""
    found: Facts = {}
    for name, value in counters.items():
        if isinstance(value, dict):
            found[name] = _nothing(value)
        else:
            found[name] = [0] * len(value) if isinstance(value, list) else 0
    return found


def _requests(now: Facts, before: Facts, seconds: float) -> Facts:
    counts = [new - old for new, old in zip(now["counts"], before["counts"], strict=True)]
    return {
        "per_second": sum(counts) / seconds,
        "median": quantile(counts, 0.5),
        "percentile_99": quantile(counts, 0.99),
    }


def quantile(counts: list[int], share: float) -> float | None:
    """Seconds within which that share of what a histogram has was done; the last bucket counts as its beginning."""
    wanted, found = sum(counts) * share, 0
    if not wanted:
        return None
    for index, count in enumerate(counts[:-1]):
        if count and found + count >= wanted:
            start = bucket_seconds(index - 1) if index else 0.0
            return start + (bucket_seconds(index) - start) * (wanted - found) / count
        found += count
    return bucket_seconds(len(counts) - 2)
