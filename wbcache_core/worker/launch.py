# SPDX-License-Identifier: BSD-3-Clause
"""Puts together what a server needs for a worker: which files, when to interrupt it, and when it is in no hurry."""

import logging
from collections.abc import Callable

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.nbd_export import NbdExport
from wbcache_core.device.origin import hand_over
from wbcache_core.flow.batch_executor import BatchExecutor, DirectExecutor
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.worker.process import Worker
from wbcache_core.worker.serving import Setup, interpreter_facts
from wbcache_core.worker.worker_executor import WorkerExecutor

_log = logging.getLogger("wbcache")


def with_worker(
    direct: DirectExecutor, line: NumberLine, origin: Device, log: Device, uuid: bytes, most_refused: int
) -> BatchExecutor:
    """An executor that uses workers, and `direct` where there are none; `direct` itself if the devices are no files,
    block devices or NBD exports. most_refused is that of OriginWriter."""
    if not (hand_over(origin) and isinstance(log, FileDevice)):
        direct.why_here = "another process cannot use these devices"
        return direct

    def start(is_patient: Callable[[], bool]) -> Worker:
        # Not earlier: the log may have been created meanwhile.
        opened = hand_over(origin)
        assert opened
        setup = Setup(interpreter_facts(), opened, log.open_file(), line.data_pages, uuid, most_refused)
        worker = Worker(setup, lambda: line.destager_must_stop, lambda: is_calm(line), is_patient, _log.log)
        _log.debug("process %d writes to the origin", worker.pid)
        return worker

    return WorkerExecutor(start, direct, lambda: obstacle(origin, log))


def obstacle(origin: Device, log: FileDevice) -> str:
    """Why there must be no worker; empty if there may be one.

    Without locks nothing would keep a server from starting while the worker of a killed one, which waits for its disk,
    is not dead yet. An NBD origin has none of its own; there it is the log's that the worker shares.
    """
    locked = origin if isinstance(origin, FileDevice) else log
    if not locked.is_locked:
        return f"the file system of the {locked.role} has no locks"
    opened = hand_over(origin)
    if isinstance(opened, NbdExport) and not opened.is_multi_conn:
        # What the worker has flushed on its connections, others might not read on theirs.
        return "the origin does not offer connections that all see the same data (multi-conn)"
    return ""


def is_calm(line: NumberLine) -> bool:
    """Whether destaging may take its time: nobody waits for it, and the log has room. Takes the lock."""
    with line.lock:
        enough = (line.policy.low_pages + line.policy.high_pages) // 2
        return not (line.draining or line.is_origin_awaited or line.dirty_pages > enough)
