# SPDX-License-Identifier: BSD-3-Clause
"""A standby from start to stop: it has a log, which the owner of the volume writes through the export `log`.

    Standby(config) ... -> take() or stop()
"""

import copy
import logging
import os
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import ExitStack

from wbcache_core import __version__
from wbcache_core.device.log_file import LogFile
from wbcache_core.errors import (
    ConfigError,
    ControlError,
    ExportNameError,
    ExposedError,
    FormatError,
    LogRefusedError,
    OutOfRangeError,
    ShipmentError,
    StoppedError,
)
from wbcache_core.flow.standby_destager import StandbyDestager
from wbcache_core.format import fill_piece, standby_state
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.fill_piece import is_fill_piece
from wbcache_core.format.peer_standing import is_standing
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.hot_log import Taken
from wbcache_core.log.standby_log import Sender, StandbyLog
from wbcache_core.log.tail import Tail
from wbcache_core.pairing import pairing
from wbcache_core.pairing.pairing import DISCARD_LOG
from wbcache_core.server import status as status_facts
from wbcache_core.server.config import ALLOW, IN_USE, Config
from wbcache_core.server.history import Facts
from wbcache_core.server.metrics import standby_exposition
from wbcache_core.server.opening import check_distinct
from wbcache_core.server.own_origin import StandbyOrigin
from wbcache_core.server.settings import Settings
from wbcache_core.server.standby_past import PastExport, StandbyPast
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, quoted

_log = logging.getLogger("wbcache")

EXPORT = "log"
OWNER_ALIVE, INCOMPLETE = "owner-alive", "incomplete"
"""Words that let a standby take over all the same."""
_ALIVE_SECONDS = 30.0
"""An owner that has not said how often it gives a sign of life is taken for lost after so long."""


def check_reads_state(buffer: memoryview | bytearray, offset: int) -> None:
    """Whether that is a read of the state page. Raises OutOfRangeError."""
    if offset or len(buffer) != PAGE_BYTES:
        raise OutOfRangeError(f"of the export '{EXPORT}' only the first {PAGE_BYTES} bytes can be read, at once")


class LogExport:
    """What one connection calls. Offsets and lengths are bytes; raises RequestError and DeviceError."""

    def __init__(
        self, log: StandbyLog, size: int, description: str, destager: StandbyDestager | None = None
    ) -> None:  # fmt: skip
        """`destager` is that of an origin of its own."""
        self._destager = destager
        self.size = size
        self.description = description
        self._log = log
        self._sender = Sender()

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """The state page; or, from the second page, the same without any effect."""
        if offset == PAGE_BYTES and len(buffer) == PAGE_BYTES:
            buffer[:] = self._log.report(self._sender)
            return
        check_reads_state(buffer, offset)
        buffer[:] = self._log.state(self._sender)

    def write(self, data: bytes | bytearray | memoryview, offset: int, fua: bool = False) -> None:
        """A superblock, a standing or a piece of the volume at offset 0, or a segment at its place."""
        view = memoryview(data)
        if offset == 0 and is_fill_piece(view):
            self._take_piece(view)
        elif offset:
            self._log.take_segment(self._sender, view, offset, fua)
        elif len(view) == PAGE_BYTES and is_standing(view):
            self._log.take_standing(self._sender, view)
        elif len(view) == PAGE_BYTES:
            self._log.take_superblock(self._sender, view)
        else:
            raise ShipmentError(f"a write of {len(view)} bytes at 0 is no superblock")

    def _take_piece(self, view: memoryview) -> None:
        try:
            piece = fill_piece.decode(view[:PAGE_BYTES])
        except FormatError as error:
            raise ShipmentError(f"what was sent is no piece of the volume: {error}") from None
        if self._destager is None:
            raise ShipmentError("a piece of the volume was sent to a standby without an origin of its own")
        self._destager.take_piece(piece, view[PAGE_BYTES:])

    def flush(self) -> None:
        """Everything taken before is durable when this returns."""
        self._log.flush(self._sender)

    def close(self) -> None:
        """The connection has ended."""
        self._log.leave(self._sender)


class Standby:
    """The log has a lock of its own, and so have `_stopped` and `_origin`; `_device`, `_log` and `_origin` are replaced
    by go_on() alone."""

    def __init__(self, config: Config) -> None:
        """Open, create, lock and recover the log, and make durable what it has. Raises WbcacheError."""
        self._stopped = threading.Event()
        self._config = config
        self._may_be_exposed = config.plain_tcp == ALLOW
        self.settings = Settings(config)
        self._description = standby_state.describe(str(uuid.uuid4()))
        self._device, self._log, self._origin = _opened(config)

    def open_export(self, name: str, is_exposed: bool) -> LogExport:
        """What a connection to the export with that name gets. `is_exposed`: others may read and change what it sends.
        Raises ExportNameError, ExposedError."""
        if name != EXPORT:
            raise ExportNameError(
                f"there is no export {quoted(name)}: this is a standby, whose only export is '{EXPORT}', for the "
                "owner; clients connect to the owner"
            )
        self._check_exposed(is_exposed, EXPORT, "write")
        if not self._origin:
            return LogExport(self._log, self._device.size, self._description)
        self._origin.start()
        return LogExport(self._log, self._device.size, self._description, self._origin.destager)

    def open_past(self, name: str, is_exposed: bool) -> PastExport:
        """What the export @name shows, under the same rule. Raises as StandbyPast.open_export(), ExportNameError,
        ExposedError."""
        past = self.past
        self._check_exposed(is_exposed, f"@{name}", "read")
        return past.open_export(name)

    def _check_exposed(self, is_exposed: bool, export: str, verb: str) -> None:
        """Raises ExposedError if others may do that with what a connection to that export carries."""
        if is_exposed and not self._may_be_exposed:
            raise ExposedError(
                f"a client came without TLS, and not by a Unix socket: it does not get the export {quoted(export)}, "
                f"since anybody on the network could {verb} it. Start nbdkit with --tls=require and either --tls-psk, "
                "or --tls-certificates and --tls-verify-peer, and the owner with peer=nbds://...; or add "
                "plain-tcp=allow if only the two hosts are in that network"
            )

    @property
    def has_past(self) -> bool:
        """Whether past moments can be opened here at all."""
        return self._origin is not None

    @property
    def past(self) -> StandbyPast:
        """What can be opened of it here. Raises ExportNameError."""
        if self._origin is None:
            raise ExportNameError(
                "this standby has no origin of its own: past moments are at the owner of the volume, which moves "
                "the origin that both have"
            )
        assert self._origin.past
        return self._origin.past

    def check_take(self, force: Collection[str]) -> None:
        """Raises ControlError if it may not take over, or only with a word that is not in `force`."""
        if not self._config.origin:
            raise ControlError(
                "this standby was started without origin=, so it cannot take over while it runs: stop it, and start an "
                "owner with its log and force=take-over"
            )
        if self._log.superblock is None:
            raise ControlError("the log of this standby is blank: no owner has connected yet, there is nothing to take")
        if self._log.superblock.is_inconsistent:
            raise ControlError(
                "the origin of this standby is being filled: it and the log are not the volume yet; wait until "
                "wbcache status says that it is consistent"
            )
        silent = time.monotonic() - self._log.last_sign
        if self._log.is_connected and silent < self._alive_seconds and OWNER_ALIVE not in force:
            raise ControlError(
                f"the owner is connected, and gave a sign of life {silent:.1f} s ago; two owners destroy the volume: "
                f"stop it first; if it is lost, and this standby cannot know, repeat this with --force={OWNER_ALIVE}"
            )
        if (lack := self._what_it_may_lack()) and INCOMPLETE not in force:
            raise ControlError(
                f"{lack}; to take over all the same, and lose what only the former owner has, repeat this with "
                f"--force={INCOMPLETE}"
            )

    @property
    def _alive_seconds(self) -> float:
        """An owner that has been silent for longer is taken for lost."""
        standing = self._log.standing
        return 3 * standing.sign_ms / 1000 + 1 if standing else _ALIVE_SECONDS

    def _what_it_may_lack(self) -> str:
        """Why the log may not have everything that the owner answered for; empty if it has."""
        standing = self._log.standing
        if standing is None:
            return "the owner has not told this standby since its start whether it has everything"
        if not standing.is_complete:
            return "the log of this standby is incomplete: it had not caught up when the owner last said so"
        if standing.may_be_left_out:
            return (
                f"this standby had everything up to LSN {standing.lsn}, but the owner goes on without it when it is "
                "silent (peer-lost=continue), and may have done so"
            )
        return ""

    def rejoin(self, discard: bool, target: str) -> Facts:
        """What the log has that the owner does not; with `discard` it is copied to a new file, and then given up.
        Without a target the file is beside the log. Raises ControlError, ConfigError, DeviceError, RequestError."""
        if not discard:
            return {"tail": _facts(self._log.tail()), "given_up": False, "saved": None}
        if not target and self._device.is_block_device:
            raise ControlError(
                f"log '{self._device.name}' is a device: say where to keep a copy of what is given up, with --save FILE"
            )
        target = target or f"{self._device.name}.tail-{self._log.parts_at}"
        found = self._log.give_up_tail(target)
        return {"tail": _facts(found), "given_up": True, "saved": target if found.is_in_log else None}

    def take(self) -> tuple[LogFile, Taken]:
        """The log with all that it has, for the owner that this server becomes: nothing more is taken from others.
        Raises DeviceError, RequestError."""
        if self._origin:
            self._origin.close()
        return self._device, self._log.take()

    @property
    def epoch(self) -> Epoch | None:
        """Of the log, None for a blank one."""
        superblock = self._log.superblock
        return superblock.epoch if superblock else None

    def go_on(self) -> None:
        """Be a standby again: no owner came of it. Whoever had the log has closed it. Raises WbcacheError; then it may
        be called again."""
        config = copy.copy(self._config)
        config.force &= {IN_USE}
        standing = self._log.standing
        self._close()
        self._device, self._log, self._origin = _opened(config)
        self._log.keep(standing)

    def status(self) -> Facts:
        """The state at this moment, ready for JSON. Waits for no device."""
        superblock, (received, committed) = self._log.superblock, self._log.cursors
        sign, lack = self._log.last_sign, self._what_it_may_lack()
        facts: Facts = {
            "version": __version__, "pid": os.getpid(), "role": "standby",
            "state": "stopping" if self._stopped.is_set() else "standby",
            "log": self._device.name, "volume": None, "epoch": None, "epochs": [],
            "cursors": {"destaged": 0, "batch_end": 0, "committed": committed, "received": received},
            "bytes": {"log": self._device.size, "dirty": 0},
            "owner_connected": self._log.is_connected,
            "owner_silent_seconds": time.monotonic() - sign if sign else None,
            "refused": {"count": self._log.refused, "last": self._log.last_refusal or None},
            "errors": {"log": None, "origin": None}, "bad_blocks": {"bytes": 0, "ranges": []},
        }  # fmt: skip
        if self._origin:
            facts |= self._origin.facts_of(superblock) | self.past.facts()
            if self._origin.destager:
                facts["errors"]["origin"] = self._origin.destager.error or None
        facts["parted_at"] = self._log.parts_at or None
        may_take = superblock is not None and not superblock.is_inconsistent
        facts["takeover"] = {"complete": may_take and not lack, "lacks": lack or None}
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
        if self._origin:
            self._origin.interrupt()

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
        self._close()

    def _close(self) -> None:
        if self._origin:
            self._origin.close()
        self._device.close()


def _facts(tail: Tail | None) -> Facts | None:
    """Ready for JSON."""
    if tail is None:
        return None
    facts = tail._asdict()
    return {"bytes": facts.pop("byte_count"), "epoch": facts.pop("epoch_number"), **facts}


def _opened(config: Config) -> tuple[LogFile, StandbyLog, StandbyOrigin | None]:
    """Open, create, lock and recover the log, and make durable what it has; the origin as well, if it is this node's
    own. Raises WbcacheError."""
    with ExitStack() as stack:
        origin = None
        if config.has_own_origins:
            origin = StandbyOrigin(config, config.log)
            stack.callback(origin.close)
            check_distinct(config, origin.device)
        device = LogFile(config.log, IN_USE in config.force)
        stack.callback(device.close)
        if not device.exists:
            device.create(config.log_size)
        elif device.size == 0:
            device.grow(config.log_size)
        log = StandbyLog(device, _slots(device, DISCARD_LOG in config.force), origin.facts if origin else None)
        if origin:
            origin.check(log.superblock, log.copy.hot, device)
            origin.follow(log, device, config.policy(device.size // PAGE_BYTES))
        elif log.superblock and log.superblock.is_copy and log.superblock.has_own_origins:
            raise ConfigError(
                f"log '{device.name}' is of a standby with an origin of its own, and this one was started without "
                "origins=own: add that, and origin="
            )
        if log.superblock:
            _tell(device.name, log.superblock, log.cursors[0])
        log.prepare()
        stack.pop_all()
    return device, log, origin


def _slots(device: LogFile, discards: bool) -> list[Superblock | None] | None:
    """The superblocks, None for a blank log. Raises LogRefusedError, DeviceError."""
    try:
        slots = pairing.read_log(device)
    except LogRefusedError as error:
        if not discards:
            raise
        _log.warning("discarding what the log holds, as forced: %s", error)
        return None
    if slots and discards:
        _log.warning("discarding what log '%s' holds, as forced", device.name)
        return None
    return slots


def _tell(name: str, superblock: Superblock, head: int) -> None:
    _log.info("log '%s' has LSN %d to %d, of epoch %s", name, superblock.destaged, head, superblock.epoch)
    if not superblock.is_copy:
        _log.warning("log '%s' was the log of an owner: from now on it is a copy of another one", name)
