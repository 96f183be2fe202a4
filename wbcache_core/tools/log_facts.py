# SPDX-License-Identifier: BSD-3-Clause
"""What a picture of a log shows: how much was written where and when, the moments that can be opened, the cursors."""

from typing import NamedTuple

from wbcache_core.tools.log_content import LogContent
from wbcache_core.tools.write_density import WriteDensity, touched_blocks
from wbcache_core.units import pages_of

_COLUMNS, _ROWS = 260, 120
_SHORTEST_NS = 10**8
"""A shorter history is shown in the middle of this much time."""


class LogFacts(NamedTuple):
    """What is drawn. Times in ns."""

    start_ns: int
    end_ns: int
    blocks: range
    density: WriteDensity
    first_ns: int | None
    """The time of the first segment."""
    segment_count: int
    generation_count: int
    window: tuple[int, int] | None
    cursors: dict[str, int]
    tags: list[tuple[str, int]]


def gather(content: LogContent) -> LogFacts:
    """From what a log holds."""
    descriptors, oldest, newest = content.descriptors, content.oldest, content.newest
    times = [descriptor.time_ns for descriptor in descriptors]
    times += [generation.time_ns for generation in (oldest, newest) if generation]
    times += [content.destaged_time_ns] if content.destaged_time_ns else []
    times = times or [content.known_ns]
    start, end = min(times), max(times)
    margin = max((_SHORTEST_NS - (end - start)) // 2, (end - start) // 50)
    start, end = start - margin, end + margin
    blocks = _shown_blocks(touched_blocks(descriptors), pages_of(content.volume_bytes))
    density = WriteDensity(_COLUMNS, min(_ROWS, len(blocks)), (start, end), blocks)
    for descriptor in descriptors:
        density.add(descriptor)
    cursors = {"destaged": content.destaged_time_ns or start}
    if content.batch_end:
        behind = (descriptor.time_ns for descriptor in descriptors if descriptor.end_lsn >= content.batch_end)
        cursors["batch_end"] = next(behind, end)
    return LogFacts(
        start, end, blocks, density, descriptors[0].time_ns if descriptors else None, len(descriptors),
        len({descriptor.generation for descriptor in descriptors}),
        (oldest.time_ns, newest.time_ns) if oldest and newest else None, cursors, content.tags,
    )  # fmt: skip


def _shown_blocks(touched: range, volume_blocks: int) -> range:
    """The whole volume, or, if less than half of it was touched, that part and a little around it."""
    if not touched or len(touched) > volume_blocks // 2:
        return range(volume_blocks)
    margin = len(touched) // 20 + 1
    return range(max(touched.start - margin, 0), min(touched.stop + margin, volume_blocks))


def unit_of(byte_count: int) -> tuple[int, str]:
    """The unit in which a span is a number that is easy to read."""
    exponent = min(max((byte_count.bit_length() - 3) // 10, 0), 5)
    return 1024**exponent, ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")[exponent]
