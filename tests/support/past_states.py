# SPDX-License-Identifier: BSD-3-Clause
"""Every state a volume went through, by LSN, and comparisons of snapshots with them."""

import itertools
from bisect import bisect_left, bisect_right

from tests.support.matching import is_between, same
from wbcache_core.units import PAGE_BYTES

_CHUNK = 1 << 15


class PastStates:
    """Only one thread writes to the volume. After each of its requests it notes the head and what the volume then held.

    A commit may fall into the middle of a request. What it has of it is a first part, since a request takes its place
    on the number line page by page, upwards. If it ends at an LSN that was the head before the request, that part can
    only be a range, which takes no LSN.
    """

    def __init__(self, head, content):
        self._heads = [head]
        self._contents = [self._chunks(content, itertools.repeat(None))]
        """What the last request at each head left."""
        self._firsts = list(self._contents)
        """What the first one left, in the middle of which a commit may have fallen."""
        self.compared = 0

    def note(self, head, content):
        """A request, or a start of the server, left the volume like that."""
        if self._heads and head == self._heads[-1]:
            # A range takes no LSN: as long as the head stays, no commit has come between.
            self._contents[-1] = self._chunks(content, self._contents[-1])
        else:
            assert not self._heads or head > self._heads[-1]
            before = self._contents[-1] if self._contents else itertools.repeat(None)
            self._heads.append(head)
            self._contents.append(self._chunks(content, before))
            self._firsts.append(self._contents[-1])

    def _chunks(self, content, before):
        """The content in pieces; those that are as before are shared."""
        view = memoryview(content)
        pieces = (view[at : at + _CHUNK] for at in range(0, len(view), _CHUNK))
        return [old if old == new else bytes(new) for new, old in zip(pieces, before, strict=False)]

    def forget_from(self, head):
        """What a crash lost, the state at head included: its LSNs are given to others."""
        count = bisect_left(self._heads, head)
        del self._heads[count:], self._contents[count:], self._firsts[count:]

    def forget_below(self, lsn):
        """No moment before that is asked for any more."""
        count = max(bisect_right(self._heads, lsn) - 1, 0)
        del self._heads[:count], self._contents[:count], self._firsts[:count]

    def compare(self, found, lsn):
        """Fail unless found is the volume as it stood at lsn."""
        index = bisect_right(self._heads, lsn) - 1
        assert index >= 0, "the model does not go back that far"
        self.compared += 1
        before = b"".join(self._contents[index])
        if found == before:
            return
        if index + 1 == len(self._heads) or (self._heads[index] == lsn and not _only_cleared(found, before)):
            same(found, before)
        states = [before, b"".join(self._firsts[index + 1])]
        assert is_between(found, states), f"not the volume as it stood at LSN {lsn}"


def _only_cleared(found, before):
    """Whether whole pages that are zeros now are all that differs."""
    pages = range(0, len(before), PAGE_BYTES)
    return all(
        found[at : at + PAGE_BYTES] == before[at : at + PAGE_BYTES] or not any(found[at : at + PAGE_BYTES])
        for at in pages
    )
