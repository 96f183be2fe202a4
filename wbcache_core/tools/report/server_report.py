# SPDX-License-Identifier: BSD-3-Clause
"""The page about a running server, from what it answers through its control socket."""

import json
from typing import NamedTuple

from wbcache_core.counters import SOURCE_NAMES
from wbcache_core.errors import ControlError
from wbcache_core.server.control.client import ask, counted_status
from wbcache_core.server.history import Facts
from wbcache_core.tools.activity import quantile
from wbcache_core.tools.log_content import LogContent, content_of_server
from wbcache_core.tools.log_facts import gather
from wbcache_core.tools.report.advice import findings
from wbcache_core.tools.report.charts import Line, Part, bar, histogram, over_time
from wbcache_core.tools.report.density import log_picture
from wbcache_core.tools.report.life import Life
from wbcache_core.tools.report.markup import Markup
from wbcache_core.tools.report.page import Finding, Tile, charts, page, section, table, tiles
from wbcache_core.tools.report.past import ROWS, past_section
from wbcache_core.tools.report.words import LATENCIES, PARAMETERS
from wbcache_core.tools.scales import count, duration, rate, share, size
from wbcache_core.units import PAGE_SHIFT

_PATIENCE_SECONDS = 20.0
"""For the picture of the log."""


class Answers(NamedTuple):
    """What a server says about itself."""

    status: Facts
    series: Facts
    settings: list[Facts]
    events: Facts
    history: Facts
    content: LogContent | None
    """Of its log; None if there is none now, or if it takes too long."""


def ask_all(path: str) -> Answers:
    """Raises ControlError."""
    status = counted_status(path)
    return Answers(
        status,
        ask(path, "series"),
        ask(path, "get")["settings"],
        ask(path, "events", after=0),
        ask(path, "history", limit=ROWS),
        _content(path),
    )


def _content(path: str) -> LogContent | None:
    try:
        return content_of_server(path, _PATIENCE_SECONDS)
    except ControlError:
        # The page is worth having without a picture, and wbcache picture says why there is none.
        return None


def server_page(answers: Answers) -> tuple[str, list[Finding]]:
    """The document, and what needs attention."""
    status, life = answers.status, Life(answers.series)
    values = {one["name"]: one["value"] for one in answers.settings}
    found = findings(status, values, life.span.seconds)
    about = (
        f"Origin {status['origin']}, log {status['log']}, volume {status['volume']}, wbcache {status['version']}, "
        f"process {status['pid']}, {status['state']}; counted since {life.span.began:%Y-%m-%d %H:%M:%S}, for "
        f"{duration(life.span.seconds)}."
    )
    sections = [
        tiles(_tiles(status, life.span.seconds)),
        _log(status),
        _rates(life),
        _latencies(status, life),
        past_section(answers.history, *([log_picture(gather(answers.content))] if answers.content else [])),
        _events(answers.events),
        _settings(answers.settings),
    ]
    return page(f"wbcache: {status['origin']}", about, found, sections), found


def _tiles(status: Facts, seconds: float) -> list[Tile]:
    counters, sizes = status["counters"], status["bytes"]
    written, reads = counters["write_bytes"], counters["read_counts"]
    to_log, destaged = counters["log_pages"] << PAGE_SHIFT, counters["destaged_pages"] << PAGE_SHIFT
    to_origin, commits = counters["origin_pages"] << PAGE_SHIFT, sum(counters["commits"]["counts"])
    slowed, all_reads = counters["throttled"], sum(reads.values())
    dirty = f"{size(sizes['dirty'])}" + (f" for {duration(status['dirty_seconds'])}" if sizes["dirty"] else "")
    return [
        Tile(
            "The origin lacks",
            dirty,
            "What would be lost with the log device. If it is old and no tag, snapshot or history= holds it back, the "
            "origin is too slow or fails.",
        ),
        Tile(
            "Log in use",
            share(sizes["dirty"], sizes["log"]),
            f"Of {size(sizes['log'])}. Above high-watermark writers are slowed, at 100 % they wait.",
        ),
        Tile(
            "Clients read",
            f"{size(counters['read_bytes'])}",
            f"In {count(all_reads)} requests: {share(reads['ring'], all_reads)} from memory, "
            f"{share(reads['log'], all_reads)} from the log, {share(reads['origin'], all_reads)} from the origin.",
        ),
        Tile(
            "Clients wrote",
            f"{size(written)}",
            f"In {count(counters['write_count'])} requests, {rate(written / seconds if seconds else 0)} on average.",
        ),
        Tile(
            "Log bytes per byte written",
            f"{to_log / written:.2f}" if written else "\N{EN DASH}",
            "What the log device wears by. A little above 1 is usual, below with compress=; much more means writes "
            "of less than 4096 bytes, or a flush after each.",
        ),
        Tile(
            "Requests per commit",
            f"{counters['served'] / commits:.1f}" if commits else "\N{EN DASH}",
            f"So many flushes shared one sync of the log; {count(commits)} commits. More is better for the device.",
        ),
        Tile(
            "Writes that the origin was spared",
            share(max(destaged - to_origin, 0), destaged),
            "What was overwritten before it went there. High is why a cache pays; 0 % with data that is written once.",
        ),
        Tile(
            "Writers were slowed",
            duration(slowed["seconds"]),
            f"{count(sum(slowed['counts']))} pauses, all writers together, because the log was getting full. 0 is "
            "best; otherwise the origin is the bottleneck.",
        ),
    ]


def _log(status: Facts) -> Markup:
    sizes = status["bytes"]
    dirty = sizes["dirty"] - sizes["volatile"]
    clean = max(sizes["log"] - sizes["dirty"] - sizes["log_free"], 0)
    parts = [
        Part("on the origin too", "grey", clean),
        Part("the origin lacks it", "orange", max(dirty, 0)),
        Part("only in memory", "violet", sizes["volatile"]),
        Part("free", "empty-part", sizes["log_free"]),
    ]
    reads = status["counters"]["read_counts"]
    sources = [
        Part(f"from {name}", colour, reads[source])
        for source, name, colour in (
            ("ring", "memory", "green"),
            ("log", "the log", "blue"),
            ("origin", "the origin", "orange"),
        )
    ]
    return section(
        "The log now",
        "A write goes to memory, with a commit to the log, and later to the origin. What is only in memory is lost "
        "when the machine loses power, unless a client flushed it; what the origin lacks is lost with the log device.",
        charts(bar("What the log holds", parts, size), bar("Where reads found their data", sources, count)),
    )


def _rates(life: Life) -> Markup:
    span = life.span
    return section(
        "Over the server's life",
        "Averages over each interval; a long life has longer intervals.",
        charts(
            over_time(
                "Clients",
                span,
                [
                    Line("written", "blue", life.per_second("write_bytes")),
                    Line("read", "green", life.per_second("read_bytes")),
                ],
                rate,
                in_bytes=True,
                note="What guests and programs asked for.",
            ),
            over_time(
                "Devices",
                span,
                [
                    Line("to the log", "violet", life.per_second("log_bytes")),
                    Line("to the origin", "orange", life.per_second("origin_bytes")),
                ],
                rate,
                in_bytes=True,
                note="If the origin's line is flat at its limit while the log's is above it, the log fills up.",
            ),
            over_time(
                "The origin lacks",
                span,
                [Line("dirty", "orange", life.level("dirty_bytes"))],
                size,
                in_bytes=True,
                note="It should come back down between bursts. If it only climbs, the origin cannot keep up.",
            ),
            over_time(
                "Writers slowed",
                span,
                [
                    Line(
                        "seconds of waiting per second, all writers together",
                        "orange",
                        life.per_second("throttled_us", 1e6),
                    ),
                ],
                _short,
                note="0 is best. 1 means: one writer was waiting all the time.",
            ),
        ),
    )


def _short(value: float) -> str:
    return f"{value:.3g}"


def _latencies(status: Facts, life: Life) -> Markup:
    counters = status["counters"]
    kinds = {f"read {name}": counters["reads"][name] for name in SOURCE_NAMES} | {
        "write": counters["writes"],
        "trim, zero": counters["clears"],
        "flush": counters["flushes"],
        "commit": counters["commits"],
        "pause": counters["throttled"],
    }
    over_life = [
        over_time(
            f"{title}: mean and slowest",
            life.span,
            [
                Line("slowest", "grey", life.slowest(name)),
                Line("mean", colour, life.mean(name)),
            ],
            duration,
            logarithmic=True,
        )
        for name, title, colour in (
            ("reads", "Reads", "green"),
            ("writes", "Writes", "blue"),
            ("flushes", "Flushes", "violet"),
            ("commits", "Commits", "violet"),
        )
    ]
    return section(
        "How long requests take",
        "The longer a bar, the more requests took so long; half of them took less than the median. Of reads and writes "
        "about every sixteenth is timed. Of the slowest it is known only that it took at most so long.",
        charts(*over_life),
        charts(*(_histogram(name, found) for name, found in kinds.items())),
    )


def _histogram(name: str, found: Facts) -> Markup:
    title, _, meaning = LATENCIES[name]
    counts = found["counts"]
    marks = [
        (words, value)
        for words, value in (("median", quantile(counts, 0.5)), ("99 % are faster", quantile(counts, 0.99)))
        if value is not None
    ]
    return histogram(f"{title}: {count(sum(counts))} timed", counts, marks, meaning)


def _events(answer: Facts) -> Markup:
    rows = [
        [one["time"].partition(".")[0].replace("T", " "), one["event"], _details(one)]
        for one in reversed(answer["events"])
    ]
    missed = f" {count(answer['missed'])} earlier ones are not kept any more." if answer["missed"] else ""
    return section(
        "Events",
        f"What changed, the latest first; wbcache events follows them.{missed}",
        table(["Time", "Event", "Details"], rows) if rows else "",
    )


def _details(event: Facts) -> str:
    rest = {name: value for name, value in event.items() if name not in ("number", "time", "event")}
    if "changed" in rest:
        return "; ".join(f"{one['name']}: {one['was']} \N{RIGHTWARDS ARROW} {one['is']}" for one in rest["changed"])
    return "; ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in rest.items()
    )


def _settings(settings: list[Facts]) -> Markup:
    rows = [[one["name"], one["value"], one["at_start"], PARAMETERS.get(one["name"], "")] for one in settings]
    changed = [at for at, one in enumerate(settings) if one["value"] != one["at_start"]]
    return section(
        "Settings",
        "Those that can be changed while the server runs (wbcache set); bold ones were.",
        table(["Parameter", "Value", "At the start", "What it says"], rows, changed=changed),
    )
