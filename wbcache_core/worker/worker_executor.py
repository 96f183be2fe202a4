# SPDX-License-Identifier: BSD-3-Clause
"""Has batches carried out by a worker, and by an executor in this process where there is none."""

import logging
import time
from collections.abc import Callable
from typing import Any

from wbcache_core.errors import DamagedPageError, WorkerLostError
from wbcache_core.flow.batch_executor import BatchExecutor, Loaded, Written
from wbcache_core.memory.segment_table import Located
from wbcache_core.worker.process import Worker

_log = logging.getLogger("wbcache")

_IDLE_SECONDS = 60.0
"""A worker with nothing to do for this long is ended: it takes memory."""
_MOST_LOST = 3
"""After this many lost workers in a row, without a batch that was completed, something is wrong with workers."""
_REST_SECONDS = 300.0
"""For so long batches are carried out here then, or when no worker can be started."""


class WorkerExecutor:
    """See BatchExecutor. For one thread, which also ends the workers."""

    def __init__(self, start: Callable[[], Worker], direct: BatchExecutor) -> None:
        """start() raises OSError, WorkerLostError and RuntimeError; `direct` is for batches without a worker."""
        self._start = start
        self._direct = direct
        self._worker: Worker | None = None
        self._is_direct = False
        """Whether the present batch is carried out here."""
        self._lost = 0
        self._rests_until = 0.0
        self._used_at = 0.0
        self._is_clean = True
        """The worker has no memory of a batch to release."""
        self.origin_bytes = direct.origin_bytes

    @property
    def settles_at(self) -> float:
        return self._direct.settles_at

    @property
    def check_seconds(self) -> float:
        return _IDLE_SECONDS if self._worker else self._direct.check_seconds

    def check_idle(self) -> None:
        if self._worker and time.monotonic() - self._used_at > _IDLE_SECONDS / 2:
            self._end_worker()
        self._direct.check_idle()

    def be_patient(self) -> None:
        self._direct.be_patient()

    def load(self, segments: list[Located], end: int) -> Loaded:
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
        written: Written = self._ask("write", postponed, watched, depth)
        self._lost = 0
        return written

    def sample(self, block: int) -> int | None:
        return self._direct.sample(block)

    def release(self) -> None:
        self._direct.release()
        if self._worker and not self._is_clean:
            self._is_clean = True
            try:
                self._ask("release")
            except WorkerLostError as error:
                _log.warning("%s; nothing is lost", error)

    def close(self) -> None:
        self._end_worker()
        self._direct.close()

    def _has_worker(self) -> bool:
        """Start one if there is none. False while they rest. Raises WorkerLostError."""
        if self._worker is None and time.monotonic() >= self._rests_until:
            try:
                self._worker = self._start()
            except WorkerLostError as error:
                self._note_lost(error)
                raise
            except (OSError, RuntimeError) as error:
                self._rest(f"cannot start the process that writes to the origin: {error}")
        return self._worker is not None

    def _ask(self, name: str, *arguments: object) -> Any:
        assert self._worker
        self._used_at = time.monotonic()
        try:
            return self._worker.ask(name, *arguments)
        except WorkerLostError as error:
            self._note_lost(error)
            raise
        finally:
            if self._worker.has_ended:
                # So whoever comes next is the only one that writes.
                self._worker = None

    def _note_lost(self, error: WorkerLostError) -> None:
        self._lost += 1
        if self._lost >= _MOST_LOST:
            self._rest(str(error))

    def _rest(self, why: str) -> None:
        self._rests_until = time.monotonic() + _REST_SECONDS
        self._lost = 0
        _log.warning("%s; for %.0f s the server does that itself, which slows requests down", why, _REST_SECONDS)

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            worker.end()
