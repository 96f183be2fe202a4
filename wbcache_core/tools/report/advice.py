# SPDX-License-Identifier: BSD-3-Clause
"""What of a running server's numbers needs attention, and what to do about it."""

from collections.abc import Iterator

from wbcache_core.server.bypass import DETACHED
from wbcache_core.server.history import Facts
from wbcache_core.tools.activity import quantile
from wbcache_core.tools.report.page import ACT, GOOD, WATCH, Finding
from wbcache_core.tools.scales import count, duration, share, size
from wbcache_core.units import PAGE_SHIFT, parse_duration

_OLD_FACTOR, _OLD_SECONDS = 12, 60.0
_NEARLY_FULL = 0.75
_SLOW_FLUSH_SECONDS = 0.05
_SLOWED_SHARE = 0.01
_AMPLIFIED = 3.0
_ENOUGH = 100
"""Requests, before it is worth judging what they are like."""


def findings(status: Facts, settings: dict[str, str], seconds: float) -> list[Finding]:
    """The most urgent first; one that says so if there are none."""
    found = [*_failures(status), *_waiting(status, settings), *_habits(status, seconds)]
    found.sort(key=lambda one: (ACT, WATCH, GOOD).index(one.urgency))
    if not found:
        found.append(Finding(GOOD, "Nothing needs attention.", "Neither log nor origin fails, and nobody waits."))
    return found


def _failures(status: Facts) -> Iterator[Finding]:
    errors, counters = status["errors"], status["counters"]
    if status["state"] == "failed":
        yield Finding(
            ACT,
            "The log has failed for good: nothing can be written.",
            "Attach another log (wbcache attach), which gets what the origin lacks; a file is enough. Or copy the "
            "volume (nbdcopy): reads still work. See docs/durability.md.",
        )
    elif errors["log"]:
        yield Finding(
            ACT,
            f"Writes to the log fail: {errors['log']}",
            "They are retried, and flushes wait. Look at the log device, and whether it is full; or attach another "
            "log.",
        )
    if status["state"] == DETACHED:
        yield Finding(WATCH, "No log is attached: writes go to the origin.", "wbcache attach makes it a cache again.")
    if errors["origin"] and status["state"] == DETACHED:
        yield Finding(
            ACT,
            f"What was written to the origin may be lost: {errors['origin']}",
            "Flushes fail until the server is started again. Look at the origin, and check what is on it.",
        )
    elif errors["origin"]:
        yield Finding(
            ACT,
            f"The origin fails: {errors['origin']}",
            "Nothing is lost as long as the log has room; it is retried by itself. Look at the origin.",
        )
    if rejected := status["bad_blocks"]["bytes"]:
        yield Finding(
            ACT,
            f"The origin rejects {size(rejected)} while it accepts others: bad sectors.",
            "They are kept in the log and retried. wbcache status lists them; replace the disk.",
        )
    if damaged := counters["checksum_failures"]:
        yield Finding(
            ACT,
            f"{count(damaged)} times a page of the log was not what had been written there.",
            "The log device, or memory, damages data. Drain (wbcache drain), and replace it.",
        )
    for name, what in (("commit_failures", "commits"), ("destage_failures", "batches to the origin")):
        if counters[name] and not errors["log"] and not errors["origin"]:
            yield Finding(
                WATCH,
                f"{count(counters[name])} {what} failed and were repeated.",
                "It works now. The server's messages and the events below say when and why.",
            )


def _waiting(status: Facts, settings: dict[str, str]) -> Iterator[Finding]:
    sizes, throttling = status["bytes"], status["throttling"]
    held = status["tags"] or status["snapshots"] or settings["history"] != "off"
    cause = (
        "Tags, snapshots or history= hold data back from the origin: fewer of them, or a larger log, help."
        if held and not status["errors"]["origin"]
        else "The origin takes data more slowly than it is written: see its rates below. A larger destage-depth may "
        "make it faster; a larger log absorbs longer bursts."
    )
    if waiting := throttling["waiting_for_log_space"]:
        yield Finding(ACT, f"{count(waiting)} requests wait because the log is full.", cause)
    elif throttling["active"]:
        yield Finding(WATCH, "Writers are slowed at the moment, because the log is getting full.", cause)
    elif sizes["dirty"] > _NEARLY_FULL * sizes["log"]:
        yield Finding(WATCH, f"{share(sizes['dirty'], sizes['log'])} of the log is not on the origin yet.", cause)
    limit = max(_OLD_SECONDS, _OLD_FACTOR * parse_duration(settings["destage-delay"]))
    if status["dirty_seconds"] > limit and not held:
        yield Finding(
            WATCH,
            f"There is data that the origin has lacked for {duration(status['dirty_seconds'])}.",
            "It should be minutes at most: is the origin slow, or are its writes failing?",
        )
    if status["quiesce"]["quiesced"]:
        yield Finding(
            ACT,
            f"The volume is quiesced; {count(status['quiesce']['waiting'])} requests wait.",
            "wbcache resume lets them go on, or stop the server and start the next one.",
        )
    if status["drain"]["state"] in ("draining", "incomplete"):
        left = status["drain"]["bytes_left"]
        yield Finding(
            WATCH,
            f"A drain is under way: {size(left)} are left, and writes wait for the origin.",
            "wbcache drain --cancel lets the cache work as a cache again.",
        )


def _habits(status: Facts, seconds: float) -> Iterator[Finding]:
    counters = status["counters"]
    slowed = counters["throttled"]["seconds"]
    if seconds and slowed > _SLOWED_SHARE * seconds and not status["throttling"]["active"]:
        yield Finding(
            WATCH,
            f"Writers were slowed for {duration(slowed)} altogether, because the log was filling up.",
            "See below when. A larger log, or a faster origin, would have avoided it.",
        )
    slow = quantile(counters["flushes"]["counts"], 0.99)
    if slow and slow > _SLOW_FLUSH_SECONDS and sum(counters["flushes"]["counts"]) >= _ENOUGH:
        yield Finding(
            WATCH,
            f"One flush in a hundred takes longer than {duration(slow)}.",
            "Databases wait for flushes. The log device should answer a sync within a few milliseconds; one "
            "with power-loss protection does. Or flush=origin is set.",
        )
    written, to_log = counters["write_bytes"], counters["log_pages"] << PAGE_SHIFT
    if counters["write_count"] >= _ENOUGH and written and to_log > _AMPLIFIED * written:
        yield Finding(
            WATCH,
            f"The log gets {to_log / written:.1f} bytes for each byte that clients write.",
            "They write less than 4096 bytes at a time, or flush after each small write; both cost the log "
            "device's life. Is that what the application has to do?",
        )
