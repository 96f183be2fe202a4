# SPDX-License-Identifier: BSD-3-Clause
"""Moments to and from text, and WHEN: the ways to name a past moment of a volume.

    WHEN := generation | -AGE | ISO 8601 time | last-flush | tag
    AGE  := number s | m | h | d

Inside wbcache times are nanoseconds since 1970; people read and write ISO 8601.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from wbcache_core.clock import Reading
from wbcache_core.errors import (
    ClockError,
    ConfigError,
    MalformedMomentError,
    OutsideWindowError,
    PassingNameError,
    TagError,
)
from wbcache_core.format.superblock import TAG_NAME_BYTES, Tag
from wbcache_core.memory.generations import Generation, Generations
from wbcache_core.memory.timeline import ClockDoubtError, Seam
from wbcache_core.units import quoted

LAST_FLUSH = "last-flush"
RANGE = ".."
"""Between two moments that are compared: A..B."""

_NS = 10**9
_AGE = re.compile(r"-(\d{1,12}(?:\.\d{1,9})?)([smhd])", re.ASCII)
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LIKE_A_TIME = re.compile(r"\d{4}-\d\d", re.ASCII)
_LARGEST_NUMBER = 2**64 - 1
_MOST_TOLD = 5
_LONGEST_TOLD = 1000 * 365 * 86400
"""Seconds; anything longer means that it is not known."""
_FORMS = "a generation number, an age like -90s, -5m, -2h or -1d, a time like 2026-11-22T12:24:33, last-flush, or a tag"


def iso(time_ns: int) -> str:
    """UTC to the microsecond, as parse() reads it: `2026-11-22T12:24:33.123456Z`."""
    whole = datetime.fromtimestamp(time_ns // _NS, timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{time_ns % _NS // 1000:06d}Z"


def words(time_ns: int) -> str:
    """UTC to the second, for sentences."""
    return f"{datetime.fromtimestamp(time_ns // _NS, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def parse(text: str) -> int:
    """ISO 8601 with or without a time of day, a fraction and a zone; without a zone it is local time.

    Raises ConfigError, also for a local time that does not exist or exists twice because the clocks change.
    """
    # Before Python 3.11 fromisoformat() does not know the Z.
    spelled = text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text
    try:
        named = datetime.fromisoformat(spelled)
        moment, later = named.astimezone(), named.replace(fold=1).astimezone()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{quoted(text)} is not a time; write one like 2026-11-22, 2026-11-22T12:24:33 or 2026-11-22T12:24:33.5Z"
        ) from None
    if moment != later:
        exists = moment.replace(tzinfo=None) == named.replace(tzinfo=None)
        raise ConfigError(
            f"the local time {quoted(text)} {'occurs twice' if exists else 'does not exist'}: the clocks change then; "
            f"give it with a zone, as in {moment.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%S}Z or {later.isoformat()}"
        )
    whole = moment.replace(microsecond=0)
    return int(whole.timestamp()) * _NS + moment.microsecond * 1000


class When(NamedTuple):
    """A WHEN, parsed; exactly one of the fields behind `text` says which."""

    text: str
    generation: int | None = None
    age_ns: int | None = None
    time_ns: int | None = None
    tag: str | None = None

    @property
    def is_last_flush(self) -> bool:
        return self[1:] == (None, None, None, None)


def is_age(text: str) -> bool:
    """Whether it is a WHEN, or A..B, that begins like an option of a command."""
    return _AGE.fullmatch(text.partition(RANGE)[0]) is not None


def parse_when(text: str) -> When:
    """Raises MalformedMomentError. Whether a tag exists is left to resolve()."""
    if text.isascii() and text.isdigit():
        # A number that is far too long is not converted: that takes long and has a limit of its own.
        if len(text) > 2 * len(str(_LARGEST_NUMBER)) or int(text) > _LARGEST_NUMBER:
            raise MalformedMomentError(f"{quoted(text)} is larger than any generation number")
        return When(text, generation=int(text))
    if text == LAST_FLUSH:
        return When(text)
    match = _AGE.fullmatch(text)
    if match:
        return When(text, age_ns=int(float(match[1]) * _AGE_SECONDS[match[2]] * _NS))
    if _LIKE_A_TIME.match(text):
        try:
            # Times of generations are shown to the microsecond, and a time as shown has to find its generation again.
            return When(text, time_ns=parse(text) + 999)
        except ConfigError as error:
            raise MalformedMomentError(str(error)) from None
    if not text or text[0] == "-" or text.strip() != text or "/" in text or not text.isprintable():
        raise MalformedMomentError(f"{quoted(text)} is not a moment; write {_FORMS}")
    return When(text, tag=text)


def check_tag_name(name: str) -> None:
    """Raises TagError unless a tag may have that name."""
    try:
        when = parse_when(name)
    except MalformedMomentError:
        when = None
    if when is None or when.tag is None or name.casefold() == LAST_FLUSH or RANGE in name:
        raise TagError(
            f"{quoted(name)} cannot be the name of a tag: it has to be printable, without '/', '..' or blanks at "
            "either end, must not begin with '-', and must not be another way to name a moment"
        )
    length = len(name.encode())
    if length > TAG_NAME_BYTES:
        raise TagError(f"the name of a tag has at most {TAG_NAME_BYTES} bytes; {quoted(name)} has {length}")


def split_range(text: str, tags: Sequence[Tag]) -> tuple[str, str] | None:
    """The two sides of A..B; None if it is a single moment. Earlier versions let tags have such names: they are
    single moments."""
    start, dots, end = text.partition(RANGE)
    return (start, end) if dots and all(tag.name != text for tag in tags) else None


def check_order(start: Generation, end: Generation) -> None:
    """Raises MalformedMomentError if the export that shows what changed would begin after its end."""
    if start.end_lsn > end.end_lsn:
        raise MalformedMomentError(
            f"{describe(start)} is later than {describe(end)}: in A..B, A is the earlier moment; open "
            f"'@{end.number}..{start.number}'"
        )


def resolve_export(
    name: str, tags: Sequence[Tag], resolve_one: Callable[[str], Generation]
) -> tuple[Generation, ...]:
    """The one generation that the export @name shows now, or the two of A..B. Raises what resolve_one() does, and
    MalformedMomentError."""
    sides = split_range(name, tags)
    if not sides:
        return (resolve_one(name),)
    start, end = map(resolve_one, sides)
    check_order(start, end)
    return start, end


def describe(generation: Generation) -> str:
    """For people: `generation 12 (2026-11-22T12:24:33.123456Z)`."""
    return f"generation {generation.number} ({iso(generation.time_ns)})"


def describe_tag(tag: Tag) -> str:
    """As describe(), of what a tag names."""
    return describe(Generation(tag.generation, tag.end_lsn, tag.time_ns))


def describe_window(oldest: Generation | None, newest: Generation | None) -> str:
    """For people: what the log covers."""
    if oldest is None or newest is None:
        return "the log covers no generation yet"
    return f"the log covers {describe(oldest)} to {describe(newest)}"


def resolve(when: When, generations: Generations, tags: Sequence[Tag], now: Reading) -> Generation:
    """The generation that a WHEN means: for a time, the newest one at or before it by what the clock said then.

    `generations` are those in the window. Raises OutsideWindowError, which names the window, ClockError, TagError.
    """
    window = describe_window(generations.oldest, generations.newest)
    if when.tag is not None:
        return _tagged(when.tag, tags)
    if when.generation is not None:
        found = generations.numbered(when.generation)
    elif when.is_last_flush:
        found = generations.newest
    else:
        try:
            index = _index(when, generations, now)
        except ClockDoubtError as doubt:
            raise ClockError(f"{quoted(when.text)} {_doubt(doubt, generations)}; {window}") from None
        if index is None:
            raise OutsideWindowError(f"{quoted(when.text)} is in the future; {window}")
        found = generations.at(index) if index >= 0 else None
    if found is None:
        raise OutsideWindowError(f"{quoted(when.text)} is outside the window; {window}")
    return found


def _index(when: When, generations: Generations, now: Reading) -> int | None:
    """The index for an age or a time. Raises ClockDoubtError."""
    if when.age_ns is not None:
        return generations.times.at_age(when.age_ns, now)
    assert when.time_ns is not None
    # The present moment, as it is shown, is not in the future.
    time_ns = min(when.time_ns, now.wall_ns) if when.time_ns // 1000 == now.wall_ns // 1000 else when.time_ns
    return generations.times.at_wall(time_ns, now)


def _doubt(doubt: ClockDoubtError, generations: Generations) -> str:
    """What to say about it, and what to do."""
    set_there = f"the clock {_how_set(doubt.seam)} {_where(doubt.seam, generations)}"
    if not doubt.indices:
        return f"cannot be told: {set_there}; name a generation or a tag instead"
    all_meant = [describe(generations.at(index)) if index >= 0 else "one before the window" for index in doubt.indices]
    meant = " or ".join(all_meant[:_MOST_TOLD])
    return f"has more than one meaning: {set_there}; it can be {meant}; name that by its number or a tag"


def _how_set(seam: Seam) -> str:
    seconds = abs(seam.jump_ns) / _NS
    if not seam.jump_ns or seconds > _LONGEST_TOLD:
        return "was set"
    unit = next(unit for unit in "dhms" if seconds >= _AGE_SECONDS[unit] or unit == "s")
    return f"was set {'back' if seam.jump_ns < 0 else 'ahead'} by {seconds / _AGE_SECONDS[unit]:.3g} {unit}"


def _where(seam: Seam, generations: Generations) -> str:
    before = generations.at(seam.before).number
    is_last = seam.before == len(generations) - 1
    return f"after generation {before}" if is_last else f"between generation {before} and {before + 1}"


def _tagged(name: str, tags: Sequence[Tag]) -> Generation:
    for tag in tags:
        if tag.name == name:
            return Generation(tag.generation, tag.end_lsn, tag.time_ns)
    known = ", ".join(f"'{tag.name}'" for tag in tags) or "none"
    raise TagError(f"there is no tag {quoted(name)} (tags: {known}); a moment is {_FORMS}")


def is_final(when: When, generation: Generation, newest: Generation | None) -> bool:
    """Whether a WHEN that meant this generation now will always mean it, or nothing. `newest` is the newest that will
    always be there."""
    if when.generation is not None or when.tag is not None:
        return True
    # For the newest one it is not known what the clock will say at the next commit.
    return when.time_ns is not None and newest is not None and generation.number < newest.number


def refuse_passing(name: str, meaning: str, export: str, is_final: bool) -> None:
    """Raises PassingNameError for a name by which a client that reconnects would get another moment.

    `export` is a name for what it means now that will not pass.
    """
    if not is_final:
        raise PassingNameError(
            f"'@{name}' means {meaning} now and another one later, so a client that reconnects would mix two moments: "
            f"open '@{export}' instead (wbcache resolve prints that name)"
        )
