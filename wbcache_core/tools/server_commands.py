# SPDX-License-Identifier: BSD-3-Clause
"""The commands that ask a running server, as arguments of `wbcache`: each sets `ask`, which carries it out."""

import argparse

from wbcache_core.device.name import local_path
from wbcache_core.errors import ConfigError
from wbcache_core.tools.arguments import Commands, add_json, argument
from wbcache_core.tools.detach import run_attach, run_detach
from wbcache_core.tools.drain import run_drain
from wbcache_core.tools.events import run_events
from wbcache_core.tools.metrics import run_metrics
from wbcache_core.tools.nodes import run_nodes
from wbcache_core.tools.promote import run_promote
from wbcache_core.tools.quiesce import run_quiesce
from wbcache_core.tools.rejoin import run_rejoin
from wbcache_core.tools.settings import run_get, run_set, setting
from wbcache_core.tools.status import run_give_up, run_status
from wbcache_core.tools.top import run_top

_SOCKET = "the socket that the server was given with control="
_local_path = argument(local_path)


def add(commands: Commands) -> None:
    """All of them."""
    _add_status(commands)
    _add_top(commands)
    _add_events(commands)
    _add_metrics(commands)
    _add_drain(commands)
    _add_quiesce(commands)
    _add_detach(commands)
    _add_attach(commands)
    _add_get(commands)
    _add_set(commands)
    _add_give_up(commands)
    _add_nodes(commands)
    _add_promote(commands)
    _add_rejoin(commands)


def _add(commands: Commands, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=text)
    parser.add_argument("socket", metavar="SOCKET", type=_local_path, help=_SOCKET)
    return parser


def _add_status(commands: Commands) -> None:
    parser = _add(
        commands, "status", "what a running server is doing",
        "Shows the cursors, how much is dirty, rates, the window, open snapshots, tags, and failures.",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(ask=lambda given: run_status(given.socket, given.json))


def _add_top(commands: Commands) -> None:
    parser = commands.add_parser(
        "top", help="what running servers are doing, live",
        description="Shows requests, latencies, commits, destaging, and how full the log is, for one or more running "
        "servers, until it is interrupted. Needs rich (python3-rich) unless --json is given.",
    )  # fmt: skip
    parser.add_argument("sockets", metavar="SOCKET", type=_local_path, nargs="+", help=_SOCKET)
    parser.add_argument("--once", action="store_true", help="show one interval, and end")
    parser.add_argument("--seconds", type=argument(_interval), default=1.0, help="the interval; 1 by default")
    add_json(parser)
    parser.set_defaults(ask=lambda given: run_top(given.sockets, given.seconds, given.once, given.json))


def _add_events(commands: Commands) -> None:
    parser = _add(
        commands, "events", "changes of a running server's state as they happen",
        "Prints one JSON object for each change: throttling and stalls, failures and their ends, a drain, tags that "
        "had to go, parameters that were set. Ends with the server; the exit status is 1 if nobody stopped that.",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="begin with the events that the server still knows")
    parser.set_defaults(ask=lambda given: run_events(given.socket, given.all))


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise ConfigError(f"'{text}' is not a number of seconds from 0.1 to 3600")
    return seconds


def _add_metrics(commands: Commands) -> None:
    parser = commands.add_parser(
        "metrics", help="metrics of running servers for Prometheus",
        description="Prints the metrics of running servers in Prometheus' text format, as metrics= serves them. "
        "Needs Prometheus' client library (python3-prometheus-client).",
    )  # fmt: skip
    parser.add_argument("sockets", metavar="SOCKET", type=_local_path, nargs="+", help=_SOCKET)
    parser.set_defaults(ask=lambda given: run_metrics(given.sockets))


def _add_drain(commands: Commands) -> None:
    parser = _add(
        commands, "drain", "destage everything while the server runs",
        "Has a running server destage everything that was written so far. From then on, writes wait for "
        "the origin, so that it ends under any load, and nothing is dirty afterwards; --cancel ends that.",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wait", action="store_true", help="return when the origin has everything, and show progress")
    what.add_argument("--cancel", action="store_true", help="let writes be acknowledged as the parameters say again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(ask=lambda given: run_drain(given.socket, given.wait, given.cancel, given.json))


def _add_quiesce(commands: Commands) -> None:
    for name, summary, text in (
        ("quiesce", "have all changes wait", "Commits what was acknowledged; writes wait until wbcache resume."),
        ("resume", "end wbcache quiesce", "Lets the requests go on that wait because of wbcache quiesce."),
    ):
        parser = _add(commands, name, summary, text)
        add_json(parser)
        parser.set_defaults(ask=lambda given: run_quiesce(given.socket, given.command, given.json))


_FORCE = "give up tags and open snapshots, which go with the log"


def _add_detach(commands: Commands) -> None:
    parser = _add(
        commands, "detach", "go on without a log",
        "Drains the log of a running server; then the server goes on with the origin alone, and the log can be "
        "removed. Clients notice nothing but a pause. wbcache attach is the way back.",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help=_FORCE)
    add_json(parser)
    parser.set_defaults(ask=lambda given: run_detach(given.socket, given.force, given.json))


def _add_attach(commands: Commands) -> None:
    parser = _add(
        commands, "attach", "go on with this log",
        "Has a running server go on with another log, which is created if it does not exist. The present log, if "
        "there is one, is detached first. A log that is refused leaves everything as it was.",
    )  # fmt: skip
    parser.add_argument("log", metavar="LOG", type=_local_path, help="a file or block device, as log= names it")
    parser.add_argument("--format", action="store_true", help="give up whatever this log holds")
    parser.add_argument("--log-size", metavar="SIZE", help="of a log that is created; log-size= by default")
    parser.add_argument("--force", action="store_true", help=_FORCE)
    add_json(parser)
    parser.set_defaults(
        ask=lambda given: run_attach(
            given.socket, given.log, given.format, given.log_size, given.force, given.json
        )
    )  # fmt: skip


def _add_get(commands: Commands) -> None:
    parser = _add(
        commands, "get", "parameters of a running server",
        "Shows the parameters that may change while the server runs: their values, and how they were at "
        "the start if that was different.",
    )  # fmt: skip
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these parameters")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(ask=lambda given: run_get(given.socket, given.names, given.json))


def _add_set(commands: Commands) -> None:
    parser = _add(
        commands, "set", "change parameters of a running server",
        "Changes parameters while the server runs, until it ends: all that are named, or none if one of "
        "them is refused. wbcache get shows which may be changed.",
    )  # fmt: skip
    parser.add_argument(
        "values", metavar="NAME=VALUE", nargs="+", type=argument(setting), help="as on nbdkit's command line"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(ask=lambda given: run_set(given.socket, given.values, given.json))


def _add_give_up(commands: Commands) -> None:
    parser = _add(
        commands, "give-up", "give up bytes that the origin rejects",
        "For bad sectors of the origin, which status shows: what was written there is only in the log. "
        "Gives that up for good, in all bad blocks within LENGTH bytes from OFFSET on. What clients wrote there is "
        "lost, flushed or not; the volume then reads there what the origin has, which is old data or an error.",
    )  # fmt: skip
    parser.add_argument("offset", metavar="OFFSET", type=argument(_bytes), help="in bytes")
    parser.add_argument("length", metavar="LENGTH", type=argument(_bytes), help="in bytes")
    parser.set_defaults(ask=lambda given: run_give_up(given.socket, given.offset, given.length))


def _add_nodes(commands: Commands) -> None:
    parser = commands.add_parser(
        "nodes", help="the owner of a volume and its standbys",
        description="Shows what each server is, how far its log is, and whether it could take over: of an owner, its "
        "peers too. The exit status is 1 if a peer of an owner could not take over.",
    )  # fmt: skip
    parser.add_argument("sockets", metavar="SOCKET", type=_local_path, nargs="+", help=_SOCKET)
    add_json(parser)
    parser.set_defaults(ask=lambda given: run_nodes(given.sockets, given.json))


def _add_promote(commands: Commands) -> None:
    parser = _add(
        commands, "promote", "have a standby take over the volume",
        "Has a running standby, which was started with origin=, serve the volume from now on. Make sure before that "
        "the former owner has ended and will not start by itself: two owners destroy the volume. Refused if the owner "
        "is still connected, or if the standby may lack something.",
    )  # fmt: skip
    parser.add_argument(
        "--force", metavar="WORD,...", default="",
        help="owner-alive: although the owner is connected; incomplete: although something may be lost; "
        "origin-changed, origin-moved: as force= of the server",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(ask=lambda given: run_promote(given.socket, given.force, given.json))


def _add_rejoin(commands: Commands) -> None:
    parser = _add(
        commands, "rejoin", "what a standby has that the owner does not",
        "After a takeover, the log of the former owner may have commits that the new owner does not have: then it "
        "takes nothing as a standby. Shows what they are; with --discard-tail they are copied to a file, and the "
        "standby catches up without them. The exit status is 1 while there are any.",
    )  # fmt: skip
    parser.add_argument("--discard-tail", action="store_true", help="give them up, after a copy was made")
    parser.add_argument(
        "--save", metavar="FILE", help="where to make the copy; beside the log by default, if that is a file"
    )
    add_json(parser)
    parser.set_defaults(ask=lambda given: run_rejoin(given.socket, given.discard_tail, given.save, given.json))


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"'{text}' is not a number of bytes")
    return int(text)
