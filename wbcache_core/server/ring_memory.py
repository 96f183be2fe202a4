# SPDX-License-Identifier: BSD-3-Clause
"""Which memory the ring is in: private, or a file in shared memory that outlives the server.

At start the ring of a server that was killed is looked for, and taken over if
it continues the log; nothing in it changes before the first client that may
write. Then a ring of its own is made, if none was taken over. A stop that has
committed everything removes it.
"""

import logging
from typing import NamedTuple

from wbcache_core import clock
from wbcache_core.device.shared_memory import SharedFile, free_bytes, path_of
from wbcache_core.errors import DamagedLogError, DeviceError, DeviceInUseError, FormatError
from wbcache_core.format.shared_ring import Anchor, Layout, RingHeader, decode_header, encode_header
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.recovery import Recovered
from wbcache_core.log.ring_recovery import joins, read_ring, replay
from wbcache_core.memory import memory_limit
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.ring_journal import HAS_WHOLE_STORES
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, format_size
from wbcache_core.worker.ring_file import OpenRing

_log = logging.getLogger("wbcache")

_ROOM = 4
"""A ring that may grow needs at least so many times as much room as may be volatile."""
_UNLIMITED = 1 << 62
_HIDDEN_BY = " (systemd hides it with ProcSubset=pid)"


class RingMemory:
    """Not thread-safe: the caller starts, activates or stops the cache."""

    def __init__(self, is_shared_wanted: bool) -> None:
        self._is_wanted = is_shared_wanted
        self.found: RingBuffer | None = None
        """The ring of a server that was killed, if it was taken over."""
        self._file: SharedFile | None = None
        """The memory that the ring is in, if it is shared."""
        self._layout = Layout(0, 0)
        """Of the ring in use."""
        self._stale: SharedFile | None = None
        """One that is not used, and is to be replaced. Locked meanwhile."""

    @property
    def path(self) -> str:
        """The file that the ring is in; empty if it is private."""
        return self._file.path if self._file else ""

    def join(self, log_name: str, superblock: Superblock, recovered: Recovered) -> list[PendingSegment]:
        """What a server that was killed had acknowledged beyond the end of the log.

        If there is any, `found` is the ring that has it, and `recovered.locations` is up to date with it.
        Writes nothing. Raises DamagedLogError, DeviceError.
        """
        file = self._find(superblock.uuid)
        if not file:
            return []
        if superblock.is_copy:
            # Of another log of this volume, or of this one before it became a copy.
            _log.warning("the ring of an earlier server in '%s' is given up: a copy takes over", file.path)
            self._stale = file
            return []
        try:
            found = _look(file, log_name, superblock, recovered)
        except FormatError as error:
            _log.warning("the ring of an earlier server in '%s' is ignored: %s", file.path, error)
            self._stale = file
            return []
        except BaseException:
            file.close()
            raise
        if not found.segments:
            self._stale = file
            return []
        self._file, self.found = file, found.ring
        replay(found.segments, recovered.locations)
        _log.info(
            "took over from '%s' what a server that was killed had acknowledged and not committed: LSN %d to %d; the "
            "ring has %s, as that server had it, until the next clean stop",
            file.path, recovered.head, found.head, format_size(found.ring.pages << PAGE_SHIFT),
        )  # fmt: skip
        return found.segments

    def open_again(self) -> OpenRing | None:
        """For another process, which only reads it; the caller closes it. None if the ring is private."""
        file = self._file.open_again() if self._file else None
        return OpenRing(file, self._layout) if file else None

    def discard(self) -> None:
        """The log that a ring was joined with is not used: the ring goes with it, when another is made. Idempotent."""
        if self._file:
            self._stale, self._file, self.found = self._file, None, None

    def _find(self, volume: bytes) -> SharedFile | None:
        """Raises DeviceError."""
        path = path_of(volume)
        try:
            return SharedFile.find(path)
        except DeviceInUseError as error:
            if not self._is_wanted:
                return None
            raise DeviceInUseError(
                f"the ring {error}, which has another log of the same volume: stop that server, or, if this log is a "
                "copy that is to be served beside it, add ring-memory=private"
            ) from None
        except DeviceError as error:
            raise DeviceError(
                f"{error}; it may hold what a server that was killed had acknowledged: start as the user that the "
                "server ran as, or remove it to give that up", error.errno_value,
            ) from None  # fmt: skip

    def unused(self) -> int:
        """Bytes that the ring could take now, in the memory that it is in."""
        return min(memory_limit.unused(), free_bytes(self._file.path) if self._file else _UNLIMITED)

    def make_ready(
        self, ring: RingBuffer, superblock: Superblock, head: int, committed: int, end: LogEnd
    ) -> None:
        """Before the first write: what recovery found is durable. The ring becomes a shared one, if that is wanted and
        possible. Idempotent. Raises nothing."""
        anchor = Anchor(committed, end.previous, end.generation)
        self._layout = ring.layout
        if self._file:
            ring.journal.note_commit(anchor)
            return
        if self._stale:
            self._stale.remove()
            self._stale = None
        if not self._is_wanted:
            return
        try:
            self._create(ring, superblock.uuid, head, anchor)
        except DeviceError as error:
            _log.warning(
                "the ring is in private memory: %s; with ack=ram a kill of this server loses what was not committed "
                "(ring-memory=private accepts that)", error,
            )  # fmt: skip

    def _create(self, ring: RingBuffer, volume: bytes, head: int, anchor: Anchor) -> None:
        """Raises DeviceError."""
        if not HAS_WHOLE_STORES:
            raise DeviceError("this machine does not store 8 bytes at once")
        if hidden := clock.hidden_boot_id():
            raise DeviceError(f"{hidden} cannot be read{_HIDDEN_BY}, so no other server could trust a shared one")
        layout = ring.layout
        # One that may grow takes its memory as it is used, and gives it back.
        grows = layout.volatile_pages < layout.ring_pages
        room = _ROOM * (layout.volatile_pages << PAGE_SHIFT) if grows else None
        file = None
        try:
            file = SharedFile.create(path_of(volume), layout.file_bytes, room)
            shared = _mapped(file, layout)
            shared.journal.begin(head, anchor)
            # Only now is it a ring.
            header = RingHeader(volume, clock.read().boot, layout.ring_pages, layout.volatile_pages)
            shared.journal.header[:] = encode_header(header)
            ring.share(shared.journal, shared.mapping)
            self._file = file
        except BaseException:
            # The next attempt makes another.
            if file:
                file.remove()
            self._file = None
            raise

    def close(self, is_empty: bool) -> None:
        """`is_empty`: everything has been committed, and the next server needs nothing of it. Idempotent."""
        if self._file and is_empty:
            self._file.remove()
        for file in (self._file, self._stale):
            if file:
                file.close()
        self._file = self._stale = None


class FoundRing(NamedTuple):
    """A ring that continues a log: `segments`, up to `head`, are not in the log."""

    ring: RingBuffer
    segments: list[PendingSegment]
    head: int


def describe_uncommitted(log_name: str, superblock: Superblock, recovered: Recovered) -> str:
    """What somebody who uses the log without a server has to know of a ring that was left behind; empty if nothing.

    Changes nothing, and raises nothing.
    """
    path = path_of(superblock.uuid)
    try:
        file = SharedFile.find(path)
        if not file:
            return ""
        try:
            found = _look(file, log_name, superblock, recovered)
        finally:
            file.close()
    except FormatError as error:
        return f"the ring of an earlier server in '{path}' does not belong to the log as it is: {error}"
    except (DeviceError, DamagedLogError) as error:
        return f"a server left a ring in shared memory, perhaps with data that the log lacks: {error}"
    if not found.segments:
        return ""
    return (
        f"LSN {recovered.head} to {found.head} were acknowledged by a server that was killed, and are only in memory, "
        f"in '{path}': a server takes them over when it starts, and so does wbcache replay"
    )


def _look(file: SharedFile, log_name: str, superblock: Superblock, recovered: Recovered) -> FoundRing:
    """Raises FormatError if it does not continue the log, DamagedLogError if the log lacks what it had, DeviceError."""
    ring = _open(file, superblock.uuid)
    content = read_ring(ring.journal, ring.pages, superblock.origin_bytes)
    anchor, end = content.anchor, recovered.head
    if anchor.lsn > end:
        raise DamagedLogError(
            f"log '{log_name}' ends at LSN {end}, but its server, which was killed, had made everything up to LSN "
            f"{anchor.lsn} durable in it, as the ring in '{file.path}' says: the log was damaged or replaced by an "
            "older copy; nothing has been changed; restore the log, or remove that file to give up what is missing"
        )
    if not joins(content, end, recovered.end.previous, ring.page):
        count = content.head - anchor.lsn
        lost = f"; what may be only in the ring, up to {count} pages, is lost" if count else ""
        raise FormatError(f"the log goes on from LSN {anchor.lsn} in another way{lost}")
    return FoundRing(ring, content.beyond(end), content.head)


def _open(file: SharedFile, volume: bytes) -> RingBuffer:
    """Raises FormatError if it is not a ring of this volume and boot, DeviceError."""
    if file.size < PAGE_BYTES:
        raise FormatError(f"it has {file.size} bytes")
    header = decode_header(bytes(file.map(0, PAGE_BYTES)))
    if header.uuid != volume:
        raise FormatError("it is of another volume")
    if hidden := clock.hidden_boot_id():
        raise DeviceError(
            f"{hidden} cannot be read{_HIDDEN_BY}, so nobody knows whether the ring in '{file.path}' is of this boot; "
            "it may hold what a server that was killed had acknowledged; nothing has been changed; make the first "
            "readable, or remove the ring to give that up"
        )
    if header.boot != clock.read().boot:
        raise FormatError("it is from before the machine was started: what was not committed then is lost")
    layout = Layout(header.ring_pages, header.volatile_pages)
    if file.size != layout.file_bytes:
        raise FormatError(f"it has {file.size} bytes instead of {layout.file_bytes}")
    return _mapped(file, layout)


def _mapped(file: SharedFile, layout: Layout) -> RingBuffer:
    """Raises DeviceError."""
    journal = file.map(0, layout.journal_bytes)
    return RingBuffer.over(layout, journal, file.map(layout.journal_bytes, layout.ring_pages << PAGE_SHIFT))
