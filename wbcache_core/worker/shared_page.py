# SPDX-License-Identifier: BSD-3-Clause
"""A page of memory that server and worker share: what the server wants at the moment, the worker's sign of life, and
until when the origin has to be left alone.

Each field has one writer, and is a single byte or an aligned word, so nobody sees half of a value.
"""

import mmap
import os
from typing import NamedTuple

from wbcache_core.units import PAGE_BYTES

_STOP, _CALM, _PATIENT, _TICKS, _SETTLES, _RING_FLOOR = 0, 1, 2, 8, 16, 24


class Wanted(NamedTuple):
    """What the server wants at the moment."""

    stop: bool
    """The batch is to be interrupted."""
    calm: bool
    """There is no hurry."""
    patient: bool
    """The origin is to be waited for without limit."""
    ring_floor: int
    """Whole segments from this LSN on can be read from the ring."""


class SharedPage:
    """The descriptor stays open until close(), to be handed on."""

    def __init__(self, fd: int) -> None:
        """Raises OSError."""
        self.fd = fd
        self._bytes = mmap.mmap(fd, PAGE_BYTES)
        self._words = memoryview(self._bytes).cast("Q")
        self._seconds = memoryview(self._bytes).cast("d")

    @classmethod
    def new(cls) -> "SharedPage":
        """Raises OSError."""
        fd = os.memfd_create("wbcache-worker")
        try:
            os.truncate(fd, PAGE_BYTES)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def want(self, wanted: Wanted) -> None:
        """By the server."""
        self._bytes[_STOP], self._bytes[_CALM], self._bytes[_PATIENT] = wanted[:3]
        self._words[_RING_FLOOR // 8] = wanted.ring_floor

    @property
    def is_stop_wanted(self) -> bool:
        return self._bytes[_STOP] != 0

    @property
    def is_calm(self) -> bool:
        return self._bytes[_CALM] != 0

    @property
    def is_patient(self) -> bool:
        return self._bytes[_PATIENT] != 0

    @property
    def ring_floor(self) -> int:
        return self._words[_RING_FLOOR // 8]

    def tick(self) -> None:
        """By the worker: it is alive."""
        self._words[_TICKS // 8] += 1

    @property
    def ticks(self) -> int:
        return self._words[_TICKS // 8]

    def show_settling(self, settles_at: float) -> None:
        """By the worker, before each answer: what it has abandoned on the origin; see device.Device."""
        self._seconds[_SETTLES // 8] = settles_at

    @property
    def settles_at(self) -> float:
        return self._seconds[_SETTLES // 8]

    def close(self) -> None:
        self._words.release()
        self._seconds.release()
        self._bytes.close()
        os.close(self.fd)
