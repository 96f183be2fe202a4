# SPDX-License-Identifier: BSD-3-Clause
"""Has batches carried out by a worker, and by an executor in this process where there is none."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from wbcache_core.errors import DamagedPageError, NoConnectionError, WorkerLostError
from wbcache_core.flow.batch_executor import DirectExecutor, Loaded, Written
from wbcache_core.memory.segment_table import Located
from wbcache_core.worker.process import Worker

_log = logging.getLogger("wbcache")

_IDLE_SECONDS = 60.0
"""A worker with nothing to do for this long is ended: it takes memory."""
_MOST_LOST = 3
"""After this many lost workers in a row, without a batch that was completed, something is wrong with workers."""
_REST_SECONDS = 300.0
"""For so long batches are carried out here then, or when no worker can be started."""
_LONGEST_REST_SECONDS = 3600.0
"""The rest becomes twice as long each time that an NBD origin has a connection for the server and none for a worker."""


class WorkerExecutor:
    """See BatchExecutor. For one thread, which also ends the workers; be_patient() and why_here for any."""

    def __init__(
        self, start: Callable[[Callable[[], bool]], Worker], direct: DirectExecutor, obstacle: Callable[[], str]
    ) -> None:
        """start(is_patient) raises OSError, WorkerLostError and RuntimeError; `direct` is for batches without a worker;
        obstacle() says why there must be none, or nothing."""
        self._start = start
        self._direct = direct
        self._obstacle = obstacle
        self._worker: Worker | None = None
        self._is_direct = False
        """Whether the present batch is carried out here."""
        self._loaded: tuple[list[Located], int] = ([], 0)
        """The arguments of the last load()."""
        self._lost = 0
        self._rests_until, self._rests_why = 0.0, ""
        self._next_rest = _REST_SECONDS
        self._used_at = 0.0
        self._is_clean = True
        """The worker has no memory of a batch to release."""
        # A worker that has ended must not keep the ring: it refers to this, and not to the executor.
        self._patience = threading.Event()
        self._reported = ""
        self.origin_bytes = direct.origin_bytes

    @property
    def settles_at(self) -> float:
        return self._direct.settles_at

    @property
    def why_here(self) -> str:
        return self._obstacle() or (self._rests_why if time.monotonic() < self._rests_until else "")

    @property
    def check_seconds(self) -> float:
        return min(_IDLE_SECONDS if self._worker else float("inf"), self._direct.check_seconds)

    def check_idle(self) -> None:
        if self._worker and time.monotonic() - self._used_at > _IDLE_SECONDS - self.check_seconds / 2:
            self._end_worker()
        elif self._worker and self._direct.check_seconds < float("inf"):
            self._tell("check_idle")
        self._direct.check_idle()

    def be_patient(self) -> None:
        self._patience.set()
        self._direct.be_patient()

    def load(self, segments: list[Located], end: int) -> Loaded:
        self._loaded = segments, end
        self._is_direct = not self._has_worker()
        if not self._is_direct:
            self._is_clean = False
            try:
                loaded: Loaded = self._ask("load", segments, end)
                self._is_direct = bool(loaded.bad_pages)
            except DamagedPageError:
                self._is_direct = True
        # The worker knows only the log. What is damaged there may still be intact in memory.
        return self._direct.load(segments, end) if self._is_direct else loaded

    def leave_out(self, blocks: list[int]) -> None:
        assert self._is_direct
        self._direct.leave_out(blocks)

    def write(self, postponed: list[int], watched: list[int], depth: int) -> Written:
        if self._is_direct:
            return self._direct.write(postponed, watched, depth)
        # What this process, or an earlier worker, has abandoned on the origin.
        self._direct.prepare(depth)
        try:
            written: Written = self._ask("write", postponed, watched, depth)
        except NoConnectionError as error:
            return self._write_here(error, postponed, watched, depth)
        self._lost = 0
        self._next_rest = _REST_SECONDS
        return written

    def _write_here(
        self, error: NoConnectionError, postponed: list[int], watched: list[int], depth: int
    ) -> Written:
        """The worker gets no connection. If this process has one, the server accepts no more of them. Raises what
        write() does."""
        self._is_direct = True
        if self._direct.load(*self._loaded).bad_pages:
            # Damaged since the worker read them: that is for the next attempt.
            raise error
        written = self._direct.write(postponed, watched, depth)
        self._end_worker()
        self._rest(str(error), self._next_rest)
        self._next_rest = min(2 * self._next_rest, _LONGEST_REST_SECONDS)
        return written

    def sample(self, block: int) -> int | None:
        return self._direct.sample(block)

    def release(self) -> None:
        self._direct.release()
        self._loaded = [], 0
        if self._worker and not self._is_clean:
            self._is_clean = True
            self._tell("release")

    def close(self) -> None:
        self._end_worker()
        self._direct.close()

    def _has_worker(self) -> bool:
        """Start one if there is none. False while they rest. Raises WorkerLostError."""
        if self._worker is None and not self._is_hindered() and time.monotonic() >= self._rests_until:
            try:
                self._worker = self._start(self._patience.is_set)
            except WorkerLostError as error:
                self._note_lost(error)
                raise
            except (OSError, RuntimeError) as error:
                self._rest(f"cannot start the process that writes to the origin: {error}")
        return self._worker is not None

    def _is_hindered(self) -> bool:
        """Whether there must be no worker; reports why, once."""
        why = self._obstacle()
        if why and why != self._reported:
            _log.info("the server itself writes to the origin: %s", why)
        self._reported = why
        return bool(why)

    def _ask(self, name: str, *arguments: object) -> Any:
        self._used_at = time.monotonic()
        try:
            return self._exchange(name, *arguments)
        except WorkerLostError as error:
            self._note_lost(error)
            raise

    def _tell(self, name: str) -> None:
        """What the worker is told between batches, when nothing is under way."""
        try:
            self._exchange(name)
        except WorkerLostError as error:
            self._note_lost(error)
            _log.warning("%s; nothing is lost", error)

    def _exchange(self, name: str, *arguments: object) -> Any:
        """Raises what the request raises there, WorkerLostError."""
        assert self._worker
        try:
            return self._worker.ask(name, *arguments)
        finally:
            self._direct.settle_until(self._worker.settles_at)
            if self._worker.has_ended:
                # So whoever comes next is the only one that writes.
                self._worker = None
                if name == "write":
                    # In the middle: any request of the batch may be under way.
                    self._direct.suspect_requests(time.monotonic())

    def _note_lost(self, error: WorkerLostError) -> None:
        self._lost += 1
        if self._lost >= _MOST_LOST:
            self._rest(str(error))

    def _rest(self, why: str, seconds: float = _REST_SECONDS) -> None:
        self._rests_until, self._rests_why = time.monotonic() + seconds, why
        self._lost = 0
        _log.warning("%s; for %.0f s the server does that itself, which slows requests down", why, seconds)

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            worker.end()
