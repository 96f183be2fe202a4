# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of an epoch, one uninterrupted ownership of a log, and of the history of epochs in a superblock.

    epochs := number32 zero32 id switch[12] zero8
    switch := number32 id first_lsn previous

A switch is where an epoch began: its first LSN, and the checksum of the
descriptor before that, 0 if there was none. Two owners that do not know of
each other may take the same number; they differ in their random ids. Logs that
were never opened by a wbcache with epochs, and what was written before that,
have number and id 0. All integers are little-endian.
"""

import secrets
import struct
from itertools import pairwise
from typing import NamedTuple

from wbcache_core.errors import FormatError

LAST_NUMBER = 2**32 - 1
TAKEOVER_STEP = 1000
HISTORY_LENGTH = 12

_EPOCH = struct.Struct("<IIQ")
_SWITCH = struct.Struct("<IQQQ")
_HISTORY_BYTES = HISTORY_LENGTH * _SWITCH.size
EPOCHS_BYTES = _EPOCH.size + _HISTORY_BYTES + 8


class Epoch(NamedTuple):
    """Number and id."""

    number: int
    id: int

    def __str__(self) -> str:
        return f"{self.number} ({self.id:016x})" if self.number else "none"


NO_EPOCH = Epoch(0, 0)


class Switch(NamedTuple):
    """Where an epoch began."""

    epoch: Epoch
    first_lsn: int
    previous: int


def following(epoch: Epoch, takes_over: bool = False) -> Epoch:
    """The next epoch, with an id of its own. Raises FormatError after the last one.

    A takeover has the next multiple of TAKEOVER_STEP: so its number is higher than those that the former owner takes
    when it is started again and does not know of it.
    """
    number = epoch.number + 1
    if takes_over:
        number = (epoch.number // TAKEOVER_STEP + 1) * TAKEOVER_STEP
    if number > LAST_NUMBER:
        raise FormatError(f"epoch {LAST_NUMBER} is the last one that a log can have")
    return Epoch(number, secrets.randbits(64) or 1)


def encode_epochs(epoch: Epoch, history: tuple[Switch, ...]) -> bytes:
    """The current epoch and its predecessors, oldest first."""
    assert len(history) <= HISTORY_LENGTH
    switches = b"".join(_SWITCH.pack(*switch.epoch, switch.first_lsn, switch.previous) for switch in history)
    return (_EPOCH.pack(epoch.number, 0, epoch.id) + switches).ljust(EPOCHS_BYTES, b"\0")


def decode_epochs(content: bytes) -> tuple[Epoch, tuple[Switch, ...]]:
    """What encode_epochs() got. Raises FormatError for what no wbcache writes."""
    number, zero, id_number = _EPOCH.unpack_from(content)
    table = content[_EPOCH.size : _EPOCH.size + _HISTORY_BYTES]
    slots = [table[at : at + _SWITCH.size] for at in range(0, len(table), _SWITCH.size)]
    used = next((index for index, slot in enumerate(slots) if not any(slot)), len(slots))
    history = tuple(
        Switch(Epoch(number, id_number), lsn, previous)
        for number, id_number, lsn, previous in map(_SWITCH.unpack, slots[:used])
    )
    epoch = Epoch(number, id_number)
    sound = (
        not zero
        and not any(map(any, slots[used:]))
        and not any(content[_EPOCH.size + _HISTORY_BYTES :])
        and _is_sound(epoch)
        and all(switch.epoch.number and _is_sound(switch.epoch) and switch.first_lsn for switch in history)
        and all(
            earlier.epoch.number < later.epoch.number and earlier.first_lsn < later.first_lsn
            for earlier, later in pairwise(history)
        )
        and (not history or history[-1].epoch == epoch or history[-1].epoch.number < epoch.number)
    )
    if not sound:
        raise FormatError("the superblock has epochs that no wbcache writes")
    return epoch, history


def _is_sound(epoch: Epoch) -> bool:
    """Whether number and id are both 0 or neither is."""
    return bool(epoch.number) == bool(epoch.id)
