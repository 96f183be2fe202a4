# SPDX-License-Identifier: BSD-3-Clause
"""The live volume for clients that choose by the name of the export when their writes are acknowledged."""

from wbcache_core.device.device import Extent
from wbcache_core.errors import ExportNameError
from wbcache_core.memory.policy import LEVEL_NAMES, ORIGIN, PEER_LEVELS
from wbcache_core.units import quoted
from wbcache_core.volume.direct import DirectVolume
from wbcache_core.volume.volume import Volume

_WHEN = (
    "it is in memory", "it is durable in the log", "it is durable in the log, and peers have it in memory",
    "it is durable in the log and at the peers", "the origin has it",
)  # fmt: skip
_LEVELS = {f"ack={name}": level for level, name in enumerate(LEVEL_NAMES)} | {"write-through": ORIGIN}


def _levels(has_peers: bool) -> dict[str, int]:
    return {name: level for name, level in _LEVELS.items() if has_peers or level not in PEER_LEVELS}


def descriptions(has_peers: bool) -> list[tuple[str, str]]:
    """Names of exports, and what is particular to each."""
    return [(name, f"a write is acknowledged when {_WHEN[level]}") for name, level in _levels(has_peers).items()]


def level_of(name: str, has_peers: bool) -> int:
    """The level of the export with that name. Raises ExportNameError."""
    levels = _levels(has_peers)
    if name not in levels:
        names = ", ".join(f"'{one}'" for one in levels)
        raise ExportNameError(
            f"there is no export {quoted(name)}: '' and {names} are the live volume, @WHEN is a past moment of it"
        )
    return levels[name]


class AckExport:
    """The same volume, with one level of `ack` for all writes, trims and zeros. A request with FUA waits for the
    stronger of that level and `fua`; a flush is the server's."""

    def __init__(self, volume: Volume | DirectVolume, ack: int) -> None:
        self._volume = volume
        self._ack = ack
        self.size = volume.size
        self.read_into = volume.read_into
        self.flush = volume.flush
        self.prefetch = volume.prefetch

    def write(self, data: bytes | bytearray | memoryview, offset: int, fua: bool = False) -> None:
        """See Volume.write()."""
        self._volume.write(data, offset, fua, self._ack)

    def trim(self, count: int, offset: int, fua: bool = False) -> None:
        """See Volume.trim()."""
        self._volume.trim(count, offset, fua, self._ack)

    def zero(self, count: int, offset: int, fua: bool = False, may_trim: bool = True) -> None:
        """See Volume.zero()."""
        self._volume.zero(count, offset, fua, may_trim, self._ack)

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """See Volume.extents()."""
        return self._volume.extents(count, offset, only_one)
