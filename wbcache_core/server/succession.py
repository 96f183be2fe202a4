# SPDX-License-Identifier: BSD-3-Clause
"""Another log takes the place of one that has failed, with everything that the origin lacks.

In this order, so that at every moment the log that the origin's mark names has everything:

1. changes wait, and nobody writes to the origin any more;
2. the other log gets the newest version of each block that the origin lacks, as one generation, and is synced;
3. the mark on the origin names the other log: from here on the failed one is refused;
4. the other log is served; only then the memory of the failed one is given up.

The origin is not touched. It may have parts of a batch, all of which is in the other log too; so no moment before the
end of that generation can be opened there.
"""

import logging
from collections.abc import Callable

from wbcache_core.device.device import Device
from wbcache_core.errors import ControlError, LogFailedError, LogFullError, OriginFailedError, StoppedError
from wbcache_core.flow.destager import Destager
from wbcache_core.flow.failure import fail
from wbcache_core.flow.retention import Pins
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.pairing.mark import DIRTY, OriginSide
from wbcache_core.server.dirty_content import DirtyContent
from wbcache_core.server.handover import check_past
from wbcache_core.server.new_log import NewLog
from wbcache_core.units import PAGE_SHIFT, format_size
from wbcache_core.volume.one_generation import OneGeneration

_log = logging.getLogger("wbcache")

_FIRST_LSN = 1


class Succession:
    """Has no state of its own: `NumberLine.is_handing_over` and the mark are all there is."""

    def __init__(
        self, line: NumberLine, pins: Pins, content: DirtyContent, destager: Destager, origin: Device, volume: bytes,
        log: str,
    ) -> None:  # fmt: skip
        self.line = line
        """For whoever goes on with it after a failure."""
        self._pins = pins  # guarded by the volume lock
        self._content = content
        self._destager = destager
        self.origin = origin
        """For whoever serves it next."""
        self._volume = volume
        self._log = log

    @property
    def is_needed(self) -> bool:
        """Whether the log has failed, for good or for now: what it lacks cannot be committed."""
        return bool(self.line.log_error or self.line.commits.error)

    def check_not_failed(self) -> None:
        """Raises LogFailedError, with what can be done."""
        error = self.line.log_error
        if error:
            raise LogFailedError(
                f"{error}; a log that has failed cannot be detached, because the origin lacks what only log and memory "
                "have: attach another log first, for which a file is enough, then detach that one",
                error.errno_value,
            )

    def begin(self, patience: float, ends_past: bool) -> None:
        """Step 1. Raises ControlError, RequestError; then changes go on as before.

        A log whose writes fail for now is given up for good.
        """
        line = self.line
        with line.lock:
            self._check(ends_past)
            line.is_handing_over = True
            line.refresh_limits()
            error = line.commits.error
        try:
            if not line.log_error:
                fail(line, LogFailedError(
                    f"{error}; the log has been given up for another one: attach one (wbcache attach)",
                    error.errno_value if error else 0,
                ))  # fmt: skip
            with line.lock:
                # It may be asleep.
                line.destage_wanted.notify()
            if not self._destager.join(patience):
                raise OriginFailedError(
                    f"requests to origin '{self.origin.name}' have not been carried out for {patience:.0f} s; "
                    "nothing has been changed; try again"
                )
        except BaseException:
            self.go_on()
            raise

    def go_on(self) -> None:
        """No log has taken this one's place."""
        line = self.line
        with line.lock:
            line.is_handing_over = False
            line.refresh_limits()
            line.moved.notify_all()

    def _check(self, ends_past: bool) -> None:
        """Raises ControlError, StoppedError. Lock held."""
        line = self.line
        if line.stopping:
            raise StoppedError("the server is shutting down")
        if line.quiesced:
            raise ControlError("the volume is quiesced: end that first (wbcache resume)")
        if line.writes_ended:
            raise ControlError("a write failed half-way: no log can be attached; start the server again")
        check_past(self._pins, ends_past)

    def fill(self, new: NewLog) -> None:
        """Step 2. Raises ControlError, LogFullError, StoppedError, and DeviceError if the other log fails."""
        generation = OneGeneration(_FIRST_LSN, self._content.changes, self._content.read)
        amount = generation.count()
        is_empty = not (amount.pages or amount.cleared)
        end = _FIRST_LSN if is_empty else _FIRST_LSN + amount.lsns
        if amount.lsns > new.room:
            raise LogFullError(
                f"the origin lacks {format_size(amount.lsns << PAGE_SHIFT)}, and log '{new.name}' has room for "
                f"{format_size(max(new.room, 0) << PAGE_SHIFT)}; nothing has been changed; name a larger log"
            )
        # The origin has, or may have, parts of what follows, and is itself no moment of the volume.
        new.format(batch_end=end)
        if not is_empty:
            new.append_whole(generation, self._check_running)
            new.note_committed(end)
        _log.info(
            "log '%s' has everything that the origin lacks: %s in %d pages, %d cleared blocks",
            new.name, format_size(amount.pages << PAGE_SHIFT), amount.pages, amount.cleared,
        )  # fmt: skip

    def _check_running(self) -> None:
        if self.line.stopping:
            raise StoppedError("the server is shutting down")

    def switch(self, side: OriginSide, volume: bytes, log: str, serve: Callable[[], None]) -> None:
        """Steps 3 and 4: from here on the other log is the one. If `serve` fails, this one is again. Raises what it
        does, and ControlError."""
        with self.line.lock:
            # The origin is going to be none of its moments.
            self._pins.pass_to(self.line.head + 1)
        self._mark(side, volume, log)
        try:
            serve()
        except BaseException:
            # Nobody has written through the other one.
            side.put(self._volume, self._log, DIRTY)
            raise

    def check_mark(self, side: OriginSide) -> None:
        """Make sure that the origin can be marked, and that its mark names this log. Raises ControlError."""
        self._mark(side, self._volume, self._log)

    def _mark(self, side: OriginSide, volume: bytes, log: str) -> None:
        if not side.put(volume, log, DIRTY):
            raise ControlError(
                f"origin '{self.origin.name}' cannot be marked as belonging to log '{log}', so nothing would keep the "
                "failed log from being used again; nothing has been changed; see the section on the origin in "
                "docs/recovery.md"
            )
