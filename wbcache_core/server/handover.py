# SPDX-License-Identifier: BSD-3-Clause
"""Empties a log whose origin goes on without it, in a pause of which clients notice nothing else.

What must hold at the end of begin(), and then does until the process ends:

- nobody can change the volume through this line: whoever tries waits;
- the origin has everything, durably, and a superblock says so;
- no past moment can be opened, since the origin is no longer going to be any of them.
"""

import logging
import time

from wbcache_core.device.device import Device
from wbcache_core.errors import ControlError, DeviceError, OriginFailedError, StoppedError
from wbcache_core.flow.admission import check_writable
from wbcache_core.flow.failure import raise_if_log_failed
from wbcache_core.flow.retention import Pins
from wbcache_core.flow.tags import Tags
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.pairing import fingerprint

_log = logging.getLogger("wbcache")

_LOOK_SECONDS = 0.5


def check_past(pins: Pins, is_given_up: bool) -> None:
    """Raises ControlError if somebody needs a past moment that is not given up. Lock held."""
    tags, count = pins.tags, len(pins.snapshots)
    if is_given_up or not (tags or count):
        return
    names = ", ".join(f"tag '{tag.name}'" for tag in tags)
    opened = f"{count} open snapshots" if count else ""
    raise ControlError(
        f"past moments go with the log, and some are needed: {', '.join(filter(None, (names, opened)))}; "
        "remove or close them first, or add --force"
    )


class HandOver:
    """Has no state of its own: `NumberLine.is_handing_over` and `is_replaced` are all there is."""

    def __init__(self, line: NumberLine, pins: Pins, tags: Tags, table: SegmentTable, origin: Device) -> None:
        self.origin = origin
        """For whoever serves it next."""
        self._line = line
        self._pins = pins  # guarded by the volume lock
        self._tags = tags
        self._table = table  # guarded by the volume lock

    def give_up_past(self, is_wanted: bool) -> None:
        """Remove all tags, and end all open snapshots, or refuse if there are any. Raises ControlError, DeviceError."""
        with self._line.lock:
            check_past(self._pins, is_wanted)
            tags = self._pins.tags
        for tag in tags:
            self._tags.remove(tag.name)
        with self._line.lock:
            self._pins.end_snapshots()

    def begin(self, patience: float) -> None:
        """See the module. Raises ControlError and RequestError, after so many seconds at the latest if the origin is
        the reason; then everything goes on as before."""
        line = self._line
        with line.lock:
            if line.quiesced:
                raise ControlError("the volume is quiesced: end that first (wbcache resume)")
            check_writable(line)
            line.is_handing_over = True
            line.refresh_limits()
            try:
                self._wait(time.monotonic() + patience, patience)
                # Also the last generation, which is the origin as it is now.
                self._pins.pass_to(line.head + 1)
            except BaseException:
                line.is_handing_over = False
                line.refresh_limits()
                line.moved.notify_all()
                raise

    def _wait(self, deadline: float, patience: float) -> None:
        """Return when the origin has everything. Lock held; released while waiting."""
        line = self._line
        while True:
            raise_if_log_failed(line)
            if line.stopping:
                raise StoppedError("the server is shutting down")
            if line.origin_incomplete:
                raise OriginFailedError(f"the origin cannot take everything: {line.origin_incomplete}")
            if line.destaged == line.head:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                why = line.commits.error or line.origin_error or "it takes too long"
                raise OriginFailedError(
                    f"the origin could not get everything within {patience:.0f} s, in which changes waited: {why}; "
                    "everything goes on as before"
                )
            line.origin_target = max(line.origin_target, line.head)
            line.request_commit()
            line.destage_wanted.notify()
            line.moved.wait(min(left, _LOOK_SECONDS))

    def read_from_origin(self) -> None:
        """Requests that are still reading find nothing in ring and log any more. The threads have ended."""
        line = self._line
        with line.lock:
            line.oldest = line.ring_start = line.head
            self._table.drop_below(line.head)

    def note_in_log(self, store: SuperblockStore) -> None:
        """Let both superblocks say that nothing is left, and that the origin is not going to stay as it is. A failure
        is only reported: the newer of them already says that the origin has everything."""
        line = self._line
        try:
            for _ in range(2):
                store.write(
                    oldest=line.oldest, oldest_place=line.destaged_place, committed=line.committed, tags=(),
                    samples=fingerprint.UNKNOWN,
                )  # fmt: skip
        except DeviceError as error:
            _log.warning("detaching the log: %s; nothing is lost", error)

    def finish(self) -> None:
        """Changes that wait, and all that still come, start over on what has taken the volume's place."""
        with self._line.lock:
            self._line.is_replaced = True
            self._line.moved.notify_all()
