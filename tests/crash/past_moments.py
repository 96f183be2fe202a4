# SPDX-License-Identifier: BSD-3-Clause
"""What the past moments of a volume must be, whatever cut they are looked at after: generations, states, tags.

A generation has one number, end, time and content for good. It is known from when it was the newest, or from whoever
saw it first; the Oracle knows which steps it may have. Only of a commit that was under way a cut may leave a part; what
follows that cut goes on from the part.
"""

from dataclasses import dataclass
from functools import partial
from math import inf

import pytest
from xxhash import xxh3_64_intdigest

from tests.crash.broken_promise import BrokenPromiseError
from wbcache_core.errors import OutsideWindowError
from wbcache_core.format.superblock import Tag
from wbcache_core.units import PAGE_BYTES


@dataclass
class TagLife:
    """Places in the journal: where it was asked for, acknowledged, and where its end began and was acknowledged."""

    tag: Tag | None
    """None until it is known which moment it names."""
    begun: float
    acknowledged: float = inf
    end_begun: float = inf
    """Where its removal was asked for, or writers came first."""
    end_acknowledged: float = inf


class PastMoments:
    def __init__(self):
        self.compared = 0
        self._generations = {}
        """number -> Generation, the longest that was seen."""
        self._perhaps_parts = set()
        """Numbers of those that were only seen as the newest."""
        self._states = {}
        """number -> its end and the digest of the volume there."""
        self._tags = {}
        self._fading = frozenset()

    def let_fade(self, pages):
        """What these pages were at a past moment may be given up: they are compared with what the oracle allows when
        the moment is first seen, and not with what they were then."""
        if not self._fading.issuperset(pages):
            self._fading |= set(pages)
            self._states = {}

    def after_cut(self, newest, tags):
        """What is known when a new session begins with that last generation, None before the first, and those tags."""
        successor = PastMoments()
        if newest:
            older = {number: one for number, one in self._generations.items() if number < newest.number}
            successor._generations = {**older, newest.number: newest}
            known = successor._generations
            successor._states = {
                number: state
                for number, state in self._states.items()
                if number in known and state[0] == known[number].end_lsn
            }
        successor._fading = self._fading
        successor._tags = {tag.name: TagLife(tag, -1, 0) for tag in tags}
        return successor

    def begin_tag(self, name, position):
        self._tags[name] = TagLife(None, position)

    def acknowledge_tag(self, tag, position):
        life = self._tags[tag.name]
        life.tag, life.acknowledged = tag, position

    def give_up_tag(self, name):
        """It was not given."""
        del self._tags[name]

    def begin_end_of_tag(self, name, position):
        """From here on it may be gone, be it that somebody removes it or that writers come first."""
        life = self._tags[name]
        life.end_begun = min(life.end_begun, position)

    def acknowledge_end_of_tag(self, name, position):
        self._tags[name].end_acknowledged = position

    def check_tags(self, found, position):
        """Raises BrokenPromiseError unless these are the tags that a cut there may leave."""
        for tag in found:
            life = self._tags.get(tag.name)
            if life is None or life.begun >= position or life.end_acknowledged <= position:
                raise BrokenPromiseError(f"there is a tag that should not be: {tag}, {life}")
            if life.tag and life.tag != tag:
                raise BrokenPromiseError(f"tag {tag} was given as {life.tag}")
        names = {tag.name for tag in found}
        for name, life in self._tags.items():
            if life.acknowledged <= position <= life.end_begun and name not in names:
                raise BrokenPromiseError(f"a tag that was acknowledged is gone: {life}")

    def check_window(self, generations, newest, head, floor):
        """Raises BrokenPromiseError unless the generations are all that end in [floor, head], the newest last."""
        if not generations or generations[-1][:2] != (newest, head):
            raise BrokenPromiseError(f"the newest generation is {newest} and ends at {head}; there is {generations}")
        first = generations[0].number
        for number, generation in enumerate(generations, first):
            self._check_generation(number, generation, generation is generations[-1])
        if generations[0].end_lsn < floor:
            raise BrokenPromiseError(f"the origin may be at {floor}, and {generations[0]} can be opened")
        before = self._generations.get(first - 1)
        if before and before.end_lsn >= floor:
            raise BrokenPromiseError(f"{before} cannot be opened, though the origin is at {floor} at most")

    def _check_generation(self, number, generation, is_newest):
        known = self._generations.get(number)
        if known is not None and known != generation:
            is_part = is_newest and generation.end_lsn < known.end_lsn
            was_part = number in self._perhaps_parts and generation.end_lsn > known.end_lsn
            is_same_commit = (generation.number, generation.time_ns) == (known.number, known.time_ns)
            if not is_same_commit or not (is_part or was_part):
                raise BrokenPromiseError(f"{generation} was {known}")
            if is_part:
                return
        self._generations[number] = generation
        if not is_newest:
            self._perhaps_parts.discard(number)
        elif known is None:
            self._perhaps_parts.add(number)

    def check_state(self, generation, image, explain):
        """Raises BrokenPromiseError unless image is as that generation was before.

        A state that is met for the first time, or not as it was, is shown to explain(image, number), which raises.
        """
        number, end = generation.number, generation.end_lsn
        state = end, xxh3_64_intdigest(self._without_fading(image))
        known = self._states.get(number)
        if known == state:
            return
        explain(image, number)
        if known and known[0] == end:
            raise BrokenPromiseError(f"generation {number} is not what it was when it was seen before")
        if known is None or known[0] < end:
            self._states[number] = state

    def _without_fading(self, image):
        if not self._fading:
            return image
        kept = bytearray(image)
        for page in self._fading:
            kept[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(len(kept[page * PAGE_BYTES :][:PAGE_BYTES]))
        return kept


def check_moments(cache, oracle, position, volume, rng):
    """Open moments of a cache that a cut there left, all of them without rng; compare each with what it was.

    volume is its present content. Raises BrokenPromiseError and what opening and reading raise.
    """
    past = oracle.past
    generations, tags = cache.window()
    past.check_tags(tags, position)
    if not generations:
        # Nobody has written yet.
        assert not tags and not cache._store.is_formatted
        return
    line = cache._line
    floor = max(line.destaged, cache._superblock.batch_end)
    past.check_window(generations, cache._writer.end.generation, line.committed, floor)
    if line.head == line.committed:
        past.check_state(generations[-1], volume, partial(oracle.check_past, cut=position))
    for when, generation in _choose(generations, tags, rng):
        snapshot = cache.open_snapshot(when)
        if snapshot.generation != generation:
            raise BrokenPromiseError(f"'{when}' opens {snapshot.generation} instead of {generation}")
        image = bytearray(snapshot.size)
        snapshot.read_into(image, 0)
        snapshot.close()
        is_last = generation == generations[-1]
        past.check_state(generation, image, partial(oracle.check_past, cut=position if is_last else inf))
        past.compared += 1
    for number in (generations[0].number - 1, generations[-1].number + 1):
        if number >= 0:
            with pytest.raises(OutsideWindowError):
                cache.open_snapshot(str(number))


def _choose(generations, tags, rng):
    """(WHEN, the generation it means) of some moments."""
    numbered = [(str(one.number), one) for one in generations]
    tagged = [(tag.name, type(generations[0])(*tag[1:])) for tag in tags]
    if rng is None:
        return [*numbered, *tagged, ("last-flush", generations[-1])]
    chosen = [numbered[0], rng.choice(numbered)]
    if len(generations) > 2:
        chosen.append(numbered[rng.randrange(1, len(numbered) - 1)])
    if tagged:
        chosen.append(rng.choice(tagged))
    return chosen
