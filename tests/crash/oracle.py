# SPDX-License-Identifier: BSD-3-Clause
"""What a volume and its origin may hold after a power cut, sector by sector.

Every sector that is written says which sector it is and which write it comes from. No two clients touch the same
sector, so after a crash each client's writes must be there up to some point and not beyond: a *prefix* of its
steps. A step is what one request does to one page, in order of pages. What is known of the prefixes:

- they reach at least as far as what was acknowledged as durable before the cut;
- a step that is there was submitted after the answers to others, and all of these are there too.

So the volume is the origin and a prefix of the writes in the order of the number line, as far as any client can
tell. Zeros may come from several steps, so what a sector allows is a list of intervals of prefix lengths.
"""

import hashlib
import math
import struct
from dataclasses import dataclass, field, replace
from functools import lru_cache

from xxhash import xxh3_64_intdigest

from tests.crash.broken_promise import BrokenPromiseError
from tests.crash.given_up import GivenUp, Loss
from tests.crash.past_moments import PastMoments

SECTOR = 512
PAGE = 4096
SECTORS = PAGE // SECTOR

_HEADER = struct.Struct("<QQ")
_ZEROS = bytes(SECTOR)
_AREA = 8 * PAGE


@lru_cache(maxsize=1 << 16)
def stamped(sector, value):
    """The content of a sector after write number `value`; 0 is a sector of zeros. Half of them compress well."""
    if value == 0:
        return _ZEROS
    header = _HEADER.pack(sector, value)
    if value % 2:
        return header * (SECTOR // _HEADER.size)
    return header + hashlib.shake_128(header).digest(SECTOR - _HEADER.size)


def content(first_sector, values):
    """The bytes of consecutive sectors."""
    return b"".join(stamped(sector, value) for sector, value in enumerate(values, first_sector))


def values_in(data, first_sector=0):
    """The write that each sector comes from. Raises BrokenPromiseError for a sector that no single write made."""
    found = []
    for sector, offset in enumerate(range(0, len(data), SECTOR), first_sector):
        piece = bytes(data[offset : offset + SECTOR])
        number, value = _HEADER.unpack_from(piece)
        if piece != stamped(sector, value):
            raise BrokenPromiseError(
                f"sector {sector} is not from one write: its header says sector {number}, write {value}"
            )
        found.append(value)
    return found


@dataclass
class Request:
    """One request of a client: its steps are steps[first:end] of the client."""

    first: int
    end: int
    answered_before: tuple
    """For each client the number of steps that were answered when this was submitted."""
    generation: int
    """The last commit when this was submitted."""


@dataclass
class Client:
    number: int
    steps: list = field(default_factory=list)
    """(first sector, number of sectors, value)."""
    requests: list = field(default_factory=list)
    answered: int = 0
    """Steps that were answered."""


@dataclass
class Claim:
    """From this place of the journal on, so many steps of each client are durable."""

    position: int
    steps: tuple
    generation: int
    on_origin: bool


class Constraints:
    """What the content of an area says about the prefixes of the clients that touched it."""

    def __init__(self):
        self.single = {}
        """(client, first, last) -> page: a sector that only these prefix lengths explain."""
        self.several = {}
        """(client, intervals) -> page: the same where there are several intervals."""

    def add(self, client, intervals, page):
        if len(intervals) == 1:
            self.single.setdefault((client, *intervals[0]), page)
        else:
            self.several.setdefault((client, intervals), page)

    def finish(self):
        """Find the strictest of the single constraints: client -> ((first, page), (last, page))."""
        self.strictest = {}
        for (client, first, last), page in self.single.items():
            low, high = self.strictest.get(client, ((-1, None), (math.inf, None)))
            self.strictest[client] = max(low, (first, page)), min(high, (last, page))


class Oracle:
    """The history of a volume since each sector had the value that `before` says, over any number of sessions."""

    def __init__(self, before, client_count):
        self.before = before
        self.clients = [Client(number) for number in range(client_count)]
        self.claims = []
        self.answers = []
        """(place of the journal, client, steps): what a process that dies there has answered."""
        self.past = PastMoments()
        self.given_up = GivenUp()
        self._owners = {}
        self._histories = {}
        self._areas = {}

    def after_cut(self, position, prefixes, generation, tags, newest=None, volume=b""):
        """The history that a new session begins with when a cut there left these prefixes, that last commit, and tags.

        newest is the last generation, where there is one; volume the content, needed where something was given up.

        prefixes are (shortest, longest): where they differ, nobody can see whether the steps between are there. What
        came before the cut is durable or invisible, so its order does not matter any more.
        """
        nothing = (0,) * len(self.clients)

        def carried_over(one, _):
            # Steps that nobody can see may just as well be in the last commit.
            return replace(one, answered_before=nothing, generation=min(one.generation, generation - 1))

        successor = self._with_prefixes(position, prefixes, carried_over)
        successor.claim(0, tuple(shortest for shortest, _ in prefixes), generation, False)
        successor.past = self.past.after_cut(newest, tags)

        def newest_version(sector):
            return len(successor._histories.get(sector, ())), successor.value_now(sector)

        def found(sector):
            return values_in(volume[sector * SECTOR : (sector + 1) * SECTOR], sector)[0]

        successor.given_up = self.given_up.after_cut(position, newest_version, found)
        return successor

    def after_kill(self, position, prefixes, generation, tags, newest):
        """The history that a new session begins with when only the process died there, and left these prefixes. What
        was not durable is not so now either."""
        longest = [length for _, length in prefixes]

        def carried_over(one, shortest):
            # What nobody can see may be from after that, and counts as if it were there.
            return replace(
                one,
                answered_before=tuple(map(min, one.answered_before, longest)),
                generation=min(one.generation, generation - (one.end > shortest)),
            )

        successor = self._with_prefixes(position, prefixes, carried_over)
        for client, (shortest, _) in zip(successor.clients, prefixes, strict=True):
            successor.answers.append((0, client.number, shortest))
        successor.past = self.past.after_cut(newest, tags)
        return successor

    def _with_prefixes(self, position, prefixes, carried_over):
        """What is left of the history up to there; carried_over(request, shortest) is the request as it counts now."""
        successor = Oracle(self.before, len(self.clients))
        for old, new, (shortest, length) in zip(self.clients, successor.clients, prefixes, strict=True):
            for first_sector, count, value in old.steps[:length]:
                successor._add_step(new, first_sector, count, value)
            left = [carried_over(one, shortest) for one in old.requests if one.first < length]
            new.requests = [replace(one, end=min(one.end, length)) for one in left]
            new.answered = length
        successor._owners = self._owners
        successor.claims = [replace(claim, position=0) for claim in self.claims if claim.position <= position]
        return successor

    def answered(self):
        return tuple(client.answered for client in self.clients)

    def submit(self, client, first_sector, count, value, generation):
        """Before a request is sent; returns it."""
        first = len(client.steps)
        answered = self.answered()
        end = first_sector + count
        while first_sector < end:
            stop = min(end, (first_sector // SECTORS + 1) * SECTORS)
            self._add_step(client, first_sector, stop - first_sector, value)
            first_sector = stop
        request = Request(first, len(client.steps), answered, generation)
        client.requests.append(request)
        return request

    def _add_step(self, client, first_sector, count, value):
        for sector in range(first_sector, first_sector + count):
            assert self._owners.setdefault(sector, client.number) == client.number
            self._histories.setdefault(sector, []).append((len(client.steps), value))
        client.steps.append((first_sector, count, value))

    def give_up(self, pages, position):
        """The newest version of these pages is given up; those that are not answered yet may be newer."""
        losses = {}
        for sector in (sector for page in pages for sector in range(page * SECTORS, (page + 1) * SECTORS)):
            history = self._histories.get(sector)
            if history:
                answered = self.clients[self._owners[sector]].answered
                first = sum(1 for step, _ in history if step < answered)
                losses[sector] = [Loss(first, len(history))]
        self.given_up.add(position, losses)

    def answer(self, client, request, position=0):
        client.answered = request.end
        self.answers.append((position, client.number, request.end))

    def claim(self, position, steps, generation, on_origin):
        self.claims.append(Claim(position, steps, generation, on_origin))

    def value_now(self, sector):
        """What the sector holds for its client when all is answered."""
        history = self._histories.get(sector)
        return history[-1][1] if history else self.before[sector]

    def check_volume(self, image, position, memory_stays=False):
        """(shortest, longest) prefixes of an image that was found after a cut there, or, with memory_stays, after only
        the process died. Raises BrokenPromiseError."""
        durable = [0] * len(self.clients)
        for claim in self.claims:
            if claim.position <= position:
                durable = list(map(max, durable, claim.steps))
        for answered_at, client, steps in self.answers if memory_stays else ():
            if answered_at <= position:
                durable[client] = max(durable[client], steps)
        return self._check_prefixes(image, durable, [len(client.steps) for client in self.clients], position)

    def check_past(self, image, generation, cut=math.inf):
        """Raises BrokenPromiseError unless an image may be the volume at the end of that generation.

        With a place for `cut` it was the last one there: of a commit that was under way a part may be left, and what
        was claimed of it later does not count.
        """
        least = [0] * len(self.clients)
        for claim in self.claims:
            if claim.generation < generation or (claim.generation == generation and claim.position <= cut):
                least = list(map(max, least, claim.steps))
        most = [self._last_before(client, generation) for client in self.clients]
        try:
            self._check_prefixes(image, least, most, cut)
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"generation {generation}: {error}") from error

    def _check_prefixes(self, image, least, most, position):
        areas = self._look_at(image, position)
        prefixes = [self._intersect(client, areas, least, most) for client in self.clients]
        for client, (shortest, _) in zip(self.clients, prefixes, strict=True):
            last = next((request for request in reversed(client.requests) if request.first < shortest), None)
            if last is None:
                continue
            for other, needed in enumerate(last.answered_before):
                if prefixes[other][1] < needed:
                    raise BrokenPromiseError(
                        f"step {shortest - 1} of client {client.number} is there, and not step {needed - 1} of client "
                        f"{other}, which was answered before: {self.clients[other].steps[needed - 1]}"
                    )
        return prefixes

    def _intersect(self, client, areas, least, most):
        """The shortest and longest prefix of a client that all areas allow."""
        number = client.number
        low, high = (least[number], "what was acknowledged"), (most[number], "what was submitted")
        several = set()
        for area in areas:
            if number in area.strictest:
                first, last = area.strictest[number]
                low = first if first[0] > low[0] else low
                high = last if last[0] < high[0] else high
            several.update(intervals for owner, intervals in area.several if owner == number)
        allowed = [(low[0], high[0])] if low[0] <= high[0] else []
        for intervals in several:
            allowed = _both(allowed, intervals)
        if not allowed:
            raise BrokenPromiseError(
                f"no prefix of the steps of client {number} gives this: {low[1]} asks for {low[0]} steps or more "
                f"{client.steps[low[0] - 1 : low[0]]}, {high[1]} for {high[0]} or fewer {client.steps[high[0]:][:1]}"
            )
        return allowed[0][0], allowed[-1][1]

    def check_origin(self, image, position, superblock, longest, is_inside_commit):
        """Raises BrokenPromiseError unless the origin is what the superblock says.

        `longest` are the prefixes of the volume. Without a batch under way the origin is exactly some prefix, the one
        of `destaged_generation`, or, where `destaged` is inside a commit, a part of the next one more. With a batch
        under way each sector is as it was then, or as one of the steps since left it.
        """
        least, most = [0] * len(self.clients), list(longest)
        if superblock is None:
            most = least
        else:
            for claim in self.claims:
                known = claim.position <= position and claim.on_origin
                if known or claim.generation <= superblock.destaged_generation:
                    least = list(map(max, least, claim.steps))
            if superblock.batch_end == superblock.destaged:
                generation = superblock.destaged_generation + is_inside_commit
                most = [self._last_before(client, generation) for client in self.clients]
                most = list(map(min, most, longest))
        if superblock is None or superblock.batch_end == superblock.destaged:
            self._check_prefixes(image, least, most, position)
            return
        for area in self._look_at(image, position):
            for (client, *interval), page in area.single.items():
                self._check_sector(client, [interval], page, least, most)
            for (client, intervals), page in area.several.items():
                self._check_sector(client, intervals, page, least, most)

    def _check_sector(self, client, intervals, page, least, most):
        if not _both([(least[client], most[client])], intervals):
            raise BrokenPromiseError(
                f"{page} of the origin is as after {intervals} steps of client {client}, and not after "
                f"{least[client]} to {most[client]}, which is all that the batch under way may hold"
            )

    def _last_before(self, client, generation):
        """The longest prefix that can be in that generation: what was submitted after it was committed is not."""
        return next((one.first for one in client.requests if one.generation >= generation), len(client.steps))

    def _look_at(self, image, position):
        """The Constraints of each area of an image that was found after a cut there."""
        view = memoryview(image)
        given_up = self.given_up.count_before(position)
        found = []
        for offset in range(0, len(image), _AREA):
            data = view[offset : offset + _AREA]
            key = offset, given_up, xxh3_64_intdigest(data)
            area = self._areas.get(key)
            if area is None:
                area = self._areas[key] = self._parse(offset // SECTOR, data, given_up)
            found.append(area)
        return found

    def _parse(self, first_sector, data, given_up):
        area = Constraints()
        for sector, value in enumerate(values_in(data, first_sector), first_sector):
            history = self._histories.get(sector)
            if history is None:
                if value != self.before[sector]:
                    raise BrokenPromiseError(
                        f"sector {sector} holds write {value} instead of {self.before[sector]}, though nobody wrote it"
                    )
                continue
            client = self._owners[sector]
            intervals = self._intervals(client, sector, value, given_up)
            if not intervals:
                raise BrokenPromiseError(f"sector {sector} holds write {value}, which is none of {history}")
            area.add(client, intervals, f"page {sector // SECTORS}")
        area.finish()
        return area

    def _intervals(self, owner, sector, value, given_up):
        """The prefix lengths, both ends included, after which the sector may hold value."""
        history = self._histories[sector]
        starts = [0, *(step + 1 for step, _ in history)]
        ends = [*(step for step, _ in history), len(self.clients[owner].steps)]
        contents = [self.before[sector], *(value for _, value in history)]
        versions = self.given_up.versions(sector, given_up, contents, value)
        return tuple((starts[one], ends[one]) for one in versions if starts[one] <= ends[one])


def _both(some, others):
    """What two sorted lists of intervals have in common."""
    return [
        (max(low, first), min(high, last))
        for low, high in some
        for first, last in others
        if max(low, first) <= min(high, last)
    ]  # fmt: skip
