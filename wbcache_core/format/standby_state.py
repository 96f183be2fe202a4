# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of the state page: what a standby says of its log, at the beginning of its export `log`.

    state := magic version flags uuid log_bytes used_bytes origin_bytes head head_place previous oldest oldest_place
             destaged batch_end epochs[360] given_up_from fill own_bytes zero[3552] checksum

`log_bytes` is what its device has room for, `used_bytes` what the log was made with, 0 for a blank one, whose other
fields are 0 too. `head` is the LSN after its last segment, `previous` the checksum of that segment's descriptor; all of
them are durable. `oldest` and `oldest_place` are the lowest of its two superblocks, `epochs` as in a superblock
(epoch.py), and so is the fill; `own_bytes` is the size of the origin of its own, 0 without one. All integers are
little-endian. docs/standby-state.md has a worked example.
"""

import struct
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.format.epoch import EPOCHS_BYTES, NO_EPOCH, Epoch, Switch, decode_epochs, encode_epochs
from wbcache_core.format.superblock import NO_FILL, Fill, is_fill_sound
from wbcache_core.units import PAGE_BYTES

MAGIC = b"WBCSTBY1"
VERSION = 2
_OWN_ORIGINS, _INCONSISTENT, _FAILING = 2, 4, 8
DESCRIPTION = "the log of a standby, for the owner of the volume alone"
"""Of its export."""
_IDENTITY_MARK = "; standby "

_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size
_HEADER = struct.Struct(f"<8sII16s10Q{EPOCHS_BYTES}s8Q")
_ZEROS = bytes(_CHECKSUM_AT - _HEADER.size)
_NO_UUID = bytes(16)


@dataclass(frozen=True, slots=True)
class StandbyState:
    """LSNs, positions, and sizes in bytes."""

    uuid: bytes
    log_bytes: int
    used_bytes: int = 0
    origin_bytes: int = 0
    head: int = 0
    head_place: int = 0
    previous: int = 0
    oldest: int = 0
    oldest_place: int = 0
    destaged: int = 0
    batch_end: int = 0
    epoch: Epoch = NO_EPOCH
    history: tuple[Switch, ...] = ()
    given_up_from: int = 0
    """What the log has from here on may be cut off, if the owner's part from it here; 0 for nothing."""
    has_own_origins: bool = False
    """Each node of the volume has an origin of its own, as its superblock says."""
    is_inconsistent: bool = False
    """Its log and its origin are no state of the volume, as its superblock says."""
    fill: Fill = NO_FILL
    """How far its origin has been filled, as its superblock says."""
    own_bytes: int = 0
    """Size of the origin of its own that it has open, which the owner may fill; 0 without one. A standby without a log
    may have one too."""
    is_failing: bool = False
    """That origin takes nothing: destaging is stalled."""

    @property
    def is_blank(self) -> bool:
        """Whether it has no log yet."""
        return self.uuid == _NO_UUID


def describe(identity: str) -> str:
    """The description of a standby's export; identity is that of the running standby, and of no other."""
    return f"{DESCRIPTION}{_IDENTITY_MARK}{identity}"


def identity_in(description: str) -> str:
    """Which standby has that description; empty for an export of something else."""
    return description.partition(f"{DESCRIPTION}{_IDENTITY_MARK}")[2]


def blank(log_bytes: int, own_bytes: int = 0) -> StandbyState:
    """Of a standby without a log, whose device has room for one of log_bytes."""
    return StandbyState(_NO_UUID, log_bytes, own_bytes=own_bytes)


def encode(state: StandbyState) -> bytes:
    """A page."""
    flags = _OWN_ORIGINS * state.has_own_origins | _INCONSISTENT * state.is_inconsistent
    flags |= _FAILING * state.is_failing
    body = _HEADER.pack(
        MAGIC, VERSION, flags, state.uuid, state.log_bytes, state.used_bytes, state.origin_bytes, state.head,
        state.head_place, state.previous, state.oldest, state.oldest_place, state.destaged, state.batch_end,
        encode_epochs(state.epoch, state.history), state.given_up_from, *state.fill,
        state.own_bytes,
    ) + _ZEROS  # fmt: skip
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def decode(page: memoryview) -> StandbyState:
    """The state in a page of 4096 bytes. Raises FormatError, and nothing else, for any bytes."""
    if page[:8] != MAGIC:
        raise FormatError("no state of a standby here")
    (checksum,) = _CHECKSUM.unpack_from(page, _CHECKSUM_AT)
    if xxh3_64_intdigest(page[:_CHECKSUM_AT]) != checksum:
        raise FormatError("the state of the standby fails its checksum")
    (_, version, flags, uuid, log_bytes, used_bytes, origin_bytes, head, head_place, previous, oldest, oldest_place,
     destaged, batch_end, epochs, given_up_from, *fill, own_bytes) = _HEADER.unpack_from(page)  # fmt: skip
    if version != VERSION:
        raise FormatError(f"state of a standby of version {version}; this wbcache reads version {VERSION}")
    epoch, history = decode_epochs(epochs)
    state = StandbyState(
        uuid, log_bytes, used_bytes, origin_bytes, head, head_place, previous, oldest, oldest_place, destaged,
        batch_end, epoch, history, given_up_from, bool(flags & _OWN_ORIGINS), bool(flags & _INCONSISTENT),
        Fill(*fill), own_bytes, bool(flags & _FAILING),
    )  # fmt: skip
    if state.is_blank:
        is_sound = state == blank(state.log_bytes, own_bytes)
    else:
        is_sound = 1 <= state.oldest <= state.destaged <= state.head
    is_sound &= state.has_own_origins or not state.is_inconsistent
    is_sound &= bool(state.own_bytes) or not state.is_failing
    is_sound &= is_fill_sound(state.is_inconsistent, state.fill, state.origin_bytes)
    is_sound &= not flags & ~(_OWN_ORIGINS | _INCONSISTENT | _FAILING)
    if not is_sound or bytes(page[_HEADER.size : _CHECKSUM_AT]) != _ZEROS:
        raise FormatError("the state of the standby contradicts itself")
    return state
