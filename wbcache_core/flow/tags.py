# SPDX-License-Identifier: BSD-3-Clause
"""Names for moments, kept in the superblock: tag, untag, and superblocks that agree with the tags in memory.

Lock order: tag, superblock, volume.
"""

import threading
import time
from typing import Any

from wbcache_core import clock
from wbcache_core.errors import DeviceError, SyncFailedError, TagError
from wbcache_core.flow.failure import fail_log, raise_if_log_failed
from wbcache_core.flow.retention import Pins
from wbcache_core.format.superblock import TAG_COUNT, Tag
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import check_tag_name, parse_when, resolve
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.units import quoted

_RETRY_PAUSES = (0.05, 0.2, 0.5)
"""Seconds before each retry of a superblock that could not be written, of the destager or a stop."""


def with_tag(tags: tuple[Tag, ...], name: str, generation: Generation) -> tuple[Tag, ...]:
    """The tags and a new one. Raises TagError."""
    check_tag_name(name)
    if any(tag.name == name for tag in tags):
        raise TagError(f"there is a tag {quoted(name)} already; remove it first, or choose another name")
    if len(tags) == TAG_COUNT:
        raise TagError(f"there are {TAG_COUNT} tags already, which is all that a log can have; remove one first")
    return (*tags, Tag(name, *generation))


def without_tag(tags: tuple[Tag, ...], name: str) -> tuple[Tag, ...]:
    """The tags without one. Raises TagError."""
    if not any(tag.name == name for tag in tags):
        raise TagError(f"there is no tag {quoted(name)}")
    return tuple(tag for tag in tags if tag.name != name)


class Tags:
    """The tags of a server that accepts writes."""

    def __init__(self, line: NumberLine, covered: CoveredLog, pins: Pins, store: SuperblockStore) -> None:
        self._lock = threading.Lock()
        """Held while superblocks with tags are written, so that the last one written has the current tags."""
        self._line = line
        self._covered = covered
        self._pins = pins
        self._store = store

    def add(self, name: str, when: str) -> Tag:
        """Give a name to a generation in the window; durable when it returns.

        Raises TagError, MalformedMomentError, OutsideWindowError, and DeviceError; then there is no such tag.
        """
        check_tag_name(name)
        parsed = parse_when(when)
        with self._lock:
            with self._line.lock:
                raise_if_log_failed(self._line)
                tags = self._pins.tags
                tags = with_tag(tags, name, resolve(parsed, self._covered.generations, tags, clock.read()))
                # From here on the destager respects it; if it gives way at once, that is in the superblock too.
                self._pins.replace_tags(tags)
            try:
                self._write(tags=self._pins.tags, committed=self._line.committed)
            except BaseException:
                self._forget(name)
                raise
        return tags[-1]

    def remove(self, name: str) -> None:
        """Remove a tag; durable when it returns. Raises TagError, and DeviceError, and then the tag still exists."""
        with self._lock:
            with self._line.lock:
                raise_if_log_failed(self._line)
                tags = without_tag(self._pins.tags, name)
            self._write(tags=tags, committed=self._line.committed)
            # Up to here the destager respects it.
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Remove the tag from memory. `_lock` held, not the volume lock."""
        with self._line.lock:
            self._pins.replace_tags(tuple(tag for tag in self._pins.tags if tag.name != name))

    def write(self, **changes: Any) -> None:
        """Write a superblock with these changes and the current tags. No lock held.

        Raises DeviceError after a few attempts within a second, and SyncFailedError, which is latched.
        """
        pauses = iter(_RETRY_PAUSES)
        while True:
            try:
                with self._lock:
                    self._write(tags=self._pins.tags, **changes)
                return
            except SyncFailedError:
                raise
            except DeviceError:
                pause = next(pauses, None)
                if pause is None:
                    raise
            time.sleep(pause)

    def _write(self, **changes: Any) -> None:
        """Write a superblock with these changes. `_lock` held. Raises DeviceError; a SyncFailedError is latched."""
        try:
            self._store.write(**changes)
        except SyncFailedError as error:
            # It is not known what is durable: nothing may move any more.
            fail_log(self._line, error)
            raise
