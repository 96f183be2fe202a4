# SPDX-License-Identifier: BSD-3-Clause
"""What a server is while no log is attached: the origin, served as it is. In the place of a Cache.

There are no past moments, nothing is dirty, and nothing can be drained.
"""

import logging
import threading

from wbcache_core.device.device import Device
from wbcache_core.errors import ControlError, DeviceError, OutsideWindowError, RequestError, StoppedError
from wbcache_core.format.superblock import Tag
from wbcache_core.memory.generations import Generation
from wbcache_core.server import history
from wbcache_core.server.history import Facts
from wbcache_core.server.lasting import Lasting
from wbcache_core.server.log_segments import LogSegments
from wbcache_core.server.status import Counters, nothing
from wbcache_core.volume.comparison import Comparison
from wbcache_core.volume.direct import DirectVolume
from wbcache_core.volume.snapshot import Snapshot

_log = logging.getLogger("wbcache")

_NO_LOG = "no log is attached, everything is on the origin"
DETACHED = "detached"
"""The `state` in what status() returns."""


class Bypass:
    """`_lock` guards `_interrupts`; `_finishing` guards `_is_finished` and `_is_unfinished`. The origin belongs to this
    object until a log is attached."""

    missing_log = ""

    def __init__(self, origin: Device, lasting: Lasting, volume_id: str) -> None:
        """`volume_id` is that of the last log; the origin has none."""
        self.events, self.settings = lasting.events, lasting.settings
        self.volume = DirectVolume(origin, lasting.counters, self.settings.ack)
        self.owns_origin = True
        """Whether a stop interrupts the origin and closes it."""
        self.origin = origin
        self._counters = lasting.counters
        self._volume_id = volume_id
        self._lock = threading.Lock()
        self._finishing = threading.Lock()
        """Held while the stop syncs."""
        self._interrupts = 0
        self._is_finished = self._is_unfinished = False
        self._settled = threading.Event()

    @property
    def is_writable(self) -> bool:
        return True

    @property
    def can_trim(self) -> bool:
        """Whether to offer trim to clients."""
        return self.origin.can_trim

    def activate(self) -> None:
        """Nothing is to be prepared. Raises StoppedError."""
        self.check_not_stopping()

    def check_not_stopping(self) -> None:
        """Raises StoppedError."""
        if self._interrupts:
            raise StoppedError("the server is shutting down")

    def window_ends(self) -> tuple[Generation | None, Generation | None, tuple[Tag, ...]]:
        """None, and no tags."""
        return None, None, ()

    def history(self, _: history.Query) -> Facts:
        """That there is none."""
        return history.describe(None, ())

    def open_export(self, _: str) -> Snapshot | Comparison:
        """Raises OutsideWindowError."""
        raise OutsideWindowError(f"there are no past moments: {_NO_LOG}")

    def resolve(self, _: str) -> tuple[Generation, ...]:
        """Raises OutsideWindowError."""
        raise OutsideWindowError(f"there are no past moments: {_NO_LOG}")

    def compare(self, _: str, __: str) -> Comparison:
        """Raises OutsideWindowError."""
        raise OutsideWindowError(f"there are no past moments: {_NO_LOG}")

    @property
    def log_segments(self) -> LogSegments:
        """Raises OutsideWindowError."""
        raise OutsideWindowError(f"there are no segments of a log: {_NO_LOG}")

    def tag(self, _: str, __: str | None = None) -> Tag:
        """Raises OutsideWindowError."""
        raise OutsideWindowError(f"there are no moments to tag: {_NO_LOG}")

    def untag(self, _: str) -> None:
        """Raises OutsideWindowError."""
        raise OutsideWindowError(f"there are no tags: {_NO_LOG}")

    def give_up(self, _: int, __: int) -> tuple[int, bool]:
        """Raises ControlError."""
        raise ControlError(f"there is nothing to give up: {_NO_LOG}")

    def begin_drain(self) -> Facts:
        """Raises ControlError."""
        raise ControlError(f"there is nothing to drain: {_NO_LOG}")

    def cancel_drain(self) -> Facts:
        """Raises ControlError."""
        raise ControlError(f"there is no drain: {_NO_LOG}")

    def quiesce(self, patience: float = 60.0) -> Facts:
        """Have all changes wait until resume(), and make what was answered durable. Raises RequestError: then nothing
        waits."""
        self.volume.quiesce(True)
        try:
            self.volume.await_changes(patience)
            self.volume.sync()
        except BaseException:
            self.volume.quiesce(False)
            raise
        return self._quiesce_facts()

    def resume(self) -> Facts:
        """End that. Raises StoppedError."""
        self.volume.quiesce(False)
        return self._quiesce_facts()

    def _quiesce_facts(self) -> Facts:
        is_quiesced = self.volume.is_quiesced
        return {"quiesced": is_quiesced, "waiting": self.volume.waiting if is_quiesced else 0}

    def status(self) -> Facts:
        """As of a Cache, with zeros where there is nothing, and an empty name of the log."""
        loss = self.volume.loss
        facts = nothing()
        facts["state"] = "stopping" if self._interrupts else "quiesced" if self.volume.is_quiesced else DETACHED
        facts["errors"]["origin"] = str(loss) if loss else None
        names = {"origin": self.origin.name, "log": "", "volume": self._volume_id}
        return names | facts | {"quiesce": self._quiesce_facts(), "counters": self._counters.facts()}

    def counters(self) -> Counters:
        """Nothing grows."""
        return Counters(0, 0, 0)

    def prepare_to_attach(self, patience: float) -> None:
        """Have changes wait until go_on() or let_go(); return when none is in progress and the origin has all of them.

        Raises ControlError, RequestError; then everything goes on as before.
        """
        if self.volume.is_quiesced:
            raise ControlError("the volume is quiesced: end that first (wbcache resume)")
        self.volume.hand_over(True)
        try:
            self.volume.await_changes(patience)
            self.volume.sync()
        except BaseException:
            self.go_on()
            raise

    def go_on(self) -> None:
        """No log is attached after all."""
        self.volume.hand_over(False)

    def let_go(self) -> None:
        """Something else has taken the volume's place, and has the origin."""
        self.volume.let_go()

    def interrupt(self) -> None:
        """The server is about to stop: changes end. Called again, it gives up what the origin does not do."""
        with self._lock:
            self._interrupts += 1
        self.volume.stop()
        if self._interrupts > 1 and self.owns_origin:
            self.origin.interrupt()

    def finish(self) -> None:
        """Make what was answered durable on the origin. Idempotent; failures are logged."""
        if not self._interrupts:
            self.interrupt()
        with self._finishing:
            if not self._is_finished:
                self._is_unfinished = not self._sync()
                self._is_finished = True
        self._settled.set()

    def _sync(self) -> bool:
        if not self.volume.is_unsynced:
            return True
        try:
            self.volume.sync()
            return True
        except (RequestError, DeviceError) as error:
            _log.error("stopping: %s; what was written since the last flush may not be on the origin", error)
            return False

    @property
    def is_unfinished(self) -> bool:
        """After finish(): what was answered may not be on the origin."""
        return self._is_unfinished

    @property
    def is_settled(self) -> bool:
        """After interrupt(): what was answered is on the origin, or cannot be."""
        return self._settled.is_set()

    def wait_until_settled(self) -> None:
        """Return when is_settled. Call it only if finish() has been called, or will be by another thread."""
        self._settled.wait()

    def stop(self) -> None:
        """finish() and close the origin. Idempotent."""
        self.finish()
        if self.owns_origin:
            self.origin.close()
