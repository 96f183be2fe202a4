# SPDX-License-Identifier: BSD-3-Clause
"""Copies the volume, while it is in use, to the origin that a peer has of its own.

It has a connection of its own, so that a slow disk at the peer does not hold up
the log. A piece says what it has of the log: at least everything below
`first_lsn`, and nothing from `end_lsn` on. As long as it is under way, the peer
does not destage beyond first_lsn (see floor()), or it could write over what is
newer.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Extent
from wbcache_core.errors import StoppedError, WbcacheError
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.fill_piece import MAX_BLOCKS, FillPiece, encode
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Fill, Superblock
from wbcache_core.log.shipped_superblock import up_to
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.cursors import NO_MARK, NumberLine
from wbcache_core.shipping.bell import Bell
from wbcache_core.shipping.peer import Peer
from wbcache_core.threads import InternalErrors, StartTogether
from wbcache_core.units import MIB, PAGE_SHIFT, pages_of

if TYPE_CHECKING:
    from wbcache_core.shipping.link import Link

_log = logging.getLogger("wbcache")

_MOST_UNDER_WAY = 4
_MOST_ZEROS = 32 * MIB
"""At once: where they cannot be deallocated they are written, and the answer has to come within peer-timeout."""
_PAUSE = 1.0
"""Seconds before the next attempt after a failure."""
_LOOK_SECONDS = 1.0


class VolumeSource(Protocol):
    """The volume as clients see it."""

    size: int

    def read_into(self, buffer: memoryview, offset: int) -> object:
        """Fill the buffer from that byte offset. Raises DeviceError, DamagedPageError."""

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """See volume/extents.py. Raises DeviceError."""


class _Wanted(NamedTuple):
    """Of one filling, and no other: it may have to begin again at the same block in the same epoch."""

    block: int
    """From which on."""
    epoch: Epoch
    number: int
    fill: Fill | None
    """What the peer's superblock says of it; None until it has said so."""


class _UnderWay(NamedTuple):
    end_block: int
    first_lsn: int


class Filler:
    """`_lock` guards `_wanted`, `_heard`, `_done_to` and `_under_way`; the volume lock may be taken while it is held.
    The other fields are the thread's."""

    def __init__(
        self, peer: Peer, line: NumberLine, timeout: float, connect: Callable[..., "Link"], store: SuperblockStore
    ) -> None:  # fmt: skip
        self._lock = threading.Lock()
        self._wanted: _Wanted | None = None
        self._heard: Fill | None = None
        """What the peer said last of its filling."""
        self._numbers = itertools.count()
        self._done_to = 0
        """Blocks that the peer has taken."""
        self._under_way: deque[_UnderWay] = deque()
        self._peer = peer
        self._line = line
        self._timeout = timeout
        self._connect = connect
        self._store = store
        self._uuid = store.current.uuid
        self._bell = Bell()
        self.most_blocks = MAX_BLOCKS
        self.source: VolumeSource | None = None  # written before any thread runs
        self._ending = threading.Event()
        self._errors = InternalErrors(f"filling the origin of peer '{peer.name}'")
        self._thread: threading.Thread | None = None  # only start() and join() use it

    def start(self, together: StartTogether) -> None:
        """The thread, as one of several. Raises NoThreadError."""
        self._thread = together.add("wbcache-fill", self._run)

    def join(self) -> None:
        """End it. Idempotent."""
        self._ending.set()
        self._bell.ring()
        if self._thread:
            self._thread.join()
            self._thread = None
        self._bell.close()

    def begin(self, superblock: Superblock, state: StandbyState, is_anew: bool) -> bool:
        """The peer has been connected, has said that of itself, and got that superblock; `is_anew`: its log begins
        again. Returns whether its origin lacks anything."""
        has_grown = state.origin_bytes < superblock.origin_bytes
        if not (is_anew or state.is_inconsistent or has_grown):
            return False
        # What was copied in an earlier epoch and does not count may have been lost by the owner of then.
        block = state.fill.filled if state.epoch == superblock.epoch else state.fill.counted
        fill: Fill | None = state.fill
        if is_anew:
            block, fill = 0, None
        elif not state.is_inconsistent:
            block = up_to(state.origin_bytes).filled
            _log.warning("the origin of peer '%s' has grown: what is new of the volume is copied", self._peer.name)
        with self._lock:
            self._heard = fill
            self._wanted, self._done_to = _Wanted(block, superblock.epoch, next(self._numbers), fill), block
        self._bell.ring()
        return True

    def hear(self, state: StandbyState) -> None:
        """The connected peer says that of itself."""
        if not state.is_inconsistent:
            self.rest()
            return
        with self._lock:
            self._heard = fill = state.fill
            if self._wanted is None or self._wanted.fill is not None:
                return
            self._wanted = self._wanted._replace(fill=fill)
        what = "all of the volume" if not fill.base else f"what may have changed of the volume since LSN {fill.base}"
        _log.warning("the origin of peer '%s' is being filled: %s is copied", self._peer.name, what)
        self._bell.ring()

    def rest(self) -> None:
        """The peer is not connected, or lacks nothing."""
        with self._lock:
            self._wanted = None
        self._bell.ring()

    def floor(self) -> int:
        """The peer must not destage beyond it now; NO_MARK if nothing is under way."""
        with self._lock:
            return min((one.first_lsn for one in self._under_way), default=NO_MARK)

    @property
    def done_to(self) -> int:
        """So many blocks have been copied. May be a moment old."""
        return self._done_to

    def _run(self) -> None:
        while not self._ending.is_set():
            with self._lock:
                wanted = self._wanted
            if wanted is None or wanted.fill is None or wanted.block >= self._block_count:
                self._bell.wait(_LOOK_SECONDS * 600)
                continue
            try:
                self._serve(wanted)
            except StoppedError:
                break
            except WbcacheError as error:
                _log.warning("filling the origin of peer '%s' pauses: %s", self._peer.name, error)
                self._look_again(wanted)
                self._ending.wait(_PAUSE)
            except Exception as error:
                self._errors.note(error)
                self._ending.wait(_PAUSE)

    def _look_again(self, wanted: _Wanted) -> None:
        """A piece has not been taken: go on as the peer says now that it is, since an owner of before may have copied
        more than it said at first."""
        with self._lock:
            if self._wanted == wanted and self._heard:
                self._wanted = wanted._replace(fill=self._heard)

    @property
    def _block_count(self) -> int:
        return pages_of(self.source.size) if self.source else 0

    def _serve(self, wanted: _Wanted) -> None:
        """One connection, until all is copied, or something else is wanted. Raises WbcacheError."""
        link = self._connect(self._peer.name, self._bell, self._timeout, self._ending.is_set)
        try:
            self._copy(link, wanted)
        finally:
            link.close()
            with self._lock:
                self._under_way.clear()

    def _copy(self, link: "Link", wanted: _Wanted) -> None:
        with self._lock:
            block = self._done_to if self._wanted == wanted else self._block_count
        while not self._ending.is_set() and self._is_still(wanted):
            while len(self._under_way) < _MOST_UNDER_WAY and block < self._block_count:
                block = self._send(link, block, wanted)
            if not link.under_way:
                with self._lock:
                    if self._wanted == wanted:
                        self._wanted = wanted._replace(block=self._block_count)
                return
            link.wait(_LOOK_SECONDS)
            for _ in range(link.answered()):
                with self._lock:
                    done_to = self._under_way.popleft().end_block
                    if self._wanted == wanted:
                        self._done_to = done_to

    def _is_still(self, wanted: _Wanted) -> bool:
        with self._lock:
            return self._wanted == wanted

    def _send(self, link: "Link", block: int, wanted: _Wanted) -> int:
        """The next piece, from that block on; returns the block after it. Raises DeviceError, DamagedPageError."""
        assert self.source
        with self._lock:
            with self._line.lock:
                first_lsn = self._line.head
            # From here on the peer is held where it is.
            self._under_way.append(_UnderWay(block, first_lsn))
        try:
            piece, data = self._piece_from(block, first_lsn, wanted)
            link.write(encode(piece) + data, 0, durably=False)
        except BaseException:
            with self._lock:
                self._under_way.pop()
            raise
        end = block + piece.block_count
        with self._lock:
            self._under_way[-1] = _UnderWay(end, first_lsn)
        return end

    def _piece_from(self, block: int, first_lsn: int, wanted: _Wanted) -> tuple[FillPiece, bytes]:
        """The next one, and its data. Raises DeviceError, DamagedPageError."""
        regions, fill = self._store.regions(), wanted.fill
        # What the peer's log does not have is noted in the map, and so is everything since its origin was the volume.
        if not (regions and fill and fill.lacks_only(regions.since, regions.until)):
            return self._read(block, self._block_count, first_lsn, wanted.epoch)
        if block < fill.reach:
            # Something may have been copied there by an owner of before.
            return self._read(block, fill.reach, first_lsn, wanted.epoch)
        is_changed, end = regions.run_from(block, self._block_count)
        if is_changed:
            return self._read(block, end, first_lsn, wanted.epoch)
        piece = FillPiece(
            self._uuid, wanted.epoch, block, end - block, regions.since, regions.until, 0, is_zero=False,
            is_unchanged=True,
        )  # fmt: skip
        return piece, b""

    def _read(self, block: int, limit: int, first_lsn: int, epoch: Epoch) -> tuple[FillPiece, bytes]:
        """Blocks up to `limit`, or fewer. Raises DeviceError, DamagedPageError."""
        assert self.source
        offset, size = block << PAGE_SHIFT, self.source.size
        extents = self.source.extents(size - offset, offset, only_one=True)
        zeros = extents[0][1] >> PAGE_SHIFT if extents and extents[0][3] else 0
        if zeros:
            length = min(extents[0][1], _MOST_ZEROS, limit - block << PAGE_SHIFT)
            end = size if offset + length >= size else offset + (length >> PAGE_SHIFT << PAGE_SHIFT)
            return self._piece(block, pages_of(end - offset), first_lsn, epoch, b""), b""
        count = min(self.most_blocks, limit - block)
        data = bytearray(count << PAGE_SHIFT)
        self.source.read_into(memoryview(data)[: min(len(data), size - offset)], offset)
        if not any(data):
            return self._piece(block, count, first_lsn, epoch, b""), b""
        return self._piece(block, count, first_lsn, epoch, data), bytes(data)

    def _piece(self, block: int, count: int, first_lsn: int, epoch: Epoch, data: bytes | bytearray) -> FillPiece:
        with self._line.lock:
            end_lsn = self._line.head
        data_sum = xxh3_64_intdigest(data) if data else 0
        return FillPiece(self._uuid, epoch, block, count, first_lsn, end_lsn, data_sum, not data)
