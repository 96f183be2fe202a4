# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache check`: checks every invariant of a log, and of the origin beside it, without changing a byte."""

import json
import sys
from contextlib import ExitStack

from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import LogRefusedError
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import recover
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.history import Facts
from wbcache_core.tools.checker import Report, examine
from wbcache_core.tools.offline_devices import opened_origin
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import say
from wbcache_core.units import PAGE_SHIFT


class _MeteredLog(FileDevice):
    """Reports to `progress`, if there is one, how much of it has been read."""

    progress: Progress | None = None

    def read_uncached_into(self, view: memoryview, offset: int) -> None:
        super().read_uncached_into(view, offset)
        if self.progress:
            self.progress.advance(len(view))


def run_check(path: str, origin: str | None, as_json: bool) -> int:
    """Check and print; returns the exit status. Raises WbcacheError if the log or origin cannot be examined."""
    with ExitStack() as stack:
        log = _MeteredLog(path, "log", direct=True, read_only=True)
        stack.callback(log.close)
        superblock = newest(read_slots(log))
        device = stack.enter_context(opened_origin(origin, log, read_only=True)) if origin else None
        log.progress = stack.enter_context(Progress("checking", _bytes_to_check(log, superblock)))
        report = examine(log, device)
    if as_json:
        print(json.dumps(_report_facts(path, report), indent=2))
    else:
        say("\n".join(_report_lines(path, report, device is not None)))
    return 1 if report.findings else 0


def _bytes_to_check(log: FileDevice, superblock: Superblock | None) -> int:
    """About as much as examine() is going to read; worth finding out only if somebody is watching."""
    if not (superblock and sys.stderr.isatty()):
        return log.size
    try:
        end = recover(log, LogReader(log, superblock.data_pages, superblock.uuid), superblock).end.place
    except LogRefusedError:
        return log.size
    return max(end - superblock.oldest_place, 1) << PAGE_SHIFT


def _report_facts(path: str, report: Report) -> Facts:
    return {
        "log": path,
        "sound": not report.findings,
        "findings": report.findings,
        "remarks": report.remarks,
        "head": report.head,
        "segments": report.segment_count,
        "pages": report.page_count,
    }


def _report_lines(path: str, report: Report, with_origin: bool) -> list[str]:
    lines = [f"damaged: {finding}" for finding in report.findings] + [f"remark: {text}" for text in report.remarks]
    if report.findings:
        return lines
    if report.superblock is None:
        return [*lines, f"log '{path}' is blank: nothing to check"]
    return [
        *lines,
        f"log '{path}' is sound: {report.segment_count} segments with {report.page_count} pages"
        + (", and the origin is as it left it" if with_origin else ""),
    ]
