# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache diff`: what changed from one moment to another, as a list, and as a file with just that."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import LogRefusedError, WbcacheError
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import describe
from wbcache_core.tools.changed_extents import Change, Kind, byte_range, changes
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.tools.new_file import new_file, refuse_existing, write_all
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import tell
from wbcache_core.units import MIB, format_size

_WORDS = {Kind.DATA: "data", Kind.ZERO: "zero", Kind.HOLE: "hole"}
_TOTALS = {Kind.DATA: "of data", Kind.ZERO: "of zeros", Kind.HOLE: "of holes"}


def run_diff(path: str, start: str, end: str, origin: str | None, raw: str | None, as_json: bool) -> int:
    """Print it; returns the exit status. Raises WbcacheError if the log cannot be examined or the moments are
    invalid."""
    if raw:
        refuse_existing(raw)
    with ExitStack() as stack:
        log = FileDevice(path, "log", direct=True, read_only=True)
        stack.callback(log.close)
        try:
            history = LogHistory(log)
            history.tell_uncommitted()
            diff = _Diff(history, history.resolve(start), history.resolve(end))
            if origin or diff.needs_origin:
                diff.origin = stack.enter_context(history.paired_origin(origin, log))
        except LogRefusedError as error:
            tell(f"wbcache: {error}")
            return 1
        if raw:
            try:
                diff.write(raw)
            except WbcacheError as error:
                tell(f"wbcache: {error}; '{raw}' has not been made")
                return 1
        if as_json:
            _print_map(diff, bool(raw))
        else:
            _print_list(diff)
    return 0


class _Diff:
    """What has to be done to the volume as of `start` to turn it into that as of `end`, which may be the earlier
    one."""

    def __init__(self, history: LogHistory, start: Generation, end: Generation) -> None:
        self.start, self.end = start, end
        self.volume_bytes = history.superblock.origin_bytes
        self.origin: Device | None = None
        self._history = history
        first, last = sorted((start.end_lsn, end.end_lsn))
        self._changed = history.map_between(first, last)
        # Forwards, what was written in between is all there is to know.
        self._then: LocationMap = self._changed if start.end_lsn <= end.end_lsn else history.map_at(end)

    @property
    def needs_origin(self) -> bool:
        return any(change.kind is Kind.ON_ORIGIN for change in changes(self._changed, self._then))

    def changes(self) -> Iterator[Change]:
        """In order; reads the origin if that is needed."""
        return changes(self._changed, self._then, self.origin)

    def _data_ranges(self) -> Iterator[tuple[int, int]]:
        return (byte_range(change, self.volume_bytes) for change in self.changes() if change.kind is Kind.DATA)

    def write(self, target: str) -> None:
        """A new sparse file of the volume's size with the data at its offsets. Raises WbcacheError."""
        # If there is no origin, none is needed, and the log stands in for it.
        reader = self._history.reader(self._then, self.origin or self._history.log)
        buffer = memoryview(bytearray(MIB))
        with (
            new_file(target, "file") as fd,
            Progress("writing", sum(length for _, length in self._data_ranges())) as progress,
        ):
            os.ftruncate(fd, self.volume_bytes)
            for offset, length in self._data_ranges():
                for position in range(offset, offset + length, len(buffer)):
                    view = buffer[: min(len(buffer), offset + length - position)]
                    reader.read_into(view, position)
                    write_all(fd, view, position)
                    progress.advance(len(view))


def _print_list(diff: _Diff) -> None:
    totals = dict.fromkeys(Kind, 0)
    for change in diff.changes():
        offset, length = byte_range(change, diff.volume_bytes)
        totals[change.kind] += length
        print(f"{_WORDS[change.kind]}  {offset:>15}  {length:>15}")
    said = ", ".join(f"{format_size(totals[kind])} {words}" for kind, words in _TOTALS.items() if totals[kind])
    print(f"from {describe(diff.start)} to {describe(diff.end)}: {said or 'nothing has changed'}")


def _print_map(diff: _Diff, has_file: bool) -> None:
    separator = "["
    for change in diff.changes():
        print(separator + json.dumps(_map_entry(change, diff.volume_bytes, has_file)), end="")
        separator = ",\n"
    print("]" if separator != "[" else "[]")


def _map_entry(change: Change, volume_bytes: int, has_file: bool) -> dict[str, Any]:
    """In the form of `qemu-img map --output=json`."""
    offset, length = byte_range(change, volume_bytes)
    entry: dict[str, Any] = {
        "start": offset,
        "length": length,
        "depth": 0,
        "present": True,
        "zero": change.kind is not Kind.DATA,
        "data": change.kind is not Kind.HOLE,
        "compressed": False,
    }
    if has_file and change.kind is Kind.DATA:
        entry["offset"] = offset
    return entry
