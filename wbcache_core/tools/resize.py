# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache resize`: lets a log have the size that its origin has now, larger or smaller, and keeps what it holds.

A start does the same for an origin that has grown. One that has become smaller
it refuses: it may just as well have been cut short.
"""

import json
import sys
from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import ReadOnlyError, UncommittedError, WbcacheError, WrongPairError
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.takeover import FoundData, take_over
from wbcache_core.pairing import fingerprint, pairing
from wbcache_core.pairing.mark import DIRTY, OriginSide
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.tools.offline_devices import opened_origin
from wbcache_core.tools.standard_streams import say, tell
from wbcache_core.units import PAGE_SHIFT
from wbcache_core.volume.changed_extents import Kind, byte_range


def run_resize(path: str, origin: str, force: Collection[str], yes: bool, as_json: bool) -> int:
    """Print what is to be done, or has been; returns the exit status. Raises WbcacheError if log or origin cannot be
    examined."""
    with ExitStack() as stack:
        log = FileDevice(path, "log", direct=True, read_only=not yes)
        stack.callback(log.close)
        device = stack.enter_context(opened_origin(origin, log, read_only=not yes))
        pairing.check_sizes(device, log, log.size)
        if pairing.read_log(log) is None:
            say(f"log '{path}' is blank: a server formats it for the origin that it starts with")
            return 0
        resize = Resize(log, device, force)
        if yes and resize.is_needed:
            try:
                resize.perform()
            except WbcacheError as error:
                tell(f"wbcache: {error}; when the cause is gone, run the same command again")
                return 1
    _report(resize, yes, as_json)
    return 0


def _report(resize: "Resize", yes: bool, as_json: bool) -> None:
    facts = resize.facts() | {"done": yes or not resize.is_needed}
    if as_json:
        json.dump(facts, sys.stdout, indent=2)
        print()
        return
    names = f"log '{facts['log']}'", f"origin '{facts['origin']}'"
    if not resize.is_needed:
        say(f"{names[0]} is for {facts['bytes']} bytes, as many as {names[1]} has: there is nothing to do")
        return
    verb = "has become smaller" if facts["bytes"] < facts["recorded_bytes"] else "has grown"
    say(f"{names[1]} {verb}, from {facts['recorded_bytes']} to {facts['bytes']} bytes")
    dirty = f"{facts['dirty_bytes']} bytes that the origin lacks, all of them within it"
    say(f"{names[0]} holds {dirty if facts['dirty_bytes'] else 'nothing that the origin lacks'}")
    if resize.past_is_gone:
        say("others have written to the origin: past moments and tags are gone")
    else:
        counts = f"{facts['generations']}, with a tag: {facts['tags']}"
        say(f"past moments can be opened as before, with the new size: {counts}")
    say(
        f"{names[0]} is for {facts['bytes']} bytes now" if yes
        else "nothing has been changed; to let the log have this size, add --yes"
    )  # fmt: skip


class Resize:
    """A log, and the origin whose size it is to have. Writes nothing before perform()."""

    def __init__(self, log: Device, origin: Device, force: Collection[str]) -> None:
        """Raises LogRefusedError, DeviceError."""
        self._log, self._origin = log, origin
        self._history = history = LogHistory(log)
        self._recorded = history.superblock
        history.check_no_copy()
        if self._recorded.has_own_origins and origin.size < self._recorded.origin_bytes:
            raise WrongPairError(
                f"origin '{origin.name}' has become smaller, and each host of this volume has one of its own: nothing "
                "has been changed; restore the old size; or bring this one up to date (wbcache replay), make all of "
                "them smaller, and start all hosts with force=discard-log"
            )
        if history.uncommitted:
            raise UncommittedError(
                f"{history.uncommitted}; nothing has been changed; let a server or replay take them over first, or "
                "remove that file to give them up"
            )
        self._side = side = OriginSide.of(origin)
        self._is_dirty = history.recovered.head > self._recorded.destaged
        pairing.check_mark(side, self._recorded.uuid, log.name, force)
        self.past_is_gone = pairing.is_origin_changed(
            self._recorded, side, origin, log, history.recovered.locations, self._is_dirty, force
        )  # fmt: skip
        if self.past_is_gone:
            pairing.check_is_only_origin(self._recorded, origin, force)
        self._check_nothing_is_cut_off()

    @property
    def is_needed(self) -> bool:
        return self._origin.size != self._recorded.origin_bytes

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        recovered = self._history.recovered
        return {
            "log": self._log.name, "origin": self._origin.name, "recorded_bytes": self._recorded.origin_bytes,
            "bytes": self._origin.size, "dirty_bytes": recovered.head - self._recorded.destaged << PAGE_SHIFT,
            "past_is_gone": self.past_is_gone, "generations": len(recovered.covered.generations),
            "tags": len(self._recorded.tags),
        }  # fmt: skip

    def _check_nothing_is_cut_off(self) -> None:
        """Whatever the origin lacks, and whatever any past moment needs from the log, is in this map: all of it was
        written since `destaged`. Raises WrongPairError."""
        if self._origin.size >= self._recorded.origin_bytes:
            return
        locations, end = self._history.recovered.locations, self._origin.size
        data = cleared = 0
        for change in self._history.changes(locations, locations):
            offset, length = byte_range(change, self._recorded.origin_bytes)
            beyond = max(offset + length - max(offset, end), 0)
            if change.kind is Kind.DATA:
                data += beyond
            else:
                cleared += beyond
        if data or cleared:
            raise WrongPairError(
                f"origin '{self._origin.name}' has become smaller, from {self._recorded.origin_bytes} to {end} bytes, "
                f"and log '{self._log.name}' holds {data} bytes of data, and {cleared} that were trimmed or zeroed, "
                f"for what is beyond its end; nothing has been changed; restore the old size, bring the origin up to "
                f"date (wbcache replay '{self._log.name}' '{self._origin.name}'), make it smaller again, and run this "
                "again"
            )

    def perform(self) -> None:
        """Durable when it returns. After a DeviceError both superblocks say what is true of the origin as it was or as
        it is, and it may be run again. Raises DeviceError, ReadOnlyError."""
        if not self._log.writable:
            raise ReadOnlyError(f"log '{self._log.name}' cannot be written, and it is where the size is recorded")
        recorded, recovered, origin = self._recorded, self._history.recovered, self._origin
        sizes: dict[str, Any] = {
            "origin_bytes": origin.size, "samples": fingerprint.take(origin), "origin_name": origin.name,
            "origin_facts": self._side.facts,
        }  # fmt: skip
        past = {"batch_end": recovered.head, "tags": ()} if self.past_is_gone else {}
        cursors = {"oldest": recorded.destaged, "oldest_place": recorded.destaged_place, "committed": recovered.head}
        store = SuperblockStore(self._log, self._history.slots)
        take_over(self._log, store, FoundData(), recovered.end.place, **cursors, **sizes, **past)
        if self._is_dirty:
            # It may be another file, as with force=origin-moved.
            self._side.put(recorded.uuid, self._log.name, DIRTY)
