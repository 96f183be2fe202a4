# SPDX-License-Identifier: BSD-3-Clause
"""Carries one batch to the origin: ranges first, then pages in order of blocks, several in flight, then a sync.

A fast origin is written by the calling thread alone, many requests in a call where it takes them so;
handing work to other threads pays only where a write takes longer than the hand-over.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from wbcache_core.block_device import BulkDevice, Device, PipelinedDevice, Write
from wbcache_core.destage_batch import Clear, DestageBatch
from wbcache_core.errors import DeviceError, DeviceLostError, StoppedError
from wbcache_core.units import MIB, PAGE_SHIFT

_SLOW_WRITE_SECONDS = 0.0003
_TRIALS = 4
_CLEAR_BLOCKS = 64 * MIB >> PAGE_SHIFT
"""One call zeroes at most this much: where the origin has no such call, zeros are written, and a stop has to wait."""

_BULK_PAGES = 1024
"""After this much (4 MiB) one call gets no further write: a stop waits for it."""
_PART_RUNS = 4096
"""Writes to a fast origin are made ready a few at a time: looking through all of them for garbage would take long."""

_RETRY_PAUSES = (0.05, 0.2, 0.5)
"""Seconds before what failed is tried again, before the whole batch is given up and repeated later."""
_SETTLE_POLL_SECONDS = 0.25
_MOST_FAILURES = 32
"""An origin that fails more requests than this in a batch is not tried again at once."""


class _WriteTask:
    """A write of consecutive blocks."""

    __slots__ = ("_origin", "run")

    def __init__(self, origin: Device, run: Write) -> None:
        self._origin = origin
        self.run = run

    def __call__(self) -> None:
        offset, views = self.run
        self._origin.write(views, offset)


_Task = _WriteTask | partial[None]
_Failure = tuple[_Task, DeviceError]


class OriginWriter:
    """Used by the destager's thread alone."""

    def __init__(self, origin: Device, depth: int, should_stop: Callable[[], bool]) -> None:
        """depth is the number of requests in flight; should_stop() is asked before each."""
        self._origin = origin
        self._depth = depth
        self._should_stop = should_stop
        self._pipelined = origin if isinstance(origin, PipelinedDevice) else None
        self._bulk = origin if isinstance(origin, BulkDevice) else None
        self._pool: ThreadPoolExecutor | None = None
        self.origin_bytes = origin.size

    @property
    def settles_at(self) -> float:
        """See block_device.Device."""
        return self._origin.settles_at

    def write(self, batch: DestageBatch) -> int:
        """Make the batch durable on the origin; returns the number of requests it took. Waits until it has settled.

        Raises DeviceError, and StoppedError when should_stop(); either leaves the origin in between.
        """
        self._wait_until_settled()
        clears = deque(self._clear_tasks(batch.clears))
        total = len(clears)
        self._perform(clears)
        runs = batch.runs(self._origin.size)
        while tasks := self._write_tasks(islice(runs, _PART_RUNS if self._bulk else None)):
            total += len(tasks)
            self._perform(tasks)
        self._origin.sync()
        return total

    def close(self) -> None:
        """End the helper threads."""
        if self._pool:
            self._pool.shutdown()

    def _wait_until_settled(self) -> None:
        """Raises StoppedError."""
        while (seconds := self._origin.settles_at - time.monotonic()) > 0:
            self._check_not_stopping()
            time.sleep(min(seconds, _SETTLE_POLL_SECONDS))

    def _write_tasks(self, runs: Iterable[Write]) -> deque[_Task]:
        return deque([_WriteTask(self._origin, run) for run in runs])

    def _clear_tasks(self, clears: list[Clear]) -> list[_Task]:
        tasks: list[_Task] = []
        for clear in _merged(clears):
            for block in clear.blocks[::_CLEAR_BLOCKS]:
                offset = block << PAGE_SHIFT
                blocks = min(_CLEAR_BLOCKS, clear.blocks.stop - block)
                length = min(blocks << PAGE_SHIFT, self._origin.size - offset)
                tasks.append(partial(self._origin.zero, offset, length, clear.may_trim))
        return tasks

    def _perform(self, tasks: deque[_Task]) -> None:
        """Carry out all tasks, those that failed again after a pause: within a batch their order does not matter.

        Raises what a task raised at last, at once where what was written before may be lost with it.
        """
        for pause in _RETRY_PAUSES:
            failed = self._attempt(tasks)
            if not failed:
                return
            time.sleep(pause)
            tasks = deque(task for task, _ in failed)
        failed = self._attempt(tasks)
        if failed:
            raise failed[0][1]

    def _attempt(self, tasks: deque[_Task]) -> list[_Failure]:
        """Every task once; returns those that failed. Empties tasks."""
        failed: list[_Failure] = []
        while tasks:
            if not self._is_slow(tasks, failed):
                self._attempt_in_bulk(tasks, failed)
            elif self._depth > 1:
                self._attempt_in_parallel(tasks, failed)
                break
        return failed

    def _is_slow(self, tasks: deque[_Task], failed: list[_Failure]) -> bool:
        """Attempt a few tasks; whether each of them took long. One that did has perhaps waited for something else."""
        fastest = float("inf")
        for _ in range(min(_TRIALS, len(tasks))):
            started = time.monotonic()
            self._attempt_one(tasks.popleft(), failed)
            fastest = min(fastest, time.monotonic() - started)
        return fastest > _SLOW_WRITE_SECONDS

    def _attempt_one(self, task: _Task, failed: list[_Failure]) -> None:
        self._check_not_stopping()
        try:
            task()
        except DeviceLostError:
            raise
        except DeviceError as error:
            _note_failure(task, error, failed)

    def _check_not_stopping(self) -> None:
        if self._should_stop():
            raise StoppedError("destaging was interrupted by the server's shutdown")

    def _attempt_in_bulk(self, tasks: deque[_Task], failed: list[_Failure]) -> None:
        """As many of the next writes as the origin takes in one call, if it does."""
        if self._bulk is None:
            return
        writes: list[Write] = []
        pages = 0
        while tasks and len(writes) < self._bulk.bulk_depth and pages < _BULK_PAGES:
            task = tasks[0]
            if not isinstance(task, _WriteTask):
                break
            writes.append(task.run)
            pages += len(task.run[1])
            tasks.popleft()
        if not writes:
            return
        self._check_not_stopping()
        for run, error in self._bulk.write_bulk(writes):
            _note_failure(_WriteTask(self._origin, run), error, failed)

    def _attempt_in_parallel(self, tasks: deque[_Task], failed: list[_Failure]) -> None:
        if not tasks:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._depth, "wbcache-origin")
        work, count = self._work, min(self._depth, len(tasks))
        if self._pipelined and isinstance(tasks[0], _WriteTask):
            threads = -(-count // self._pipelined.pipeline_depth)
            work, count = partial(self._work_pipelined, count // threads), threads
        futures = [self._pool.submit(work, tasks, failed) for _ in range(count)]
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise errors[0]

    def _work(self, tasks: deque[_Task], failed: list[_Failure]) -> None:
        while True:
            try:
                task = tasks.popleft()
            except IndexError:
                return
            try:
                self._attempt_one(task, failed)
            except BaseException:
                tasks.clear()
                raise

    def _work_pipelined(self, depth: int, tasks: deque[_Task], failed: list[_Failure]) -> None:
        assert self._pipelined

        def take() -> Write | None:
            self._check_not_stopping()
            try:
                task = tasks.popleft()
            except IndexError:
                return None
            assert isinstance(task, _WriteTask)
            return task.run

        def fail(run: Write, error: DeviceError) -> None:
            _note_failure(_WriteTask(self._origin, run), error, failed)

        try:
            self._pipelined.write_many(take, fail, depth)
        except BaseException:
            tasks.clear()
            raise


def _note_failure(task: _Task, error: DeviceError, failed: list[_Failure]) -> None:
    """Raises the error where there have been too many."""
    failed.append((task, error))
    if len(failed) > _MOST_FAILURES:
        raise error


def _merged(clears: list[Clear]) -> list[Clear]:
    """Neighbours of the same kind as one, in their order."""
    merged: list[Clear] = []
    for clear in clears:
        last = merged[-1] if merged else None
        if last and last.may_trim == clear.may_trim and last.blocks.stop == clear.block:
            merged[-1] = Clear(last.block, last.block_count + clear.block_count, clear.may_trim)
        else:
            merged.append(clear)
    return merged
