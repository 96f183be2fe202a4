# SPDX-License-Identifier: BSD-3-Clause
"""What a running cache is doing at the moment somebody asks."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from wbcache_core.flow.bad_blocks import BadBlocks
from wbcache_core.flow.retention import Pins
from wbcache_core.flow.throttle import Throttle
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.superblock import Superblock
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.server.drain import OFF
from wbcache_core.server.history import Facts, moment, window
from wbcache_core.units import PAGE_SHIFT
from wbcache_core.volume.snapshots import Snapshots

SAMPLE_SECONDS = 2.0
_SAMPLES = 5


class Counters(NamedTuple):
    """Pages accepted, durable in the log, and on the origin; their differences over time are rates."""

    written: int
    committed: int
    destaged: int


def gather(
    line: NumberLine,
    covered: CoveredLog,
    pins: Pins,
    snapshots: Snapshots,
    throttle: Throttle,
    bad: BadBlocks,
    ring_bytes: int,
) -> Facts:
    """Ready for JSON; docs/control-socket.md names the fields. Takes the volume lock once, for a few numbers."""
    with line.lock:
        facts: Facts = {
            "state": _state(line),
            "cursors": {
                "oldest": line.oldest, "destaged": line.destaged, "committed": line.committed, "head": line.head
            },
            "bytes": {
                "volatile": line.head - line.committed << PAGE_SHIFT,
                "dirty": line.dirty_pages << PAGE_SHIFT,
                "log": line.data_pages << PAGE_SHIFT,
                "log_free": line.free_pages << PAGE_SHIFT,
                "ring": line.ring_pages << PAGE_SHIFT,
                "ring_memory": ring_bytes,
            },
            "throttling": {"active": line.throttled, "waiting_for_log_space": line.room_waiters},
        }  # fmt: skip
        oldest, newest, count = covered.generations.oldest, covered.generations.newest, len(covered.generations)
        opened, tags = snapshots.opened(), pins.tags
        facts["bad_blocks"] = bad.facts()
        log_error = line.log_error or line.commits.error
        origin_error, failed_at = line.origin_error, line.origin_failed_at
        since = line.timeline[0][1] if line.timeline else line.pending_since
        settles_in = line.origin_settles_at - time.monotonic()
    facts["throttling"]["destaging_seconds_per_page"] = throttle.seconds_per_page
    facts["window"] = window(oldest, newest, count) if oldest and newest else None
    facts["snapshots"] = [{**moment(generation), "opened": users} for generation, users in opened]
    facts["tags"] = [{"name": tag.name, **moment(Generation.of(tag))} for tag in tags]
    facts["dirty_seconds"] = time.monotonic() - since if since else 0.0
    facts["origin_settles"] = max(settles_in, 0.0)
    facts["errors"] = {
        "log": str(log_error) if log_error else None,
        "origin": str(origin_error) if origin_error else None,
        "origin_seconds": time.monotonic() - failed_at if origin_error else None,
    }
    return facts


def epochs(superblock: Superblock) -> Facts:
    """Ready for JSON, also for `wbcache info`. `epoch` is null before the first one."""
    switches = [
        {**_epoch(switch.epoch), "first_lsn": switch.first_lsn, "previous": f"{switch.previous:016x}"}
        for switch in superblock.history
    ]
    return {"epoch": _epoch(superblock.epoch) if superblock.epoch.number else None, "epochs": switches}


def _epoch(epoch: Epoch) -> Facts:
    return {"number": epoch.number, "id": f"{epoch.id:016x}"}


def nothing() -> Facts:
    """The same where there is no log."""
    return {
        "cursors": dict.fromkeys(("oldest", "destaged", "committed", "head"), 0),
        "bytes": dict.fromkeys(("volatile", "dirty", "log", "log_free", "ring", "ring_memory"), 0),
        "throttling": {"active": False, "waiting_for_log_space": 0, "destaging_seconds_per_page": 0.0},
        "drain": {"state": OFF, "bytes_left": 0, "bytes_total": 0, "incomplete": None},
        "bad_blocks": {"bytes": 0, "ranges": []},
        "epoch": None,
        "epochs": [],
        "peers": [],
        "window": None,
        "snapshots": [],
        "tags": [],
        "dirty_seconds": 0.0,
        "origin_settles": 0.0,
        "errors": {"log": None, "origin": None, "origin_seconds": None},
    }


def worker(why_here: str) -> Facts:
    """Whether a process of its own writes to the origin; why_here is that of the executor of batches."""
    return {"used": not why_here, "why_not": why_here or None}


def _state(line: NumberLine) -> str:
    """Lock held."""
    if line.is_handing_over:
        return "quiesced"
    if line.stopping:
        return "draining" if line.draining else "stopping"
    if line.log_error:
        return "failed"
    if line.quiesced:
        return "quiesced"
    return "writable" if line.writable else "read-only"


class Rates:
    """How fast counters have grown during the last seconds.

    For one thread, which calls sample() every SAMPLE_SECONDS.
    """

    def __init__(self, read: Callable[[], Counters]) -> None:
        self._read = read
        self._samples = deque([(time.monotonic(), read())], maxlen=_SAMPLES)

    def sample(self) -> None:
        """Look at the counters, if it is time."""
        now = time.monotonic()
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._read()))

    def facts(self) -> dict[str, float]:
        """Bytes per second since the oldest sample, and how many seconds that is."""
        since, before = self._samples[0]
        seconds = max(time.monotonic() - since, 0.001)
        rates = {
            # A log that was attached meanwhile begins at 1.
            f"{name}_bytes_per_second": (max(now - then, 0) << PAGE_SHIFT) / seconds
            for name, now, then in zip(Counters._fields, self._read(), before, strict=True)
        }
        return {"seconds": seconds, **rates}
