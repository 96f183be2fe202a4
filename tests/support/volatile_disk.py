# SPDX-License-Identifier: BSD-3-Clause
"""A disk behind NBD that forgets, when power fails, some of what was written to it and not flushed."""

import struct

from tests.support.clients import REPOSITORY
from tests.support.nbdkit_server import NbdkitServer
from tests.support.simulated_disk import SECTOR, STYLES, Piece, survivors

_PLUGIN = REPOSITORY / "tests" / "support" / "volatile_disk_plugin.py"
_RECORD = struct.Struct("<QQ")
"""As in the plugin: offset, length."""


def _pieces(journal):
    """The writes of a journal, of the last one the whole sectors that got there."""
    pieces, at = [], 0
    while at + _RECORD.size <= len(journal):
        offset, length = _RECORD.unpack_from(journal, at)
        at += _RECORD.size
        data = journal[at : at + length]
        at += length
        whole = len(data) // SECTOR * SECTOR
        if whole:
            pieces.append(Piece(len(pieces), offset, data[:whole]))
    return pieces


class VolatileDisk:
    """`durable` is the file with what certainly survives; `server` is None while there is no power; `uri` stays the
    same from one start to the next."""

    def __init__(self, folder, name, size):
        self.name = name
        self.durable = folder / f"{name}.durable"
        self.server = None
        self._folder = folder
        self._socket = folder / f"{name}.sock"
        self.uri = f"nbd+unix:///?socket={self._socket}"
        self._unsynced = folder / f"{name}.unsynced"
        with open(self.durable, "wb") as durable:
            durable.truncate(size)

    def start(self, **parameters):
        """Serve what is durable; `flush_seconds=0.1` becomes flush-seconds=0.1, see the plugin."""
        settings = {"file": self.durable, "unsynced": self._unsynced, **parameters}
        words = [f"{key.replace('_', '-')}={value}" for key, value in settings.items()]
        self.server = NbdkitServer(self._folder, ["python", _PLUGIN, *words], lifetime_s=600)
        self._socket.unlink(missing_ok=True)
        self._socket.symlink_to(self.server.socket)

    def settle(self, rng, style=None):
        """Kill the server, if it lives; let some sectors of unflushed writes survive, and lose the others.

        Returns the bytes that had not been flushed, and those of them that survive.
        """
        self.server.destroy()
        self.server = None
        pieces = _pieces(self._unsynced.read_bytes())
        survived = survivors(pieces, rng, style or rng.choice(STYLES))
        with open(self.durable, "r+b") as durable:
            for piece in survived:
                durable.seek(piece.offset)
                durable.write(piece.data)
        return tuple(sum(len(piece.data) for piece in some) for some in (pieces, survived))

    @property
    def has_unsynced(self):
        """Whether it has answered writes, since the last flush, that a kill may lose."""
        return self._unsynced.stat().st_size > 0

    def destroy(self):
        if self.server:
            self.server.destroy()
