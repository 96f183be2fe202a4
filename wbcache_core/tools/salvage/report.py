# SPDX-License-Identifier: BSD-3-Clause
"""What `wbcache salvage` says before it does anything: the moment that can be recovered, what is lost, what is
unknown."""

import uuid
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from wbcache_core.format.segment import Entry
from wbcache_core.log.survey import Segment
from wbcache_core.memory import moments
from wbcache_core.tools.salvage.plan import LostPage, Plan
from wbcache_core.units import PAGE_SHIFT


def lines(plan: Plan, log_name: str) -> list[str]:
    """For people."""
    found = [f"log '{log_name}' needs salvage:", *(f"  {reason}" for reason in plan.reasons), "", *_moment(plan)]
    lost = [page for page in plan.pages if not page.on_origin]
    kept = [page for page in plan.pages if page.on_origin]
    if lost:
        found += ["", "Lost; the origin keeps an older version of these bytes of the volume:", *_page_lines(lost)]
    if plan.later or plan.unknown_lsns:
        found += ["", "Lost beyond the damage:", *_later_lines(plan)]
        found += [f"  (LSN {plan.known} and above may have been torn by a crash, with no flush covering it)"]
    if kept:
        found += ["", "Damaged in the log, but not lost, because the origin already has them:", *_page_lines(kept)]
    if plan.ahead:
        found += ["", "Later than that moment, because they were already on the origin:", *_page_lines(plan.ahead)]
    if plan.doubts:
        found += ["", "Known and not known:", *(f"  {doubt.sentence}" for doubt in plan.doubts)]
    return found


def as_object(plan: Plan) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "volume": str(uuid.UUID(bytes=plan.uuid)),
        "needed": bool(plan.reasons),
        "reasons": plan.reasons,
        "start_lsn": plan.start_lsn,
        "end_lsn": plan.end_lsn,
        "end_offset": plan.end_offset,
        "durable_lsn": plan.known,
        "generation": plan.generation,
        "time": moments.iso(plan.time_ns) if plan.generation else None,
        "is_whole": not plan.prefix or plan.prefix[-1].generation == plan.generation,
        "pages": [_page_object(page) for page in plan.pages],
        "later": [_segment_object(plan, segment) for segment in plan.later],
        "unknown_lsns": [[gap.start, gap.stop] for gap in plan.unknown_lsns],
        "ahead": [_page_object(page) for page in plan.ahead],
        "doubts": [{"text": doubt.sentence, "force": doubt.force or None} for doubt in plan.doubts],
    }


def _moment(plan: Plan) -> list[str]:
    if not plan.generation:
        what = "The volume can be recovered as it was before the cache was put in front of it"
    else:
        what = f"The volume can be recovered as of {moments.words(plan.time_ns)}, generation {plan.generation}"
    pages = sum(segment.page_count for segment in plan.prefix)
    if not plan.prefix:
        return [f"{what}: that is the origin as it is."]
    last = plan.prefix[-1].generation
    if last != plan.generation:
        what += f", with writes of generation {last} that may be only part of that commit"
    return [
        f"{what}: {pages} pages in {len(plan.prefix)} segments, LSN {plan.start_lsn} to {plan.end_lsn - 1}, "
        "go to the origin."
    ]


def _page_lines(pages: list[LostPage]) -> Iterator[str]:
    for page in sorted(pages, key=lambda page: page.block):
        yield (
            f"  {_bytes(page.block, 1)} (block {page.block}): LSN {page.lsn}, generation {page.generation}, "
            f"{moments.words(page.time_ns)}"
        )


def _later_lines(plan: Plan) -> Iterator[str]:
    for gap in plan.unknown_lsns:
        yield f"  LSN {gap.start} to {gap.stop - 1}: it is not known what it held"
    for segment in plan.later:
        runs = ", ".join(_bytes(*run) for run in _runs(_entries(plan, segment)))
        yield (
            f"  LSN {segment.first_lsn} to {segment.end_lsn - 1}, generation {segment.generation}, "
            f"{moments.words(segment.time_ns)}: {runs}"
        )


def _bytes(block: int, count: int) -> str:
    return f"bytes {block << PAGE_SHIFT} to {(block + count << PAGE_SHIFT) - 1}"


def _entries(plan: Plan, segment: Segment) -> list[Entry]:
    return list(plan.survey.descriptor_of(segment).entries())


def _runs(entries: Iterable[Entry]) -> Iterator[tuple[int, int]]:
    """(First block, number of blocks) of what the entries touch, sorted and merged."""
    start = end = 0
    for block, group in groupby(sorted(entries, key=lambda entry: entry.block), key=lambda entry: entry.block):
        stop = block + max(entry.blocks for entry in group)
        if block > end:
            if end > start:
                yield start, end - start
            start = block
        end = max(end, stop)
    if end > start:
        yield start, end - start


def _page_object(page: LostPage) -> dict[str, Any]:
    return {
        "lsn": page.lsn,
        "block": page.block,
        "offset": page.block << PAGE_SHIFT,
        "generation": page.generation,
        "time": moments.iso(page.time_ns),
        "on_origin": page.on_origin,
    }


def _segment_object(plan: Plan, segment: Segment) -> dict[str, Any]:
    return {
        "first_lsn": segment.first_lsn,
        "end_lsn": segment.end_lsn,
        "offset": segment.offset,
        "generation": segment.generation,
        "time": moments.iso(segment.time_ns),
        "blocks": [[block, block + count] for block, count in _runs(_entries(plan, segment))],
    }
