# SPDX-License-Identifier: BSD-3-Clause
"""What a picture shows of a log: its segments, and the moments around them. From the log, or from its server."""

import time
from collections.abc import Iterator
from contextlib import closing
from math import inf
from typing import NamedTuple

from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import ControlError
from wbcache_core.format.segment import KIND_SHIFT, RAW, TRIM, Descriptor
from wbcache_core.log.recovery import Found
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import parse
from wbcache_core.server.control.client import ask
from wbcache_core.server.history import Facts
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT


class LogContent(NamedTuple):
    """`descriptors` are in order of LSN, and so may have clean ones before `oldest`. Times in ns."""

    volume_bytes: int
    descriptors: list[Descriptor]
    oldest: Generation | None
    newest: Generation | None
    destaged_time_ns: int
    """Of the last commit that the origin has; 0 if it is not known."""
    batch_end: int
    """Up to where the origin may have something, if that is beyond what it has completely; otherwise 0."""
    known_ns: int
    """When this was so."""
    tags: list[tuple[str, int]]
    """Names and times, oldest first."""


def content_of_log(path: str) -> LogContent:
    """Of a log that no server holds. Raises OutsideWindowError for a blank log, LogRefusedError, DeviceError."""
    segments: list[Found] = []
    with closing(FileDevice(path, "log", direct=True, read_only=True)) as log:
        history = LogHistory(log, segments)
        history.tell_uncommitted()
    return content_of(history, segments)


def content_of(history: LogHistory, segments: list[Found]) -> LogContent:
    """Of a log that has been looked at; `segments` are all that LogHistory has found."""
    superblock, covered = history.superblock, history.recovered.covered.generations
    return LogContent(
        superblock.origin_bytes, [found.descriptor for found in segments], covered.oldest, covered.newest,
        superblock.destaged_time_ns, superblock.batch_end if superblock.batch_end > superblock.destaged else 0,
        superblock.written_ns, sorted(((tag.name, tag.time_ns) for tag in superblock.tags), key=lambda tag: tag[1]),
    )  # fmt: skip


def content_of_server(socket: str, patience: float = inf) -> LogContent:
    """Of the log of a running server, as it is in the end: it may change meanwhile. Raises ControlError, also after so
    many seconds."""
    pages = list(_pages(socket, time.monotonic() + patience))
    status = ask(socket, "status")
    descriptors = [_descriptor(one) for page in pages for one in page["segments"]]
    window, destaged = status["window"], status["cursors"]["destaged"]
    oldest, newest = (_generation(window[name]) if window else None for name in ("oldest", "newest"))
    last = next((one for one in reversed(descriptors) if one.end_lsn <= destaged), None)
    return LogContent(
        pages[-1]["volume_bytes"], descriptors, oldest, newest, last.time_ns if last else 0,
        oldest.end_lsn if oldest and oldest.end_lsn > destaged else 0, newest.time_ns if newest else 0,
        sorted(((tag["name"], parse(tag["time"])) for tag in status["tags"]), key=lambda tag: tag[1]),
    )  # fmt: skip


def _pages(socket: str, deadline: float) -> Iterator[Facts]:
    start = 0
    while True:
        if time.monotonic() > deadline:
            raise ControlError("the log has more than can be looked at in the time given")
        page = ask(socket, "segments", **{"from": start})
        yield page
        if page["next"] is None:
            return
        start = page["next"]


def _generation(facts: Facts) -> Generation:
    return Generation(facts["generation"], facts["end_lsn"], parse(facts["time"]))


def _descriptor(facts: Facts) -> Descriptor:
    """What matters of it here: the order of its entries and its checksums are not known."""
    blocks = [
        block
        for offset, length in facts["written"]
        for block in range(offset >> PAGE_SHIFT, offset + length >> PAGE_SHIFT)
    ]
    cleared = [(offset >> PAGE_SHIFT, length >> PAGE_SHIFT) for offset, length in facts["cleared"]]
    return Descriptor(
        RAW, len(blocks), bytes(16), facts["first_lsn"], parse(facts["time"]), 0, facts["generation"], 0,
        len(blocks) * PAGE_BYTES, (), (*blocks, *(TRIM << KIND_SHIFT | block for block, _ in cleared)),
        (*[0] * len(blocks), *(count for _, count in cleared)),
    )  # fmt: skip
