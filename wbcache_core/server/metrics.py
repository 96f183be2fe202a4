# SPDX-License-Identifier: BSD-3-Clause
"""The state and the counters of a server as Prometheus metrics; docs/metrics.md lists them.

The names follow https://prometheus.io/docs/practices/naming/, and, where the
meaning is the same, node_exporter's collector for bcache.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wbcache_core.counters import bucket_seconds
from wbcache_core.errors import ConfigError
from wbcache_core.server.history import Facts
from wbcache_core.units import PAGE_BYTES

STATES = ("writable", "read-only", "quiesced", "failed", "draining", "stopping", "detached")
_LABELS = ("volume",)

_COUNTERS: tuple[tuple[str, str, Callable[[Facts], float]], ...] = (
    ("commit_requests", "Requests that waited for a commit.", lambda c: c["served"]),
    ("commit_failures", "Commits that failed and were repeated.", lambda c: c["commit_failures"]),
    ("log_written_bytes", "Bytes written to the log, superblocks not counted.", lambda c: c["log_pages"] * PAGE_BYTES),
    ("destaged_bytes", "Bytes of log that the origin does not need any more.",
     lambda c: c["destaged_pages"] * PAGE_BYTES),
    ("origin_written_bytes", "Bytes written to the origin.", lambda c: c["origin_pages"] * PAGE_BYTES),
    ("origin_writes", "Requests in which they were written.", lambda c: c["origin_requests"]),
    ("destage_failures", "Attempts to destage that failed and were repeated.", lambda c: c["destage_failures"]),
    ("checksum_failures", "Pages of the log that were found not to be what was written there.",
     lambda c: c["checksum_failures"]),
    ("throttled_seconds", "How long writers were slowed because the log was getting full.",
     lambda c: c["throttled"]["seconds"]),
)  # fmt: skip
_GAUGES: tuple[tuple[str, str, Callable[[Facts], float]], ...] = (
    ("dirty_data_bytes", "Bytes of log that the origin still needs.", lambda f: f["bytes"]["dirty"]),
    ("volatile_data_bytes", "Of these, bytes that are only in memory.", lambda f: f["bytes"]["volatile"]),
    ("oldest_dirty_seconds", "Age of the oldest data that the origin lacks.", lambda f: f["dirty_seconds"]),
    ("log_size_bytes", "Bytes of log.", lambda f: f["bytes"]["log"]),
    ("log_free_bytes", "Bytes of log that may be written.", lambda f: f["bytes"]["log_free"]),
    ("ring_memory_bytes", "Memory that the ring has.", lambda f: f["bytes"]["ring_memory"]),
    ("throttling", "1 while writers are slowed because the log is getting full.",
     lambda f: f["throttling"]["active"]),
    ("stalled_writers", "Requests that wait for space in the log.", lambda f: f["throttling"]["waiting_for_log_space"]),
    ("quiesced_writers", "Requests that wait for wbcache resume.", lambda f: f["quiesce"]["waiting"]),
    ("log_failing", "1 while the log cannot be written.", lambda f: f["errors"]["log"] is not None),
    ("origin_failing", "1 while the origin cannot be written.", lambda f: f["errors"]["origin"] is not None),
    ("rejected_bytes", "Bytes that the origin rejects while it accepts others.", lambda f: f["bad_blocks"]["bytes"]),
    ("window_generations", "Past moments that can be opened.",
     lambda f: f["window"]["generations"] if f["window"] else 0),
    ("open_snapshots", "Past moments that are open.", lambda f: len(f["snapshots"])),
    ("tags", "Past moments that have a tag.", lambda f: len(f["tags"])),
)  # fmt: skip
_PEER_GAUGES: tuple[tuple[str, str, Callable[[Facts], float]], ...] = (
    ("counts", "1 if requests and the origin wait for the peer.", lambda p: p["counts"]),
    ("up_to_date", "1 if it has everything that is committed, or nearly so.", lambda p: p["state"] == "up-to-date"),
    ("behind_bytes", "Bytes of log that it does not have durably.", lambda p: p["behind"] * PAGE_BYTES),
    ("silent_seconds", "For how long it has not answered.", lambda p: p["silent_seconds"]),
    # An older server does not say.
    ("inconsistent", "1 while the origin that it has of its own is being filled.", lambda p: p.get("inconsistent", 0)),
    ("copied_bytes", "Bytes of the volume that have been copied to it meanwhile.",
     lambda p: (p.get("copied_blocks") or 0) * PAGE_BYTES),
)  # fmt: skip


def load_client() -> Any:
    """The module prometheus_client. Raises ConfigError."""
    try:
        import prometheus_client
        import prometheus_client.core

        return prometheus_client
    except ImportError as error:
        raise ConfigError(
            f"metrics need Prometheus' client library; install python3-prometheus-client ({error})"
        ) from None


def exposition(many: Iterable[Facts]) -> bytes:
    """Prometheus' text format, for the answers to `status` of any number of servers. Raises ConfigError."""
    client = load_client()
    registry = client.CollectorRegistry()
    registry.register(_Collector(list(many), client.core))
    text: bytes = client.generate_latest(registry)
    return text


def standby_exposition(facts: Facts) -> bytes:
    """The same for the status of a standby."""
    client = load_client()
    registry = client.CollectorRegistry()
    volume = facts["volume"] or ""
    gauges = [
        ("received_lsn", "LSN up to which the log has been received.", facts["cursors"]["received"]),
        ("committed_lsn", "LSN up to which it is durable.", facts["cursors"]["committed"]),
        ("dirty_data_bytes", "Bytes of log that the origin still needs.", facts["bytes"]["dirty"]),
        ("refused_shipments", "What the owner sent and was not taken.", facts["refused"]["count"]),
        ("owner_silent_seconds", "Since when the owner has asked for nothing.", facts["owner_silent_seconds"] or 0.0),
    ]
    if "consistent" in facts:
        gauges += [
            ("inconsistent", "1 while the origin that it has of its own lacks something.", not facts["consistent"]),
            ("copied_bytes", "Bytes of the volume that have been copied to it meanwhile.",
             (facts["filled_blocks"] or 0) * PAGE_BYTES),
            ("destaged_lsn", "LSN up to which the origin that it has of its own has the log.",
             facts["cursors"]["destaged"]),
            ("origin_failing", "1 while that origin cannot be written.", facts["errors"]["origin"] is not None),
            ("window_generations", "Past moments that can be opened at it.",
             facts["window"]["generations"] if facts["window"] else 0),
            ("open_snapshots", "Past moments that are open at it.", len(facts["snapshots"])),
        ]  # fmt: skip
    for name, what, value in gauges:
        client.Gauge(f"wbcache_standby_{name}", what, _LABELS, registry=registry).labels(volume).set(value)
    text: bytes = client.generate_latest(registry)
    return text


class _Collector:
    def __init__(self, many: list[Facts], core: Any) -> None:
        self._many = many
        self._core = core

    def collect(self) -> Iterator[Any]:
        core = self._core
        info = core.InfoMetricFamily("wbcache", "What is served.", labels=_LABELS)
        state = core.GaugeMetricFamily("wbcache_state", "1 for the state of the volume.", labels=(*_LABELS, "state"))
        for facts in self._many:
            info.add_metric([facts["volume"]], {name: facts[name] for name in ("origin", "log", "version")})
            for name in STATES:
                state.add_metric([facts["volume"], name], facts["state"] == name)
        yield info
        yield state
        for name, text, value in _GAUGES:
            yield self._family(core.GaugeMetricFamily, name, text, value)
        for name, text, value in _COUNTERS:
            yield self._family(core.CounterMetricFamily, name, text, _of_counters(value))
        yield from self._peers()
        yield from self._requests()

    def _family(self, kind: Any, name: str, text: str, value: Callable[[Facts], float]) -> Any:
        family = kind(f"wbcache_{name}", text, labels=_LABELS)
        for facts in self._many:
            family.add_metric([facts["volume"]], float(value(facts)))
        return family

    def _peers(self) -> Iterator[Any]:
        for name, text, value in _PEER_GAUGES:
            family = self._core.GaugeMetricFamily(f"wbcache_peer_{name}", text, labels=(*_LABELS, "peer"))
            for facts in self._many:
                # An older server has none.
                for peer in facts.get("peers", ()):
                    family.add_metric([facts["volume"], peer["peer"]], float(value(peer)))
            yield family

    def _requests(self) -> Iterator[Any]:
        core = self._core
        requests = core.CounterMetricFamily("wbcache_requests", "Requests of clients that were carried out.",
                                            labels=(*_LABELS, "type"))  # fmt: skip
        sources = core.CounterMetricFamily("wbcache_reads", "Reads, by the slowest place with some of their data.",
                                           labels=(*_LABELS, "source"))  # fmt: skip
        sizes = core.CounterMetricFamily("wbcache_request_bytes", "Bytes read and written by clients.",
                                         labels=(*_LABELS, "type"))  # fmt: skip
        times = core.HistogramMetricFamily("wbcache_request_duration_seconds",
                                           "How long clients' requests took, of reads and writes a sample.",
                                           labels=(*_LABELS, "type"))  # fmt: skip
        reads = core.HistogramMetricFamily("wbcache_read_duration_seconds",
                                           "How long reads took, by source, of a sample.",
                                           labels=(*_LABELS, "source"))  # fmt: skip
        commits = core.HistogramMetricFamily("wbcache_commit_duration_seconds", "How long commits took.",
                                             labels=_LABELS)  # fmt: skip
        for facts in self._many:
            volume, counters = facts["volume"], facts["counters"]
            counts = {"read": sum(counters["read_counts"].values()), "write": counters["write_count"]}
            for kind, name in (("clear", "clears"), ("flush", "flushes")):
                counts[kind] = sum(counters[name]["counts"])
            for kind, count in counts.items():
                requests.add_metric([volume, kind], count)
            for source, count in counters["read_counts"].items():
                sources.add_metric([volume, source], count)
            for kind in ("read", "write"):
                sizes.add_metric([volume, kind], counters[f"{kind}_bytes"])
            for kind, name in (("write", "writes"), ("clear", "clears"), ("flush", "flushes")):
                times.add_metric([volume, kind], *_histogram(counters[name]))
            times.add_metric([volume, "read"], *_histogram(_sum(counters["reads"].values())))
            for source, histogram in counters["reads"].items():
                reads.add_metric([volume, source], *_histogram(histogram))
            commits.add_metric([volume], *_histogram(counters["commits"]))
        yield from (requests, sources, sizes, times, reads, commits)


def _of_counters(value: Callable[[Facts], float]) -> Callable[[Facts], float]:
    return lambda facts: value(facts["counters"])


def _sum(histograms: Iterable[Facts]) -> Facts:
    found = list(histograms)
    return {
        "counts": [sum(column) for column in zip(*(one["counts"] for one in found), strict=True)],
        "seconds": sum(one["seconds"] for one in found),
    }


def _histogram(facts: Facts) -> tuple[list[tuple[str, float]], float]:
    """Cumulative, as Prometheus wants it; and the sum."""
    buckets, total = [], 0
    for index, count in enumerate(facts["counts"][:-1]):
        total += count
        buckets.append((f"{bucket_seconds(index):.9g}", float(total)))
    buckets.append(("+Inf", float(total + facts["counts"][-1])))
    return buckets, facts["seconds"]
