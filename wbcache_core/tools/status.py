# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache status`: what a running server is doing at this moment."""

import json
import time
from collections.abc import Iterator
from typing import Any, TypeAlias

from wbcache_core.server.bypass import DETACHED
from wbcache_core.server.control.client import ask, check_socket
from wbcache_core.server.drain import DRAINED, DRAINING, INCOMPLETE
from wbcache_core.units import PAGE_BYTES, format_share, format_size

Facts: TypeAlias = dict[str, Any]


def run_status(path: str, as_json: bool) -> int:
    """Print it; returns the exit status: 1 while log or origin fails, or the origin rejects blocks. Raises
    ControlError."""
    check_socket(path, "status")
    facts = ask(path, "status")
    print(json.dumps(facts, indent=2) if as_json else "\n".join(f"{label:<11} {text}" for label, text in _lines(facts)))
    return 1 if facts["errors"]["log"] or facts["errors"]["origin"] or facts["bad_blocks"]["bytes"] else 0


def run_give_up(path: str, offset: int, length: int) -> int:
    """Have a running server give up bytes that its origin rejects; returns the exit status. Raises ControlError."""
    check_socket(path, "give-up")
    facts = ask(path, "give-up", offset=offset, length=length)
    if facts["done"]:
        print(f"{facts['bytes']} bytes are given up: the volume reads there what the origin has, old data or an error")
        return 0
    print(f"{facts['bytes']} bytes will be given up as soon as snapshots, tags and the history let the origin move on")
    return 1


def _standby_lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "server", f"wbcache {facts['version']}, process {facts['pid']}, {facts['state']}"
    volume = f"volume {facts['volume']}" if facts["volume"] else "blank: no owner has connected yet"
    yield "log", f"'{facts['log']}', {volume}"
    if "consistent" in facts:
        yield "origin", f"'{facts['origin']}', {_origin_of_standby(facts)}"
    yield "cursors", ", ".join(f"{name} {lsn}" for name, lsn in facts["cursors"].items()) + " (LSN)"
    yield "dirty", f"{format_size(facts['bytes']['dirty'])} of {format_size(facts['bytes']['log'])}"
    silent = facts["owner_silent_seconds"]
    connected = "connected, " if facts["owner_connected"] else ""
    heard = "has not connected since the start" if silent is None else f"{connected}last heard of {silent:.1f} s ago"
    yield "owner", heard
    yield "takeover", _takeover(facts)
    if facts["parted_at"]:
        yield "parted", f"the owner lacks what is here from LSN {facts['parted_at']} on: see wbcache rejoin"
    if facts["refused"]["count"]:
        yield "refused", f"{facts['refused']['count']} times, at last: {facts['refused']['last']}"
    if "window" in facts:
        yield from _past(facts)
    yield from _failures(facts)


def _past(facts: Facts) -> Iterator[tuple[str, str]]:
    """What can be opened of it, and what is."""
    window = facts["window"]
    if window:
        ends = [f"{window[end]['generation']} ({window[end]['time']})" for end in ("oldest", "newest")]
        yield "window", f"generation {ends[0]} to {ends[1]}, {window['generations']} generations"
    for one in facts["snapshots"]:
        yield "snapshot", f"generation {one['generation']} ({one['time']}), open {one['opened']} times"
    for one in facts["tags"]:
        yield "tag", f"'{one['name']}' is generation {one['generation']} ({one['time']})"


def _origin_of_standby(facts: Facts) -> str:
    """The origin that it has of its own."""
    if facts["filled_blocks"] is not None:
        return f"being filled, {format_share(facts['filled_blocks'], facts['blocks'])} copied"
    return "consistent" if facts["consistent"] else "to be filled"


def _takeover(facts: Facts) -> str:
    if facts.get("filled_blocks") is not None:
        return "not before its origin has been filled"
    lacks = facts["takeover"]["lacks"]
    return f"needs --force=incomplete: {lacks}" if lacks else "has everything (wbcache promote)"


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    # An older server does not say.
    if facts.get("role") == "standby":
        yield from _standby_lines(facts)
        return
    sizes, rates, throttling = facts["bytes"], facts["rates"], facts["throttling"]
    yield "server", f"wbcache {facts['version']}, process {facts['pid']}, {facts['state']}"
    yield "origin", f"'{facts['origin']}'"
    if facts["state"] == DETACHED:
        yield "log", "none; wbcache attach"
        yield from _failures(facts)
        return
    yield "log", f"'{facts['log']}', volume {facts['volume']}"
    yield "cursors", ", ".join(f"{name} {lsn}" for name, lsn in facts["cursors"].items()) + " (LSN)"
    dirty, volatile, log = (format_size(sizes[name]) for name in ("dirty", "volatile", "log"))
    yield "dirty", f"{dirty} of {log}, {volatile} of it only in memory"
    yield "ring", f"{format_size(sizes['ring_memory'])} of memory; it keeps up to {format_size(sizes['ring'])}"
    speed = {name: f"{format_size(int(rates[f'{name}_bytes_per_second']))}/s" for name in ("written", "destaged")}
    yield "rates", f"{speed['written']} written, {speed['destaged']} destaged, over {rates['seconds']:.0f} s"
    waiting = throttling["waiting_for_log_space"]
    speed_of_writers = "slowed" if throttling["active"] else "at full speed"
    yield "writers", f"{speed_of_writers}, {waiting} waiting for log space" if waiting else speed_of_writers
    # An older server has none.
    if facts.get("quiesce", {}).get("quiesced"):
        yield "quiesced", f"changes wait until wbcache resume; {facts['quiesce']['waiting']} are waiting"
    if facts["drain"]["state"] == DRAINING:
        yield "drain", f"{format_size(facts['drain']['bytes_left'])} left; writes wait for the origin"
    elif facts["drain"]["state"] == DRAINED:
        yield "drain", "done; writes wait for the origin"
    elif facts["drain"]["state"] == INCOMPLETE:
        yield "drain", "done, except for bad sectors; writes wait for the origin"
    # An older server does not say.
    if why_not := facts.get("worker", {}).get("why_not"):
        yield "worker", f"none, the server itself writes to the origin: {why_not}"
    yield from _past(facts)
    if facts["origin_settles"]:
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + facts["origin_settles"]))
        yield "settling", f"destaging waits until {until}: writes on a lost connection may still be carried out"
    for one in facts["bad_blocks"]["ranges"]:
        yield "refused", (
            f"by the origin: {one['length']} bytes at {one['offset']}, for {one['seconds']:.0f} s, tried again in "
            f"{one['retry_in_seconds']:.0f} s: {one['error']}"
        )
    if facts["bad_blocks"]["bytes"]:
        yield "", f"{facts['bad_blocks']['bytes']} bytes in all, which only the log has"
    for one in facts.get("peers", ()):
        what = f"{one['state']}, {'counts' if one['counts'] else 'LEFT OUT'}, committed {one['committed']} (LSN)"
        behind = f", {format_size(one['behind'] * PAGE_BYTES)} behind" if one["behind"] else ""
        filled = f", {_origin_of_peer(one)}" if one.get("inconsistent") else ""
        yield "peer", f"'{one['peer']}': {what}{behind}{filled}" + (f"; {one['problem']}" if one["problem"] else "")
    yield from _failures(facts)


def _origin_of_peer(peer: Facts) -> str:
    """While it is being filled."""
    copied = peer["copied_blocks"]
    share = f", {format_share(copied, peer['blocks'])} copied" if copied is not None else ""
    return f"its origin INCONSISTENT{share}"


def _failures(facts: Facts) -> Iterator[tuple[str, str]]:
    for device in ("log", "origin"):
        if facts["errors"][device]:
            yield f"{device} fails", facts["errors"][device]
