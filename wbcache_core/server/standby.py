# SPDX-License-Identifier: BSD-3-Clause
"""A standby from start to stop: it has a log, which the owner of the volume writes through the export `log`."""

import logging
import os
import threading
import time
import uuid
from contextlib import ExitStack

from wbcache_core import __version__
from wbcache_core.device.log_file import LogFile
from wbcache_core.errors import ExportNameError, LogRefusedError, OutOfRangeError, ShipmentError, StoppedError
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.standby_log import Sender, StandbyLog, recovered_log
from wbcache_core.pairing import pairing
from wbcache_core.pairing.pairing import DISCARD_LOG
from wbcache_core.server import status as status_facts
from wbcache_core.server.config import IN_USE, Config
from wbcache_core.server.history import Facts
from wbcache_core.server.metrics import standby_exposition
from wbcache_core.server.settings import Settings
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, quoted

_log = logging.getLogger("wbcache")

EXPORT = "log"
DESCRIPTION = "the log of a standby, for the owner of the volume alone"


class LogExport:
    """What one connection calls. Offsets and lengths are bytes; raises RequestError and DeviceError."""

    description = DESCRIPTION

    def __init__(self, log: StandbyLog, size: int) -> None:
        self.size = size
        self._log = log
        self._sender = Sender()

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """The state page, which is all that can be read."""
        if offset or len(buffer) != PAGE_BYTES:
            raise OutOfRangeError(f"of the export '{EXPORT}' only the first {PAGE_BYTES} bytes can be read, at once")
        buffer[:] = self._log.state(self._sender)

    def write(self, data: bytes | bytearray | memoryview, offset: int, fua: bool = False) -> None:
        """A superblock at offset 0, or a segment at its place."""
        view = memoryview(data)
        if offset:
            self._log.take_segment(self._sender, view, offset, fua)
        elif len(view) == PAGE_BYTES:
            self._log.take_superblock(self._sender, view)
        else:
            raise ShipmentError(f"a write of {len(view)} bytes at 0 is no superblock")

    def flush(self) -> None:
        """Everything taken before is durable when this returns."""
        self._log.flush(self._sender)

    def close(self) -> None:
        """The connection has ended."""


class Standby:
    """The log has a lock of its own; nothing else changes."""

    def __init__(self, config: Config) -> None:
        """Open, create, lock and recover the log, and make durable what it has. Raises WbcacheError."""
        self._stopped = threading.Event()
        self.settings = Settings(config)
        self.now = self
        with ExitStack() as stack:
            device = LogFile(config.log, IN_USE in config.force)
            stack.callback(device.close)
            if not device.exists:
                device.create(config.log_size)
            elif device.size == 0:
                device.grow(config.log_size)
            self._device = device
            self._log = self._open(config)
            self._log.prepare()
            stack.pop_all()

    def _open(self, config: Config) -> StandbyLog:
        """Raises WbcacheError."""
        device = self._device
        slots: list[Superblock | None] | None = None
        try:
            slots = pairing.read_log(device)
        except LogRefusedError as error:
            if DISCARD_LOG not in config.force:
                raise
            _log.warning("discarding what the log holds, as forced: %s", error)
        if slots and DISCARD_LOG in config.force:
            _log.warning("discarding what log '%s' holds, as forced", device.name)
            slots = None
        log = recovered_log(device, slots)
        if log.superblock:
            _tell(device.name, log.superblock, log.cursors[0])
        return log

    def open_export(self, name: str) -> LogExport:
        """What a connection to the export with that name gets. Raises ExportNameError."""
        if name != EXPORT:
            raise ExportNameError(
                f"there is no export {quoted(name)}: this is a standby, whose only export is '{EXPORT}', for the "
                "owner; clients connect to the owner"
            )
        return LogExport(self._log, self._device.size)

    def status(self) -> Facts:
        """The state at this moment, ready for JSON. Waits for no device."""
        superblock, (received, committed) = self._log.superblock, self._log.cursors
        sign = self._log.last_sign
        facts: Facts = {
            "version": __version__, "pid": os.getpid(), "role": "standby",
            "state": "stopping" if self._stopped.is_set() else "standby",
            "log": self._device.name, "volume": None, "epoch": None, "epochs": [],
            "cursors": {"destaged": 0, "batch_end": 0, "committed": committed, "received": received},
            "bytes": {"log": self._device.size, "dirty": 0},
            "owner_silent_seconds": time.monotonic() - sign if sign else None,
            "refused": {"count": self._log.refused, "last": self._log.last_refusal or None},
            "errors": {"log": None, "origin": None}, "bad_blocks": {"bytes": 0, "ranges": []},
        }  # fmt: skip
        if superblock:
            facts |= status_facts.epochs(superblock)
            facts["volume"] = str(uuid.UUID(bytes=superblock.uuid))
            facts["cursors"] |= {"destaged": superblock.destaged, "batch_end": superblock.batch_end}
            facts["bytes"]["dirty"] = max(received - superblock.destaged, 0) << PAGE_SHIFT
        return facts

    def metrics(self) -> bytes:
        """The status for Prometheus."""
        return standby_exposition(self.status())

    def check_not_stopping(self) -> None:
        """Raises StoppedError."""
        if self._stopped.is_set():
            raise StoppedError("the server is shutting down")

    def interrupt(self) -> None:
        """The server is about to stop: nothing more is taken."""
        self._stopped.set()
        self._log.stop()

    def finish(self) -> None:
        """The same. What was answered as durable is."""
        self.interrupt()

    @property
    def is_settled(self) -> bool:
        """Whether clients may be disconnected."""
        return self._stopped.is_set()

    def wait_until_settled(self) -> None:
        """Return when is_settled."""
        self._stopped.wait()

    is_unfinished = False
    """A standby has nothing that its log does not have."""

    def stop(self) -> None:
        """Close the log. Idempotent."""
        self.finish()
        self._device.close()


def _tell(name: str, superblock: Superblock, head: int) -> None:
    _log.info("log '%s' has LSN %d to %d, of epoch %s", name, superblock.destaged, head, superblock.epoch)
    if not superblock.is_copy:
        _log.warning("log '%s' was the log of an owner: from now on it is a copy of another one", name)
