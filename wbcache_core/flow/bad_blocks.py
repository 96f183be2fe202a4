# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that the origin rejects while it accepts others: bad sectors.

Everything else is destaged. The content of these blocks stays in the log (carrier.py), is read from there, and is
retried from time to time. None of this is recorded: a server that starts finds it out again by trying.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from wbcache_core.errors import ControlError, DeviceError
from wbcache_core.memory.block_map import LocationMap, entry_lsn
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, pages_of

_log = logging.getLogger("wbcache")


CARRIED_AT_ONCE = 64
"""Blocks in one segment: a quarter of the smallest ring."""
_MOST = 1024
_FIRST_REST, _LONGEST_REST = 5.0, 600.0
_GIVE_UP_SECONDS = 20.0
_TOLD = 5
"""Most ranges that a message names."""
_SHOWN = 100
"""Most ranges that the status names."""


def most_bad_blocks(data_pages: int) -> int:
    """With more of them, or a larger share of the log, the origin counts as failing."""
    return min(_MOST, data_pages // 32)


def pages_to_carry(data_pages: int) -> int:
    """Room in the log for the largest number of them at once, with their descriptors."""
    most = most_bad_blocks(data_pages)
    return most + -(-most // CARRIED_AT_ONCE) + 1


class _BadBlock(NamedTuple):
    """Times in seconds of time.monotonic()."""

    error: str
    since: float
    rest: float
    retry_at: float


class BadBlocks:
    """The volume lock guards every field; callers of a method hold it unless the method says otherwise."""

    def __init__(self, line: NumberLine, locations: LocationMap, origin_name: str) -> None:
        self._line = line
        self._map = locations
        self._origin_name = origin_name
        self.most = most_bad_blocks(line.data_pages)
        self._blocks: dict[int, _BadBlock] = {}
        self._given_up: dict[int, int] = {}
        """Block -> LSN of the version that is given up."""

    def __len__(self) -> int:
        return len(self._blocks)

    def seconds_until_due(self) -> float:
        """When the next of them is to be tried. There is at least one."""
        if self._given_up:
            return 0.0
        return min(one.retry_at for one in self._blocks.values()) - time.monotonic()

    def retry_all(self) -> None:
        """Try each of them with the next batch that contains it."""
        self._blocks = {block: one._replace(retry_at=0.0) for block, one in self._blocks.items()}

    def postponed(self) -> dict[int, bool]:
        """All of them, and for each whether it is not to be tried now."""
        now = time.monotonic()
        # What has been written again since need no longer be given up, and is tried like any other block.
        self._forget_given_up([block for block in self._given_up if not self.is_given_up(block)])
        return {block: one.retry_at > now or block in self._given_up for block, one in self._blocks.items()}

    def is_given_up(self, block: int) -> bool:
        """Whether the newest version of the block is to be left out for good."""
        return self._given_up.get(block) == entry_lsn(self._map.get(block))

    def note(self, tried: Iterable[int], refused: dict[int, DeviceError]) -> list[str]:
        """A batch was written, except what was rejected; `tried` are those of its blocks that were bad before and were
        not postponed. Returns messages for the log. Raises DeviceError if there are too many.
        """
        if len(self._blocks.keys() | refused.keys()) > self.most:
            block, error = min(refused.items())
            raise DeviceError(
                f"{error} (byte {block << PAGE_SHIFT}), and so do more than {self.most} blocks", error.errno_value
            )
        now = time.monotonic()
        mended = [block for block in tried if block not in refused]
        for block in mended:
            self._drop(block)
        new = [block for block in refused if block not in self._blocks]
        for block, error in refused.items():
            known = self._blocks.get(block)
            rest = min(2 * known.rest, _LONGEST_REST) if known else _FIRST_REST
            self._blocks[block] = _BadBlock(str(error), known.since if known else now, rest, now + rest)
        self._update_line()
        messages = [f"origin '{self._origin_name}' accepts {words} again" for words in _told(mended)]
        messages += [
            f"origin '{self._origin_name}' does not accept {words}: {self._blocks[new[0]].error}; everything else is "
            "destaged; the log keeps these and retries them"
            for words in _told(new)
        ]
        return messages

    def note_dropped(self, blocks: Iterable[int]) -> None:
        """`destaged` has passed the versions that were given up; the volume is what the origin has there, except for
        what was written meanwhile."""
        for block in blocks:
            if self.is_given_up(block):
                self._map.set_page(block, 0)
                # Whoever read the log or the map before looks again: the entry may be what it was before that version.
                self._map.dropped_below = max(self._map.dropped_below, self._line.destaged)
            self._drop(block)
        self._update_line()

    def note_carried(self, block: int, lsn: int) -> None:
        """The newest version of a block is about to get this LSN; it stays given up if it was."""
        if self.is_given_up(block):
            self._given_up[block] = lsn

    def give_up_bytes(self, offset: int, length: int) -> tuple[int, bool]:
        """Leave out for good the content of all bad blocks that are completely within that range of bytes.

        The volume is then what the origin has there. Returns how many bytes, and whether it is done and durable; if
        not, open snapshots, tags or the history hold it back. No lock held. Raises ControlError.
        """
        line = self._line
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        with line.lock:
            blocks = self.give_up(pages_of(offset), offset + length >> PAGE_SHIFT)
            while self._is_pending(blocks) and not line.stopping and (left := deadline - time.monotonic()) > 0:
                line.moved.wait(left)
            is_done = not self._is_pending(blocks)
        if not blocks:
            raise ControlError(f"no bytes from {offset} to {offset + length} are bad; status shows those that are")
        return len(blocks) * PAGE_BYTES, is_done

    def give_up(self, first: int, stop: int) -> list[int]:
        """Leave out for good the content of those of these blocks that are bad, with the next batch; returns them."""
        # What is written or trimmed from now on has another LSN.
        self._line.close_segment()
        chosen = sorted(block for block in self._blocks if first <= block < stop)
        for block in chosen:
            self._given_up[block] = entry_lsn(self._map.get(block))
        self._line.destage_wanted.notify()
        return chosen

    def _is_pending(self, blocks: Iterable[int]) -> bool:
        """Whether any of them is still to be given up."""
        return any(block in self._given_up for block in blocks)

    def _forget_given_up(self, blocks: list[int]) -> None:
        for block in blocks:
            del self._given_up[block]
        if blocks:
            self._line.moved.notify_all()

    def _drop(self, block: int) -> None:
        self._blocks.pop(block, None)
        self._given_up.pop(block, None)

    def _update_line(self) -> None:
        if not self._blocks:
            self._line.origin_incomplete = None
            return
        (first, *_), count = _told(self._blocks), len(self._blocks)
        self._line.origin_incomplete = (
            f"origin '{self._origin_name}' does not accept {count * PAGE_BYTES} bytes ({first}"
            f"{' and more' if len(_ranges(self._blocks)) > 1 else ''}): {self._blocks[min(self._blocks)].error}; "
            "they are only in the log, and everything else is on the origin; keep the two together"
        )

    def facts(self) -> dict[str, Any]:
        """Ready for JSON: `bytes`, and the first `ranges` of similar neighbours."""
        now = time.monotonic()
        ranges = _ranges(self._blocks)[:_SHOWN]
        return {
            "bytes": len(self._blocks) * PAGE_BYTES,
            "ranges": [
                {
                    "offset": part[0] << PAGE_SHIFT,
                    "length": len(part) * PAGE_BYTES,
                    "error": self._blocks[part[0]].error,
                    "seconds": now - min(self._blocks[block].since for block in part),
                    "retry_in_seconds": max(min(self._blocks[block].retry_at for block in part) - now, 0.0),
                }
                for part in ranges
            ],
        }


def _ranges(blocks: Iterable[int]) -> list[list[int]]:
    """Neighbours merged."""
    found: list[list[int]] = []
    for block in sorted(blocks):
        if found and found[-1][-1] == block - 1:
            found[-1].append(block)
        else:
            found.append([block])
    return found


def _told(blocks: Iterable[int]) -> list[str]:
    """Which bytes these are, for people."""
    ranges = _ranges(blocks)
    words = [f"the {len(part) * PAGE_BYTES} bytes at {part[0] << PAGE_SHIFT}" for part in ranges[:_TOLD]]
    if len(ranges) > _TOLD:
        words.append(f"{sum(map(len, ranges[_TOLD:])) * PAGE_BYTES} bytes more")
    return words
