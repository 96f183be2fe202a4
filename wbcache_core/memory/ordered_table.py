# SPDX-License-Identifier: BSD-3-Clause
"""A dictionary of numbers that also knows their order, and that returns memory when most of it has been removed.

A dict keeps the table of its largest size for ever. Here shrink() makes a new one. Nothing here locks.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from sortedcontainers import SortedList

Value = TypeVar("Value")

_LEAST = 1024
"""Shrinking a table that never had more than this is not worthwhile."""
_SHARE = 8
"""A table made for this many times the present number is too large: making a new one takes little, compared with having
filled it."""


class OrderedTable(Generic[Value]):
    """Look up in `values`, iterate over `keys`; change neither.

    If memory runs out in the middle of a change, `keys` may keep one that `values` lacks, never the other way round.
    """

    __slots__ = ("_most", "keys", "values")

    def __init__(self) -> None:
        self.values: dict[int, Value] = {}
        self.keys: SortedList[int] = SortedList()
        self._most = 0

    def __len__(self) -> int:
        return len(self.values)

    def put(self, key: int, value: Value) -> None:
        """Add or replace."""
        if key not in self.values:
            self.keys.add(key)
        self.values[key] = value

    def put_all(self, new: dict[int, Value]) -> None:
        """Like put() for each, none of which is there yet; faster if there are many."""
        self.keys.update(new)
        self.values.update(new)

    def drop(self, keys: Iterable[int]) -> None:
        """Remove those of them that are there. The largest size counts from before."""
        self._most = max(self._most, len(self.values))
        for key in keys:
            self.values.pop(key, None)
            self.keys.discard(key)

    def at_or_below(self, key: int) -> int | None:
        """The highest key up to this one."""
        index = self.keys.bisect_right(key)
        while index:
            index -= 1
            found = self.keys[index]
            if found in self.values:
                return found
        return None

    def between(self, start: int, stop: int | None = None) -> Iterator[int]:
        """The keys in [start, stop), lowest first."""
        return filter(self.values.__contains__, self.keys.irange(start, stop, (True, False)))

    def shrink(self) -> bool:
        """Return memory if the table is far too large for its content; returns whether it did."""
        if self._most < _LEAST or len(self.values) > self._most // _SHARE:
            return False
        self.values = dict(self.values.items())
        self._most = len(self.values)
        return True
