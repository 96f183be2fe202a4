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
from wbcache_core.worker.ring_file import OpenRing
from wbcache_core.worker.serving import Setup, interpreter_facts
from wbcache_core.worker.shared_page import Wanted
from wbcache_core.worker.worker_executor import WorkerExecutor

_log = logging.getLogger("wbcache")


def with_worker(
    direct: DirectExecutor,
    line: NumberLine,
    origin: Device,
    log: Device,
    uuid: bytes,
    most_refused: int,
    open_ring: Callable[[], OpenRing | None],
) -> BatchExecutor:
    """An executor that uses workers, and `direct` where there are none; `direct` itself if the devices are no files,
    block devices or NBD exports. most_refused is that of OriginWriter; what open_ring() returns is closed here."""
    if not (hand_over(origin) and isinstance(log, FileDevice)):
        direct.why_here = "another process cannot use these devices"
        return direct

    def start(is_patient: Callable[[], bool]) -> Worker:
        # Not earlier: the log may have been created meanwhile.
        opened, ring = hand_over(origin), open_ring()
        assert opened
        try:
            setup = Setup(interpreter_facts(), opened, log.open_file(), ring, line.data_pages, uuid, most_refused)
            worker = Worker(setup, lambda: wanted(line, is_patient()), _log.log)
        finally:
            if ring:
                ring.file.close()
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


def wanted(line: NumberLine, is_patient: bool) -> Wanted:
    """What the worker should know now. Destaging may take its time if nobody waits for it and the log has room. Takes
    the lock."""
    with line.lock:
        enough = (line.policy.low_pages + line.policy.high_pages) // 2
        is_calm = not (line.draining or line.is_origin_awaited or line.dirty_pages > enough)
        # What will soon be overwritten is not worth a copy.
        floor = max(line.ring_start, line.head - line.ring_pages + line.ring_pages // 8)
        return Wanted(line.destager_must_stop, is_calm, is_patient, floor)
