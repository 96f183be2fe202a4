# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache top`: what running servers are doing, live on a terminal."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from wbcache_core.errors import ConfigError, ControlError
from wbcache_core.server.control.client import check_socket, counted_status
from wbcache_core.server.history import Facts
from wbcache_core.tools.activity import activity
from wbcache_core.units import format_size

_NARROWEST = 80
_BAR = 30


def run_top(paths: list[str], seconds: float, once: bool, as_json: bool) -> int:
    """Show the servers until it is interrupted, or once; returns the exit status: 1 if one does not answer once. Raises
    ControlError, ConfigError."""
    for path in paths:
        check_socket(path, "top")
    watched = [_Watched(path) for path in paths]
    if as_json:
        while True:
            time.sleep(seconds)
            shown = [one.look() for one in watched]
            print(json.dumps(shown, indent=2 if once else None), flush=True)
            if once:
                return _status(shown)
    rich = _load_rich()
    if once:
        time.sleep(seconds)
        shown = [one.look() for one in watched]
        console = rich.console.Console(width=None if sys.stdout.isatty() else _NARROWEST, highlight=False)
        for facts in shown:
            console.print(_picture(rich, facts))
        return _status(shown)
    with rich.live.Live(screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(rich.console.Group(*(_picture(rich, one.look()) for one in watched)), refresh=True)


def _status(shown: list[Facts]) -> int:
    return int(any(facts["error"] for facts in shown))


def _load_rich() -> Any:
    """Raises ConfigError."""
    try:
        import rich.console
        import rich.live
        import rich.table

        return rich
    except ImportError as error:
        raise ConfigError(f"wbcache top needs rich; install python3-rich, or use --json ({error})") from None


class _Watched:
    """One server, and its last answer."""

    def __init__(self, path: str) -> None:
        """Raises ControlError."""
        self._path = path
        self._at, self._last = time.monotonic(), counted_status(path)

    def look(self) -> Facts:
        """Its state, and what it did since the last look. One that does not answer may be there again next time."""
        now = time.monotonic()
        try:
            facts = counted_status(self._path)
        except ControlError as error:
            return {"socket": self._path, "error": str(error)}
        done = activity(self._last, facts, now - self._at)
        self._at, self._last = now, facts
        return {"socket": self._path, "error": None, "status": facts, "activity": done}


def _picture(rich: Any, shown: Facts) -> Any:
    if shown["error"]:
        return rich.console.Group(shown["socket"], f"  {shown['error']}", "")
    facts, done = shown["status"], shown["activity"]
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("", "per second", "median", "99 %", ""):
        table.add_column(name, justify="left" if not name else "right")
    for name, one in done["requests"].items():
        table.add_row(name, *_numbers(one), _beside(name, done))
    shared = done["commits"]["shared_by"]
    table.add_row("commit", *_numbers(done["commits"]), f"{shared:.1f} requests each" if shared else "")
    return rich.console.Group(*_head(facts), table, *_foot(facts, done), "")


def _beside(name: str, done: Facts) -> str:
    if name == "read ring":
        return f"{_rate(done['read_bytes'])} read"
    if name == "write":
        return f"{_rate(done['write_bytes'])} written"
    return ""


def _numbers(one: Facts) -> tuple[str, str, str]:
    return f"{one['per_second']:,.0f}", _time(one["median"]), _time(one["percentile_99"])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _rate(byte_count: float) -> str:
    return f"{format_size(int(byte_count))}/s"


def _head(facts: Facts) -> Iterator[str]:
    yield f"'{facts['origin']}', {facts['state']}, process {facts['pid']}"
    sizes = facts["bytes"]
    if not sizes["log"]:
        yield "  no log is attached: wbcache attach"
        return
    share = min(sizes["dirty"] / sizes["log"], 1.0)
    filled = round(share * _BAR)
    age = f", the oldest for {facts['dirty_seconds']:.0f} s" if facts["dirty_seconds"] else ""
    yield f"  log {'█' * filled}{'░' * (_BAR - filled)} {share:.0%} of {format_size(sizes['log'])} dirty{age}"


def _foot(facts: Facts, done: Facts) -> Iterator[str]:
    left = done["destaged_in_seconds"]
    eta = f", all of it in {left:.0f} s" if left and facts["bytes"]["dirty"] else ""
    yield f"  {_rate(done['log_written_bytes'])} to the log, {_rate(done['origin_written_bytes'])} to the origin"
    yield f"  destaging {_rate(done['destaged_bytes'])} of log{eta}"
    waiting = facts["throttling"]["waiting_for_log_space"]
    if done["throttled"] or waiting:
        yield f"  writers were slowed for {done['throttled']:.2f} s a second; {waiting} wait for log space"
    if facts["quiesce"]["quiesced"]:
        yield f"  quiesced: {facts['quiesce']['waiting']} requests wait for wbcache resume"
    window = facts["window"]
    if window:
        since = window["oldest"]["time"].partition(".")[0]
        yield f"  {window['generations']} past moments since {since}Z, {len(facts['tags'])} tags"
    for device in ("log", "origin"):
        if facts["errors"][device]:
            yield f"  {device} fails: {facts['errors'][device]}"
    if facts["bad_blocks"]["bytes"]:
        yield f"  the origin rejects {facts['bad_blocks']['bytes']} bytes: wbcache status"
