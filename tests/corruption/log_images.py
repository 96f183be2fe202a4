# SPDX-License-Identifier: BSD-3-Clause
"""Small finished logs of every shape, what their volume holds, and what damage may make of it."""

import random
from dataclasses import dataclass
from functools import cache

from tests.support.abandon import abandon
from tests.support.simulated_disk import MemoryDisk
from tests.support.simulated_threads import Simulation
from wbcache_core.errors import WbcacheError
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.units import MIB, PAGE_BYTES

LOG_BYTES = 4 * MIB + 16 * PAGE_BYTES
BLOCKS = 40
ORIGIN_BYTES = BLOCKS * PAGE_BYTES - 1024
"""The last page is not whole."""

STOPPED, CRASHED = "stopped", "crashed"
SHAPES = [(compress, end) for compress in ("off", "zstd") for end in (STOPPED, CRASHED)]


def make_config(**parameters):
    settings = {"origin": "origin", "log": "log", "ring_size": "1M", "commit_interval": "1h", "destage_delay": "1h"}
    return Config.from_pairs((settings | parameters).items())


_PLAIN = make_config()

@dataclass(frozen=True)
class LogImage:
    """`states` are the contents of the volume after each commit, the last one last."""

    log: bytes
    origin: bytes
    states: tuple
    end: str
    used_bytes: int
    """Where the last segment ends."""

    @property
    def volume(self):
        return self.states[-1]

    @property
    def acceptable(self):
        """What the volume may hold if damage looks like a torn last write, which only a clean stop can rule out."""
        return self.states[-1:] if self.end == STOPPED else self.states[-2:]

    def offsets(self):
        """The byte offsets at which the log has something."""
        places = [range(start, start + PAGE_BYTES) for start in SLOT_OFFSETS]
        return [offset for place in (*places, range(DATA_START, self.used_bytes)) for offset in place]


class _Writer:
    """Plays a history on a cache and keeps the states."""

    def __init__(self, cache, origin, compress):
        self._cache = cache
        self._random = random.Random(1)
        self._compress = compress
        self.model = bytearray(origin)
        self.states = [bytes(origin)]

    def write(self, block, count=1, start=0, length=None):
        """count pages, or so many bytes from start within the first; in a compressed image half of them compress."""
        length = count * PAGE_BYTES if length is None else length
        offset = block * PAGE_BYTES + start
        length = min(length, ORIGIN_BYTES - offset)
        data = self._random.randbytes(length)
        if self._compress:
            data = (data[: length // 2] + bytes(length))[:length]
        self._cache.volume.write(data, offset)
        self.model[offset : offset + length] = data

    def clear(self, block, count, trim):
        offset = block * PAGE_BYTES
        length = min(count * PAGE_BYTES, ORIGIN_BYTES - offset)
        if trim:
            self._cache.volume.trim(length, offset)
        else:
            self._cache.volume.zero(length, offset, may_trim=False)
        self.model[offset : offset + length] = bytes(length)

    def commit(self):
        self._cache.volume.flush()
        self.states.append(bytes(self.model))

    def drain(self):
        self._cache.drain()


def long_history(writer):
    """A clean part and six dirty commits: single pages, runs, patches, trims and zeros alone and mixed."""
    writer.write(0, 6)
    writer.commit()
    writer.write(3)
    writer.clear(20, 2, trim=True)
    writer.commit()
    writer.drain()
    writer.write(1, 5)
    writer.commit()
    writer.write(30)
    writer.commit()
    writer.clear(2, 2, trim=True)
    writer.write(3, start=100, length=700)
    writer.clear(24, 3, trim=False)
    writer.commit()
    writer.clear(10, 1, trim=False)
    writer.commit()
    writer.write(BLOCKS - 2, 2)
    writer.write(12, 18)
    writer.commit()
    writer.write(30)
    writer.write(5, 2)
    writer.commit()


def short_history(writer):
    """A clean page and two dirty commits of a few pages, with a patch, a trim and a zero: few enough for every bit."""
    writer.write(1)
    writer.commit()
    writer.drain()
    writer.write(1)
    writer.clear(20, 2, trim=True)
    writer.write(3, start=100, length=700)
    writer.clear(24, 3, trim=False)
    writer.commit()
    writer.write(BLOCKS - 2, 2)
    writer.write(3)
    writer.commit()


@cache
def log_image(compress, end, history=long_history):
    """A log after that history, and a stop or a crash."""
    rng = random.Random(2)
    origin = MemoryDisk(bytearray(rng.randbytes(ORIGIN_BYTES)), "origin")
    log = MemoryDisk(bytearray(LOG_BYTES), "log")
    simulation = Simulation(0)
    found = []

    def play():
        cache = Cache(make_config(compress=compress), origin=origin, log=log)
        cache.activate()
        writer = _Writer(cache, origin.content, compress != "off")
        history(writer)
        found.extend(writer.states)
        used = cache._line.write_place
        if end == STOPPED:
            cache.stop()
        else:
            abandon(cache)
        return DATA_START + used * PAGE_BYTES

    with simulation.patched():
        used_bytes = simulation.run(play)
    return LogImage(bytes(log.content), bytes(origin.content), tuple(found), end, used_bytes)


class Damaged:
    """A working copy of an image, to be damaged and mended over and over."""

    def __init__(self, image):
        self.image = image
        self.log = bytearray(image.log)
        self.origin = bytearray(image.origin)

    def flip(self, offset, bit):
        self.log[offset] ^= 1 << bit

    def open(self):
        """Raises WbcacheError."""
        return Cache(_PLAIN, origin=MemoryDisk(self.origin, "origin"), log=MemoryDisk(self.log, "log"))

    def check_reads(self, states=None):
        """AssertionError unless each page is an error of ours or as in one of the states, the same for all pages.

        Returns the number of errors, None where the log is refused. The states are otherwise the acceptable ones.
        """
        try:
            cache = self.open()
        except WbcacheError:
            return None
        volume = bytearray(ORIGIN_BYTES)
        try:
            cache.volume.read_into(volume, 0)
            if bytes(volume) in (states or self.image.acceptable):
                return 0
            pages = [_page(volume, number) for number in range(BLOCKS)]
        except WbcacheError:
            pages = [_read(cache.volume, offset) for offset in range(0, ORIGIN_BYTES, PAGE_BYTES)]
        for state in states or self.image.acceptable:
            if all(page is None or page == _page(state, number) for number, page in enumerate(pages)):
                return pages.count(None)
        wrong = [
            number for number, page in enumerate(pages) if page is not None and page != _page(self.image.volume, number)
        ]
        raise AssertionError(f"pages {wrong} are read with wrong data")


def _page(state, number):
    return state[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]


def _read(volume, offset):
    page = bytearray(min(PAGE_BYTES, ORIGIN_BYTES - offset))
    try:
        volume.read_into(page, offset)
    except WbcacheError:
        return None
    return page
