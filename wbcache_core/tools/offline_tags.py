# SPDX-License-Identifier: BSD-3-Clause
"""Tags and history of a log that no server holds. A change is one superblock, so a crash leaves the old state or the
new one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wbcache_core import clock
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, DeviceInUseError
from wbcache_core.flow.tags import with_tag, without_tag
from wbcache_core.format.superblock import Tag
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import LAST_FLUSH, check_tag_name, parse_when, resolve, resolve_export
from wbcache_core.server import history
from wbcache_core.tools.log_history import LogHistory


@contextmanager
def _opened(path: str, read_only: bool) -> Iterator[tuple[FileDevice, LogHistory]]:
    """A log, locked, and what it covers. Raises OutsideWindowError if it is blank, DeviceError, LogRefusedError."""
    try:
        device = FileDevice(path, "log", direct=True, read_only=read_only)
    except DeviceInUseError as error:
        raise DeviceInUseError(f"{error}, or name its socket (parameter control=) instead of the log") from None
    try:
        history = LogHistory(device)
        history.tell_uncommitted()
        yield device, history
    finally:
        device.close()


def tag(path: str, name: str, when: str | None) -> Tag:
    """Give a name to a moment that the log covers, by default the newest one; durable when it returns.

    Raises MomentError, DeviceError, LogRefusedError.
    """
    check_tag_name(name)
    parsed = parse_when(LAST_FLUSH if when is None else when)

    def added(log: LogHistory) -> tuple[Tag, ...]:
        tags = log.superblock.tags
        return with_tag(tags, name, resolve(parsed, log.recovered.covered.generations, tags, clock.read()))

    return _change(path, added)[-1]


def untag(path: str, name: str) -> None:
    """Remove a tag; durable when it returns. Raises the same as tag()."""
    _change(path, lambda log: without_tag(log.superblock.tags, name))


def _change(path: str, change: Callable[[LogHistory], tuple[Tag, ...]]) -> tuple[Tag, ...]:
    with _opened(path, read_only=False) as (device, log):
        log.check_no_copy()
        tags = change(log)
        if not device.writable:
            raise DeviceError(f"log '{path}' cannot be written, and it is where tags are stored; check its permissions")
        # What a killed server wrote may be only in the page cache; a tag must not name what a power cut can destroy.
        device.sync()
        SuperblockStore(device, log.slots).write(tags=tags, committed=log.recovered.head)
    return tags


def resolved(path: str, when: str) -> tuple[Generation, ...]:
    """The generation that a moment means, or the two of A..B. Raises the same as tag()."""
    with _opened(path, read_only=True) as (_, log):
        return resolve_export(when, log.superblock.tags, log.resolve)


def read_history(path: str, queries: Callable[[history.Facts | None], history.Query | None]) -> list[history.Facts]:
    """The answers to one query after another, each made from the previous answer. Raises the same as tag()."""
    found: list[history.Facts] = []
    with _opened(path, read_only=True) as (_, log):
        while query := queries(found[-1] if found else None):
            found.append(history.describe(history.choose(log.recovered.covered, query), log.superblock.tags))
    return found
