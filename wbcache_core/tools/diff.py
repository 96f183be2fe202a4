# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache diff`: what changed from one moment to another, as a list, and as a file with just that."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.new_file import new_file, refuse_existing, write_all
from wbcache_core.errors import ConfigError, LogRefusedError, WbcacheError
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import describe
from wbcache_core.server.control.client import ask, is_socket
from wbcache_core.server.history import Facts
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import tell
from wbcache_core.units import MIB, format_size
from wbcache_core.volume.changed_extents import WORDS, Change, Kind, byte_range

_TOTALS = {"data": "of data", "zero": "of zeros", "hole": "of holes"}


class _Extent(NamedTuple):
    """Bytes that have changed, and what they are at the end."""

    offset: int
    length: int
    kind: str


def run_diff(path: str, start: str, end: str, origin: str | None, raw: str | None, as_json: bool) -> int:
    """Print it; returns the exit status. Raises WbcacheError if the log cannot be examined, a server refuses, or the
    moments are invalid."""
    if is_socket(path):
        return _run_live(path, start, end, origin, raw, as_json)
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
            _print_map(diff.extents(), bool(raw))
        else:
            _print_list(diff.extents(), describe(diff.start), describe(diff.end))
    return 0


def _run_live(socket: str, start: str, end: str, origin: str | None, raw: str | None, as_json: bool) -> int:
    """The list of a running server."""
    if raw or origin:
        raise ConfigError(
            f"'{socket}' is the socket of a running server, which has its origin and gives a list only: leave out "
            f"{'--raw' if raw else '--origin'}; for the data, copy the export '@{start}..{end}' of the server, as "
            "wbcache(1) says under diff"
        )
    first = ask(socket, "diff", start=start, end=end)
    if as_json:
        _print_map(_live_extents(socket, first), False)
    else:
        before, after = (f"generation {one['generation']} ({one['time']})" for one in (first["start"], first["end"]))
        _print_list(_live_extents(socket, first), before, after)
    return 0


def _live_extents(socket: str, page: Facts) -> Iterator[_Extent]:
    """Those of one page after another; a generation that is gone by then is an error. Raises ControlError."""
    numbers = {name: str(page[name]["generation"]) for name in ("start", "end")}
    while True:
        yield from (_Extent(one["offset"], one["length"], one["kind"]) for one in page["extents"])
        if page["next"] is None:
            return
        page = ask(socket, "diff", **numbers, offset=page["next"])


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
        return any(change.kind is Kind.ON_ORIGIN for change in self._history.changes(self._changed, self._then))

    def changes(self) -> Iterator[Change]:
        """In order; reads the origin if that is needed."""
        return self._history.changes(self._changed, self._then, self.origin)

    def extents(self) -> Iterator[_Extent]:
        """The same in bytes."""
        return (_Extent(*byte_range(change, self.volume_bytes), WORDS[change.kind]) for change in self.changes())

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


def _print_list(extents: Iterator[_Extent], start: str, end: str) -> None:
    totals = dict.fromkeys(_TOTALS, 0)
    for offset, length, kind in extents:
        totals[kind] += length
        print(f"{kind}  {offset:>15}  {length:>15}")
    said = ", ".join(f"{format_size(totals[kind])} {words}" for kind, words in _TOTALS.items() if totals[kind])
    print(f"from {start} to {end}: {said or 'nothing has changed'}")


def _print_map(extents: Iterator[_Extent], has_file: bool) -> None:
    separator = "["
    for extent in extents:
        print(separator + json.dumps(_map_entry(extent, has_file)), end="")
        separator = ",\n"
    print("]" if separator != "[" else "[]")


def _map_entry(extent: _Extent, has_file: bool) -> dict[str, Any]:
    """In the form of `qemu-img map --output=json`."""
    entry: dict[str, Any] = {
        "start": extent.offset,
        "length": extent.length,
        "depth": 0,
        "present": True,
        "zero": extent.kind != WORDS[Kind.DATA],
        "data": extent.kind != WORDS[Kind.HOLE],
        "compressed": False,
    }
    if has_file and extent.kind == WORDS[Kind.DATA]:
        entry["offset"] = extent.offset
    return entry
