# SPDX-License-Identifier: BSD-3-Clause
"""Names for moments, kept in the superblock: tag, untag, and superblocks that agree with the tags in memory.

Lock order: tag, superblock, volume.
"""

import threading
from collections.abc import Callable
from typing import Any

from wbcache_core import clock
from wbcache_core.errors import DeviceError, TagError
from wbcache_core.flow.retention import Pins
from wbcache_core.format.superblock import TAG_COUNT, Tag
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.covered_log import CoveredLog
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import check_tag_name, parse_when, resolve
from wbcache_core.units import quoted


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

        def added(tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
            return with_tag(tags, name, resolve(parsed, self._covered.generations, tags, clock.read()))

        return self._change(added)[-1]

    def remove(self, name: str) -> None:
        """Remove a tag; durable when it returns. Raises TagError, DeviceError."""
        self._change(lambda tags: without_tag(tags, name))

    def _change(self, change: Callable[[tuple[Tag, ...]], tuple[Tag, ...]]) -> tuple[Tag, ...]:
        line, pins = self._line, self._pins
        with self._lock:
            with line.lock:
                line.raise_if_log_failed()
                tags = change(pins.tags)
                # From here on the destager respects it; if it gives way at once, the superblock says so too.
                pins.replace_tags(tags)
            self._write()
        return tags

    def write(self, **changes: Any) -> None:
        """Write a superblock with these changes and the current tags. No lock held. Raises DeviceError."""
        with self._lock:
            self._store.write(tags=self._pins.tags, **changes)

    def _write(self) -> None:
        try:
            self._store.write(tags=self._pins.tags, committed=self._line.committed)
        except DeviceError as error:
            # It is not known whether it is durable: nothing may move any more.
            self._line.fail_log(error)
            raise
