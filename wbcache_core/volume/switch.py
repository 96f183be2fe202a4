# SPDX-License-Identifier: BSD-3-Clause
"""Which volume the clients' connections call, and how all of them change to another at the same moment.

Each connection has the volume itself, so that a request costs nothing more. To
change it, every connection first gets a gate, in which requests wait; then the
other volume. So no request reaches the new volume before the last one has
reached the old: otherwise a flush through a connection that still has the old
volume would not cover a write that was answered by the new one.
"""

import threading
from typing import NoReturn, Protocol

from wbcache_core.errors import VolumeReplacedError
from wbcache_core.volume.direct import DirectVolume
from wbcache_core.volume.export import AckExport
from wbcache_core.volume.volume import Volume

AnyVolume = Volume | DirectVolume


class Holder(Protocol):
    """A connection: its requests call `target`, and start over after a VolumeReplacedError."""

    target: object


class _Gate:
    """In place of a volume: requests wait, and start over."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def _wait(self, *_: object, **__: object) -> NoReturn:
        self._opened.wait()
        raise VolumeReplacedError("the volume has been replaced")

    read_into = write = trim = zero = flush = extents = prefetch = _wait


class Switch:
    """`_lock` guards all fields and the `target` of every holder; nothing is called while it is held."""

    def __init__(self, volume: AnyVolume) -> None:
        self._lock = threading.Lock()
        self._volume = volume
        self._levels: dict[Holder, int | None] = {}
        """Of each holder: the level of `ack` that it wants for all its changes, None for the server's."""

    def add(self, holder: Holder, level: int | None = None) -> None:
        """Give a connection the live volume, now and after each change."""
        with self._lock:
            self._levels[holder] = level
            holder.target = self._target(level)

    def remove(self, holder: Holder) -> None:
        """The connection has ended."""
        with self._lock:
            self._levels.pop(holder, None)

    def change(self, volume: AnyVolume) -> None:
        """Give all of them another volume. No change can be in progress on the present one, nor begin: those wait."""
        with self._lock:
            gate = _Gate(volume.size)
            for holder in self._levels:
                holder.target = gate
            self._volume = volume
            for holder, level in self._levels.items():
                holder.target = self._target(level)
            gate.open()

    def _target(self, level: int | None) -> object:
        return self._volume if level is None else AckExport(self._volume, level)
