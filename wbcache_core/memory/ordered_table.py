# SPDX-License-Identifier: BSD-3-Clause
"""A dictionary of numbers that also knows their order, and that gives memory back when most of it was taken out.

A dict keeps the table of its largest size for ever. Here shrink() makes a new one. Nothing here locks.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from sortedcontainers import SortedList

Value = TypeVar("Value")

_LEAST = 1024
"""A table that never had more than this is not worth the work."""
_SHARE = 8
"""So many times as many as there are now make a table too large: making a new one is short beside having filled it."""


class OrderedTable(Generic[Value]):
    """Look up in `values`, go through `keys`; change neither.

    Where memory ends in the middle of a change, `keys` may keep one that `values` lacks, never the other way round.
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
        """As put() for each, none of which is there yet; faster where they are many."""
        self.keys.update(new)
        self.values.update(new)

    def drop(self, keys: Iterable[int]) -> None:
        """Take out those of them that are there. The largest size counts from before."""
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
        """The keys from start to before stop, lowest first."""
        return filter(self.values.__contains__, self.keys.irange(start, stop, (True, False)))

    def shrink(self) -> bool:
        """Give memory back if the table is far too large for what is in it; whether it did."""
        if self._most < _LEAST or len(self.values) > self._most // _SHARE:
            return False
        self.values = dict(self.values.items())
        self._most = len(self.values)
        return True

    def check(self) -> None:
        """Assert that both halves have the same keys."""
        assert list(self.keys) == sorted(self.values)
