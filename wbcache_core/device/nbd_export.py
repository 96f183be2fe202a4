# SPDX-License-Identifier: BSD-3-Clause
"""An NBD export as the first connection to it found it."""

from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.device.nbd_times import NbdTimes


class NbdExport(NamedTuple):
    """Also for another process, which makes connections of its own: it needs no descriptors, see OpenFile."""

    uri: str
    connections: int
    """Most connections of one process."""
    times: NbdTimes
    size: int
    writable: bool
    can_flush: bool
    can_zero: bool
    can_trim: bool
    can_cache: bool
    can_map: bool
    is_multi_conn: bool
    """What is flushed on one connection is read on every other one, and is what every other one flushes."""
    largest_data: int
    """Bytes."""

    @property
    def descriptors(self) -> list[int]:
        """To be handed over."""
        return []

    def with_descriptors(self, numbers: Iterator[int]) -> "NbdExport":
        """The same in the other process."""
        return self
