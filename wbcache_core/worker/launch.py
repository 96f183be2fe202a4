# SPDX-License-Identifier: BSD-3-Clause
"""Puts together what a server needs for a worker: which files, when to interrupt it, and when it is in no hurry."""

import logging

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.flow.batch_executor import BatchExecutor
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.worker.process import Worker
from wbcache_core.worker.serving import Setup, interpreter_facts
from wbcache_core.worker.worker_executor import WorkerExecutor

_log = logging.getLogger("wbcache")


def with_worker(
    direct: BatchExecutor, line: NumberLine, origin: Device, log: Device, uuid: bytes, most_refused: int
) -> BatchExecutor:
    """An executor that uses workers, and `direct` where there are none; `direct` itself if the origin is not a file or
    block device. most_refused is that of OriginWriter.

    `direct` too if the origin's file system has no locks: then nothing would keep a server from starting while the
    worker of a killed one, which waits for its disk, is not dead yet.
    """
    if not (isinstance(origin, FileDevice) and isinstance(log, FileDevice) and origin.is_locked):
        return direct

    def start() -> Worker:
        # Not earlier: the log may have been created meanwhile.
        setup = Setup(interpreter_facts(), origin.open_file(), log.open_file(), line.data_pages, uuid, most_refused)
        worker = Worker(setup, lambda: line.destager_must_stop, lambda: is_calm(line), _log.log)
        _log.debug("process %d writes to the origin", worker.pid)
        return worker

    return WorkerExecutor(start, direct)


def is_calm(line: NumberLine) -> bool:
    """Whether destaging may take its time: nobody waits for it, and the log has room. Takes the lock."""
    with line.lock:
        enough = (line.policy.low_pages + line.policy.high_pages) // 2
        return not (line.draining or line.is_origin_awaited or line.dirty_pages > enough)
