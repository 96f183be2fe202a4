# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache replay`: writes everything the log holds to the origin, or, with --to, the volume to an image.

The cache itself does it, so a killed replay is like a killed server: start it again.
"""

import errno
import os
import threading
from collections.abc import Collection
from contextlib import ExitStack, suppress

from wbcache_core import threads
from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.new_file import new_file, refuse_existing, write_all
from wbcache_core.errors import CopyError, DeviceError, NoThreadError, ReadOnlyError, WbcacheError
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.memory import moments
from wbcache_core.pairing import pairing
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.tools.offline_devices import opened_origin
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import say, tell
from wbcache_core.units import GIB, MIB, PAGE_SHIFT
from wbcache_core.volume.volume import Volume

_POLL_SECONDS = 0.2
_HOLE_BYTES = 64 * 1024
"""Zeros are left out of an image in pieces of this size."""
_ZEROS = bytes(_HOLE_BYTES)


def run_replay(path: str, origin: str, target: str | None, force: Collection[str]) -> int:
    """Print how it went; returns the exit status. Raises WbcacheError if log or origin cannot be examined."""
    if target:
        refuse_existing(target)
    pairs = [("origin", origin), ("log", path), ("ring-size", "1M")]
    config = Config.from_pairs([*pairs, ("force", ",".join(force))] if force else pairs)
    read_only = target is not None
    with ExitStack() as stack:
        log = FileDevice(path, "log", direct=True, read_only=read_only)
        stack.callback(log.close)
        device = stack.enter_context(opened_origin(config.origin, log, read_only))
        try:
            if target is None:
                if pairing.read_log(log) is None:
                    say(f"log '{path}' is blank: there is nothing to replay")
                    return 0
                _check_writable(log, device, path, origin)
            cache = Cache(config, device, log)
            stack.callback(cache.stop)
            if target:
                write_image(cache.volume, target)
                say(f"'{target}' is the volume; origin and log are unchanged")
            else:
                _report(path, origin, _drain(cache, log))
        except ReadOnlyError as error:
            tell(f"wbcache: {error}")
            return 1
        except WbcacheError as error:
            tell(f"wbcache: {error}")
            if not isinstance(error, CopyError):
                tell(_what_now(path, origin, target, error))
            return 1
    return 0


def _check_writable(log: Device, device: Device, path: str, origin: str) -> None:
    """Raises ReadOnlyError before anything is written: a log that cannot record its progress would be replayed again,
    over whatever has been written to the origin since."""
    if not device.writable:
        raise ReadOnlyError(
            f"origin '{origin}' cannot be written; nothing has been changed; make it writable, or write the volume to "
            f"a new image: wbcache replay --to FILE '{path}' '{origin}'"
        )
    if not log.writable:
        raise ReadOnlyError(
            f"log '{path}' cannot be written, so the progress could not be recorded in it; nothing "
            "has been changed; copy the log to where it can be written, replay the copy, and do not use the old one "
            f"again; or write the volume to a new image: wbcache replay --to FILE '{path}' '{origin}'"
        )


def _what_now(path: str, origin: str, target: str | None, error: WbcacheError) -> str:
    if target:
        # No space, no folder and the like are no damage.
        is_damage = not isinstance(error, DeviceError) or error.errno_value == errno.EIO
        hint = "; what can be had in spite of damage: wbcache salvage" if is_damage else ""
        return f"wbcache: '{target}' has not been made{hint}"
    return (
        "wbcache: not everything is on the origin: keep the log with it. When the cause is gone, run the same command "
        "again; if the log cannot be written any more, replay a copy of it, or write the volume to a new image: "
        f"wbcache replay --to FILE '{path}' '{origin}'; if it is damage in the log, see what can be had: "
        f"wbcache salvage '{path}' '{origin}'"
    )


def _report(path: str, origin: str, before_and_after: tuple[Superblock, Superblock]) -> None:
    before, after = before_and_after
    if before.destaged == after.destaged:
        say(f"log '{path}' held nothing that origin '{origin}' lacked")
        return
    say(
        f"origin '{origin}' is complete: LSN {before.destaged} to {after.destaged - 1} went there; it is the volume as "
        f"of {moments.words(after.destaged_time_ns)}, generation {after.destaged_generation}"
    )


def _drain(cache: Cache, log: FileDevice) -> tuple[Superblock, Superblock]:
    """Destage everything; the superblocks before and after. Raises WbcacheError."""
    cache.activate()
    before = _superblock(log)
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(log, before, finished), name="wbcache-progress", daemon=True)
    with suppress(NoThreadError):
        # Without it there is no progress to be seen.
        threads.start(watcher)
    try:
        cache.drain()
        return before, _superblock(log)
    finally:
        finished.set()
        if watcher.ident:
            watcher.join()


def _superblock(log: FileDevice) -> Superblock:
    found = newest(read_slots(log))
    assert found
    return found


def _watch(log: FileDevice, start: Superblock, finished: threading.Event) -> None:
    """Show the progress according to the superblocks: what would remain done after a kill."""
    # Both superblocks were written by activate(), with the end of the log in `committed`.
    with Progress("destaging", start.committed - start.destaged << PAGE_SHIFT) as progress:
        while not finished.wait(_POLL_SECONDS):
            with suppress(DeviceError):
                # A superblock that is just being written can look damaged; the other one cannot.
                progress.update(_superblock(log).destaged - start.destaged << PAGE_SHIFT)


def write_image(volume: Volume, target: str) -> None:
    """A new sparse file with the volume, which gets its name only when it is complete. Raises WbcacheError."""
    with new_file(target, "image") as fd:
        os.ftruncate(fd, volume.size)
        with Progress("writing", volume.size) as progress:
            _copy(volume, fd, progress)


def _copy(volume: Volume, fd: int, progress: Progress) -> None:
    """Write everything that is not zero. Raises WbcacheError, OSError."""
    buffer = memoryview(bytearray(MIB))
    offset = 0
    while offset < volume.size:
        for start, length, _, zero in volume.extents(min(GIB, volume.size - offset), offset):
            if not zero:
                _copy_extent(volume, fd, buffer, range(start, start + length), progress)
            offset = start + length
            progress.update(offset)


def _copy_extent(volume: Volume, fd: int, buffer: memoryview, extent: range, progress: Progress) -> None:
    for offset in extent[:: len(buffer)]:
        view = buffer[: min(len(buffer), extent.stop - offset)]
        volume.read_into(view, offset)
        for start in range(0, len(view), _HOLE_BYTES):
            piece = view[start : start + _HOLE_BYTES]
            if piece != _ZEROS[: len(piece)]:
                write_all(fd, piece, offset + start)
        progress.update(offset + len(view))
