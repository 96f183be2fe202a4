# SPDX-License-Identifier: BSD-3-Clause
"""Writes one batch to the origin: ranges first, then pages in order of block, several in flight, then a sync.

A fast origin is written by the calling thread alone, with many requests per call if it accepts them; handing work to
other threads pays only if a write takes longer than the hand-over.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice

from wbcache_core.device.device import BulkDevice, ConnectedDevice, Device, PipelinedDevice, Write
from wbcache_core.errors import DeviceError, DeviceLostError, StoppedError
from wbcache_core.flow.batch import Clear, DestageBatch
from wbcache_core.pairing.fingerprint import sample_page
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

_SLOW_WRITE_SECONDS = 0.0003
_TRIALS = 4
_CLEAR_BLOCKS = 64 * MIB >> PAGE_SHIFT
"""One call zeroes at most this much: if the origin cannot zero, zeros are written, and a stop has to wait for that."""

_BULK_PAGES = 1024
"""A call gets no further write after this much (4 MiB), because a stop waits for it."""
_PART_RUNS = 4096
"""Writes to a fast origin are prepared a few at a time: garbage collection over all of them would take long."""

_RETRY_PAUSES = (0.05, 0.2, 0.5)
"""Seconds before each retry of what failed, before the whole batch is given up and repeated later."""
_SETTLE_POLL_SECONDS = 0.25
_MOST_FAILURES = 32
"""If more requests than this fail in a batch, and an eighth of all, there is no immediate retry."""
_OF_THE_WHOLE = (
    errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.EAGAIN,
)  # fmt: skip
"""Errors that say nothing about single blocks."""
_ZEROS = memoryview(bytes(PAGE_BYTES))


class _WriteTask:
    """A write of consecutive blocks."""

    __slots__ = ("_origin", "run")

    def __init__(self, origin: Device, run: Write) -> None:
        self._origin = origin
        self.run = run

    def __call__(self) -> None:
        offset, views = self.run
        self._origin.write(views, offset)

    @property
    def blocks(self) -> range:
        first = self.run[0] >> PAGE_SHIFT
        return range(first, first + len(self.run[1]))

    def halves(self) -> "list[_WriteTask]":
        """All of it, one task per block: there are few."""
        offset, views = self.run
        places = range(offset, offset + (len(views) << PAGE_SHIFT), PAGE_BYTES)
        return [_WriteTask(self._origin, (at, [view])) for at, view in zip(places, views, strict=True)]


class _ClearTask:
    """Zeroes consecutive blocks."""

    __slots__ = ("_may_trim", "_origin", "blocks")

    def __init__(self, origin: Device, blocks: range, may_trim: bool) -> None:
        self._origin = origin
        self.blocks = blocks
        self._may_trim = may_trim

    def __call__(self) -> None:
        offset = self.blocks.start << PAGE_SHIFT
        length = min(len(self.blocks) << PAGE_SHIFT, self._origin.size - offset)
        self._origin.zero(offset, length, self._may_trim)

    def halves(self) -> "list[_ClearTask | _WriteTask]":
        blocks = self.blocks
        if len(blocks) > 1:
            middle = blocks.start + len(blocks) // 2
            parts = (range(blocks.start, middle), range(middle, blocks.stop))
            return [_ClearTask(self._origin, part, self._may_trim) for part in parts]
        offset = blocks.start << PAGE_SHIFT
        return [_WriteTask(self._origin, (offset, [_ZEROS[: self._origin.size - offset]]))]


_Task = _WriteTask | _ClearTask
_Failure = tuple[_Task, DeviceError]


class OriginWriter:
    """Not thread-safe: only the destager's thread uses it."""

    def __init__(self, origin: Device, should_stop: Callable[[], bool], most_refused: int = 0) -> None:
        """should_stop() is called before each request.

        Up to most_refused blocks that the origin rejects are not a failure as long as it accepts others.
        """
        self._origin = origin
        self._depth = 1
        self._should_stop = should_stop
        self._pipelined = origin if isinstance(origin, PipelinedDevice) else None
        self._connected = origin if isinstance(origin, ConnectedDevice) else None
        self._bulk = origin if isinstance(origin, BulkDevice) else None
        self._pool: ThreadPoolExecutor | None = None
        self._most_refused = most_refused
        self._attempts = 0
        self.origin_bytes = origin.size
        self.refused: dict[int, DeviceError] = {}
        """The blocks that the origin rejected in the last write(), and why; their content is not known."""

    @property
    def settles_at(self) -> float:
        """See device.Device."""
        return self._origin.settles_at

    @property
    def check_seconds(self) -> float:
        """Seconds between calls of check_idle(); infinity if there is nothing to check."""
        return self._connected.check_seconds if self._connected else float("inf")

    def check_idle(self) -> None:
        """See device.ConnectedDevice."""
        if self._connected:
            self._connected.check_idle()

    def suspect_requests(self, ended_at: float) -> None:
        """See device.Device."""
        self._origin.suspect_requests(ended_at)

    def settle_until(self, when: float) -> None:
        """See device.ConnectedDevice."""
        if self._connected:
            self._connected.settle_until(when)

    def be_patient(self) -> None:
        """See device.ConnectedDevice."""
        if self._connected:
            self._connected.be_patient()

    def write(self, batch: DestageBatch, depth: int, avoid: Iterable[int] = ()) -> int:
        """Make the batch durable on the origin, with up to `depth` requests in flight; returns the number of requests
        it took. Waits until it has settled.

        Blocks to avoid are not cleared; the batch leaves them out as well. Raises DeviceError, and StoppedError if
        should_stop(); either leaves the origin with a part of the batch.
        """
        self.prepare(depth)
        self.refused = {}
        self._attempts = 0
        clears = deque(self._clear_tasks(batch.clears, sorted(avoid)))
        total = len(clears)
        # Before the pages, so that clearing piece by piece does not clear what they have written.
        self._find_refused(self._perform(clears))
        for block in [block for block in self.refused if batch.page(block) is not None]:
            # Its page is tried separately.
            del self.refused[block]
        runs = batch.runs(self._origin.size)
        failed: list[_Failure] = []
        while tasks := self._write_tasks(islice(runs, _PART_RUNS if self._bulk else None)):
            total += len(tasks)
            failed += self._perform(tasks)
        self._find_refused(failed)
        self._origin.sync()
        return total

    def _find_refused(self, failed: list[_Failure]) -> None:
        """Note the blocks that cause failures, if the origin accepts others. Raises what write() does."""
        if not failed:
            return
        first, error = min(failed, key=lambda failure: failure[0].blocks.start)
        named = DeviceError(f"{error} (byte {first.blocks.start << PAGE_SHIFT})", error.errno_value)
        of_the_whole = any(error.errno_value in _OF_THE_WHOLE for _, error in failed)
        spared = [task.blocks for task, _ in failed]
        if not self._most_refused or of_the_whole or not self._takes_others(spared):
            raise named
        todo = deque(failed)
        while todo:
            task, error = todo.popleft()
            if isinstance(task, _WriteTask) and len(task.blocks) == 1:
                self.refused[task.blocks.start] = error
                if len(self.refused) > self._most_refused:
                    raise named
                continue
            for part in task.halves():
                failures: list[_Failure] = []
                self._attempt_one(part, failures)
                todo.extend(failures)
        # The origin may have begun to fail as a whole meanwhile.
        if not self._takes_others(spared):
            raise named

    def _takes_others(self, spared: list[range]) -> bool:
        """Whether the origin accepts, at some other offset, what it already has there. Raises DeviceLostError,
        StoppedError."""
        last = (self.origin_bytes >> PAGE_SHIFT) - 1
        around = [block for blocks in spared for block in (blocks.start - 1, blocks.stop)]
        others = [
            block
            for block in dict.fromkeys((last // 2, 0, last, *around))
            if 0 <= block <= last and not any(block in blocks for blocks in spared)
        ]
        page = memoryview(bytearray(PAGE_BYTES))
        for block in others[:_TRIALS]:
            self._check_not_stopping()
            try:
                self._origin.read_into(page, block << PAGE_SHIFT)
                self._origin.write([page], block << PAGE_SHIFT)
                return True
            except DeviceLostError:
                raise
            except DeviceError:
                continue
        return False

    def sample(self, block: int) -> int | None:
        """The checksum of a block as the origin has it; None if it cannot be read."""
        try:
            return sample_page(self._origin, block)
        except DeviceError:
            return None

    def close(self) -> None:
        """End the helper threads."""
        if self._pool:
            self._pool.shutdown()
            self._pool = None

    def _set_depth(self, depth: int) -> None:
        """No request is in flight."""
        if depth != self._depth:
            self.close()
            self._depth = depth
        if self._connected:
            self._connected.allow_connections(depth)

    def prepare(self, depth: int) -> None:
        """Before a batch, whoever writes it: return when abandoned requests cannot change the origin any more. Raises
        StoppedError."""
        self._set_depth(depth)
        while (seconds := self._origin.settles_at - time.monotonic()) > 0:
            self._check_not_stopping()
            time.sleep(min(seconds, _SETTLE_POLL_SECONDS))

    def _write_tasks(self, runs: Iterable[Write]) -> deque[_Task]:
        return deque([_WriteTask(self._origin, run) for run in runs])

    def _clear_tasks(self, clears: list[Clear], avoid: list[int]) -> list[_ClearTask]:
        return [
            _ClearTask(self._origin, piece, clear.may_trim)
            for clear in _merged(clears)
            for part in _without(clear.blocks, avoid)
            for piece in (part[at : at + _CLEAR_BLOCKS] for at in range(0, len(part), _CLEAR_BLOCKS))
        ]

    def _perform(self, tasks: "deque[_Task] | deque[_ClearTask]") -> list[_Failure]:
        """Carry out all tasks, and again, after a pause, those that failed: within a batch their order does not matter.

        Returns those that failed in the end. If what was written before may be lost with it, raises a task's error at
        once.
        """
        left: deque[_Task] = deque(tasks)
        for pause in _RETRY_PAUSES:
            failed = self._attempt(left)
            if not failed:
                return []
            time.sleep(pause)
            left = deque(task for task, _ in failed)
        return self._attempt(left)

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
        """Attempt a few tasks; returns whether each of them took long. A single one may have waited for something
        else."""
        fastest = float("inf")
        for _ in range(min(_TRIALS, len(tasks))):
            started = time.monotonic()
            self._attempt_one(tasks.popleft(), failed)
            fastest = min(fastest, time.monotonic() - started)
        return fastest > _SLOW_WRITE_SECONDS

    def _attempt_one(self, task: _Task, failed: list[_Failure]) -> None:
        self._check_not_stopping()
        self._attempts += 1
        try:
            task()
        except DeviceLostError:
            raise
        except DeviceError as error:
            self._note_failure(task, error, failed)

    def _note_failure(self, task: _Task, error: DeviceError, failed: list[_Failure]) -> None:
        """Raises the error if there have been too many."""
        failed.append((task, error))
        if len(failed) > max(_MOST_FAILURES, min(self._attempts // 8, self._most_refused)):
            raise DeviceError(f"{error} (byte {task.blocks.start << PAGE_SHIFT})", error.errno_value)

    def _check_not_stopping(self) -> None:
        if self._should_stop():
            raise StoppedError("destaging was interrupted by the server's shutdown")

    def _attempt_in_bulk(self, tasks: deque[_Task], failed: list[_Failure]) -> None:
        """As many of the next writes as the origin accepts in one call, if it does."""
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
        self._attempts += len(writes)
        for run, error in self._bulk.write_bulk(writes):
            self._note_failure(_WriteTask(self._origin, run), error, failed)

    def _attempt_in_parallel(self, tasks: deque[_Task], failed: list[_Failure]) -> None:
        if not tasks:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._depth, "wbcache-origin")
        work, count = self._work, min(self._depth, len(tasks))
        if self._pipelined and isinstance(tasks[0], _WriteTask):
            threads = -(-count // self._pipelined.pipeline_depth)
            work, count = partial(self._work_pipelined, count // threads), threads
        futures: list[Future[None]] = []
        try:
            for _ in range(count):
                futures.append(self._pool.submit(work, tasks, failed))
        except (RuntimeError, MemoryError):
            # No more threads can be started. The pool keeps the work it was given, and none of it may come after the
            # sync.
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
        if errors:
            raise errors[0]
        if tasks:
            work(tasks, failed)

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
            self._attempts += 1
            return task.run

        def fail(run: Write, error: DeviceError) -> None:
            self._note_failure(_WriteTask(self._origin, run), error, failed)

        try:
            self._pipelined.write_many(take, fail, depth)
        except BaseException:
            tasks.clear()
            raise


def _without(blocks: range, avoid: list[int]) -> Iterator[range]:
    """The parts of a range between blocks to avoid, which are in order."""
    start = blocks.start
    for block in avoid:
        if block in blocks:
            if block > start:
                yield range(start, block)
            start = block + 1
    if start < blocks.stop:
        yield range(start, blocks.stop)


def _merged(clears: list[Clear]) -> list[Clear]:
    """Neighbours of the same kind merged, in their order."""
    merged: list[Clear] = []
    for clear in clears:
        last = merged[-1] if merged else None
        if last and last.may_trim == clear.may_trim and last.blocks.stop == clear.block:
            merged[-1] = Clear(last.block, last.block_count + clear.block_count, clear.may_trim)
        else:
            merged.append(clear)
    return merged
