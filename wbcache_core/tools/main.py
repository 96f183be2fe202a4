# SPDX-License-Identifier: BSD-3-Clause
"""The command `wbcache`: inspects, checks, drains, rewinds and salvages the log of a server that is not running."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from wbcache_core import __version__
from wbcache_core.device.name import device_name, local_path
from wbcache_core.errors import ConfigError, LogRefusedError, LogVersionError, WbcacheError
from wbcache_core.memory import moments
from wbcache_core.pairing.pairing import ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG, TAKE_OVER
from wbcache_core.server.history import DEFAULT_ROWS, MOST_GROUPS
from wbcache_core.tools import server_commands, standard_streams
from wbcache_core.tools.arguments import Commands, add_json, argument
from wbcache_core.tools.check import run_check
from wbcache_core.tools.diff import run_diff
from wbcache_core.tools.dump import Filter, parse_range, run_dump
from wbcache_core.tools.info import run_info
from wbcache_core.tools.picture import run_picture
from wbcache_core.tools.plugin_path import run_plugin_path
from wbcache_core.tools.replay import run_replay
from wbcache_core.tools.report.report import run_report
from wbcache_core.tools.resize import run_resize
from wbcache_core.tools.rewind import run_rewind
from wbcache_core.tools.salvage.lost_superblocks import UNCERTAIN_LOG
from wbcache_core.tools.salvage.salvage import run_salvage
from wbcache_core.tools.tags import run_history, run_resolve, run_tag, run_untag

REFUSED, CANNOT_LOOK, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141

_DESCRIPTION = (
    "Inspects, checks, drains, rewinds and salvages the log of a wbcache server that is not running; names "
    "past moments, and asks a running server."
)
_EPILOG = """\
LOG is the log's file or block device. ORIGIN is the slow device it belongs to: a file, a block device or an NBD URI.
SOCKET is the path that a running server was given with control=.
info, check, dump, diff, history, picture, report, replay --to, and resize and salvage without --yes do not write to
log or origin.
A log or origin that a running server holds is refused.

exit status:
  0    everything is in order, or done
  1    the log is damaged or refused, or the command could not finish what it began
  2    the log or the origin could not be examined, the output could not be written, or the command is invalid
  130  interrupted; if something was being written, run the same command again
"""


_origin = argument(device_name)
_local_path = argument(local_path)


def _name_of_new_file(text: str) -> str:
    """Raises ConfigError."""
    if text == "-":
        raise ConfigError("'-' would be a file of that name: standard output cannot be used; write ./- for such a file")
    return local_path(text)


_new_name = argument(_name_of_new_file)
_PAIR_WORDS = (ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG)


def _words_among(*allowed: str) -> Callable[[str], frozenset[str]]:
    """A parser of words separated by commas."""

    def parse(text: str) -> frozenset[str]:
        words = frozenset(text.split(","))
        if not words <= set(allowed):
            raise ConfigError(f"'{text}' is not one of {', '.join(allowed)}")
        return words

    return parse


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wbcache", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"wbcache {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more about what is being done, on stderr")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_check(commands)
    _add_dump(commands)
    _add_replay(commands)
    _add_salvage(commands)
    _add_diff(commands)
    _add_rewind(commands)
    _add_resize(commands)
    _add_picture(commands)
    _add_tag(commands)
    _add_untag(commands)
    _add_resolve(commands)
    _add_history(commands)
    _add_report(commands)
    server_commands.add(commands)
    _add_plugin_path(commands)
    return parser


def _add(commands: Commands, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=text)
    parser.add_argument("log", metavar="LOG", type=_local_path, help="the log: a file or block device")
    return parser


def _add_info(commands: Commands) -> None:
    parser = _add(
        commands, "info", "what a log is, and what it holds that its origin lacks",
        "Shows which origin the log belongs to, sizes and cursors, how much of it the origin lacks and since when, and "
        "how old the origin alone is. For a log that is refused, it shows what the superblocks say, and why.",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_check(commands: Commands) -> None:
    parser = _add(
        commands, "check", "whether a log is sound",
        "Reads the whole log, verifies every checksum and everything else that must hold, and says what is wrong and "
        "where. A remark is something that a crash may leave and that the next start of a server repairs.",
    )  # fmt: skip
    parser.add_argument("--origin", metavar="ORIGIN", type=_origin, help="also check that the origin is as it was left")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_dump(commands: Commands) -> None:
    parser = _add(
        commands, "dump", "every segment and entry of a log, one line each",
        "Reads the whole log and prints the segments in order of LSN: the origin lacks 'dirty' ones; it has 'clean' "
        "ones, which have not been overwritten yet; 'loose' ones were cut off by a crash or by damage.",
    )  # fmt: skip
    number, time = argument(parse_range), argument(moments.parse)
    parser.add_argument("--block", metavar="A[-B]", type=number, help="only entries of these blocks of 4096 bytes")
    parser.add_argument("--lsn", metavar="A[-B]", type=number, help="only entries with these LSNs")
    parser.add_argument("--since", metavar="TIME", type=time, help="only commits from then on (ISO 8601, local or Z)")
    parser.add_argument("--until", metavar="TIME", type=time, help="only commits up to that time")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def _add_replay(commands: Commands) -> None:
    parser = _add(
        commands, "replay", "write everything the log holds to the origin",
        "Destages the whole log, as a server would; afterwards the origin alone is the volume. It can be killed at any "
        "time and run again. With --to, it writes the volume to a new file instead and changes nothing.",
    )  # fmt: skip
    parser.add_argument("origin", metavar="ORIGIN", type=_origin, help="the origin of this log")
    parser.add_argument(
        "--to", metavar="FILE", type=_new_name, help="write the volume to this new, sparse file instead"
    )
    parser.add_argument(
        "--force", metavar="WORD[,WORD]", type=argument(_words_among(*_PAIR_WORDS)), default=frozenset(),
        help=f"write the log over an origin that was changed behind its cache ({ORIGIN_CHANGED}), that was moved or "
        f"restored ({ORIGIN_MOVED}), or for which another log holds data ({OTHER_LOG})",
    )  # fmt: skip


def _add_salvage(commands: Commands) -> None:
    parser = _add(
        commands, "salvage", "save what can be saved from a damaged log",
        "For a log that is refused because it is damaged, or whose destaging is stalled by a damaged page. Says up to "
        "which moment the volume can be recovered, and exactly what is lost. With --yes, it destages up to the damage, "
        "leaves out damaged pages, gives up the rest and makes the log a new, empty one. It can be killed at any time "
        "and run again: nothing is given up until the origin has everything that can be recovered.",
    )  # fmt: skip
    parser.add_argument("origin", metavar="ORIGIN", type=_origin, help="the origin of this log")
    parser.add_argument("--yes", action="store_true", help="do it instead of only saying what would be done")
    parser.add_argument(
        "--force", metavar="WORD[,WORD]", type=argument(_words_among(*_PAIR_WORDS, UNCERTAIN_LOG, TAKE_OVER)),
        default=frozenset(),
        help=f"go on although the origin seems to have changed or to be another one ({ORIGIN_CHANGED}), was moved or "
        f"restored ({ORIGIN_MOVED}), has another log with data for it ({OTHER_LOG}), or although part of the log may "
        f"be missing, or all of it given up before ({UNCERTAIN_LOG})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what is found as one JSON object")


def _when(text: str) -> str:
    """A WHEN, possibly with the @ that it has as the name of an export."""
    return text.removeprefix("@")


_WHENS = "generation number, an age like -5m, a time, last-flush, or a tag"


def _add_diff(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "diff", "what changed from one moment to another",
        "Prints the extents that were written, trimmed or zeroed between A and B, each with what it is at B: what has "
        "to be done to the volume as of A to turn it into that as of B. B may be the earlier one; then data may be on "
        "the origin. An extent that was rewritten counts as changed, whatever its content. With --raw, the data is "
        "written to a sparse file, at its offsets: an incremental backup. Of a running server only the list can be had "
        "so; the data can be copied from its export @A..B.",
    )  # fmt: skip
    parser.add_argument("start", metavar="A", type=_when, help=f"the moment to start from: a {_WHENS}")
    parser.add_argument("end", metavar="B", type=_when, help="the moment to end with, in the same form")
    parser.add_argument("--origin", metavar="ORIGIN", type=_origin, help="the origin, if it is not where it was last")
    parser.add_argument("--raw", metavar="FILE", type=_new_name, help="write the data to this new, sparse file")
    parser.add_argument("--json", action="store_true", help="print a list in the map format of qemu-img")


def _add_rewind(commands: Commands) -> None:
    parser = _add(
        commands, "rewind", "make a past moment the present one",
        "Appends to the log every block that changed since WHEN, as it was then. Nothing is removed: the moment before "
        "is a past moment, to which the volume can be rewound as long as the log covers it. If it is interrupted or "
        "killed, it has done everything or nothing.",
    )  # fmt: skip
    parser.add_argument("when", metavar="WHEN", type=_when, help=f"a {_WHENS}")
    parser.add_argument("--origin", metavar="ORIGIN", type=_origin, help="the origin, if it is not where it was last")


def _add_resize(commands: Commands) -> None:
    parser = _add(
        commands, "resize", "let a log have the size that its origin has now",
        "For an origin that was made smaller on purpose, which a server refuses, or that has grown, which a server "
        "accepts by itself. Says what the log holds and whether it lies within the origin; with --yes, it records the "
        "new size. What the origin lacks, and the past moments and tags, stay. Refused if the log holds anything for "
        "what is beyond the end. It can be killed at any time and run again.",
    )  # fmt: skip
    parser.add_argument("origin", metavar="ORIGIN", type=_origin, help="the origin of this log")
    parser.add_argument("--yes", action="store_true", help="do it instead of only saying what would be done")
    parser.add_argument(
        "--force", metavar="WORD[,WORD]", type=argument(_words_among(*_PAIR_WORDS)), default=frozenset(),
        help=f"accept an origin that was changed behind its cache ({ORIGIN_CHANGED}), that was moved or restored "
        f"({ORIGIN_MOVED}), or for which another log holds data ({OTHER_LOG})",
    )  # fmt: skip
    add_json(parser)


def _add_picture(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "picture", "draw what a log holds",
        "Draws a PNG with time on the x axis and the volume on the y axis: how much was written where and when, the "
        "moments that can be opened, the cursors, and the tags. Needs Matplotlib (python3-matplotlib).",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE.png", type=_new_name, help="the new file")


def _add_to_target(commands: Commands, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=text)
    parser.add_argument(
        "target", metavar="LOG|SOCKET", type=_local_path,
        help="the log, or the socket that a running server was given with control="
    )
    return parser


def _add_tag(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "tag", "give a moment a name, and keep it",
        "Gives a name to a moment that the log covers: by default the present one, otherwise a generation, an age such "
        "as -5m, a time, last-flush or another tag. The moment can be opened as long as the tag exists.",
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", type=_name, help="at most 64 bytes, not another WHEN")
    parser.add_argument("when", metavar="WHEN", nargs="?", type=_when, help="the moment, if not the present one")


def _add_untag(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "untag", "remove a tag", "Removes a tag; its moment is then kept no longer than any other."
    )
    parser.add_argument("name", metavar="NAME", type=_name, help="the tag")


def _add_resolve(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "resolve", "the export that a moment means now",
        "Prints the name of the export (@ and the generation) that an age, a time or last-flush means now. That name "
        "still means the same moment to a client that reconnects. Also of A..B, what changed between two moments.",
    )  # fmt: skip
    parser.add_argument("when", metavar="WHEN", type=_when, help=f"the moment: a {_WHENS}; or two, as A..B")


def _add_history(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "history", "the moments that can be opened, what was written when, and the tags",
        "Shows which moments the log covers, how much was written in each generation (commit), and the tags. If there "
        "are many generations, they are grouped by time.",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="print a line for every generation, however many there are")
    parser.add_argument(
        "--limit", metavar="N", type=argument(_row_limit), default=DEFAULT_ROWS,
        help=f"group the generations into at most this many lines, 1 to {MOST_GROUPS}; {DEFAULT_ROWS} by default",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_report(commands: Commands) -> None:
    parser = _add_to_target(
        commands, "report", "a page about a log or a running server, for a browser",
        "Writes one HTML page that loads nothing: what needs attention, what the log holds, rates and latencies over "
        "the server's life, events and settings, and what each number means. Of a log without a server: what it holds, "
        "when and where it was written, and which moments can be opened.",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE.html", type=_new_name, help="the new file")
    add_json(parser)


def _add_plugin_path(commands: Commands) -> None:
    commands.add_parser(
        "plugin-path", help="where the plugin for nbdkit is",
        description="Prints the absolute path of the plugin that belongs to this command, for: "
        'nbdkit python "$(wbcache plugin-path)" origin=ORIGIN log=LOG',
    )  # fmt: skip


def _row_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_GROUPS):
        raise ConfigError(f"'{text}' is not a number from 1 to {MOST_GROUPS}")
    return int(text)


def _name(text: str) -> str:
    """The name of a tag, without what _shield_ages() may have put before it."""
    return text[1:] if moments.is_age(text[1:]) else text


def _shield_ages(words: Sequence[str]) -> list[str]:
    """argparse takes -5m for an option. @-5m means the same and is not one."""
    return [f"@{word}" if moments.is_age(word) else word for word in words]


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "info":
        return run_info(arguments.log, arguments.json)
    if arguments.command == "check":
        return run_check(arguments.log, arguments.origin, arguments.json)
    if arguments.command == "dump":
        wanted = Filter(arguments.block, arguments.lsn, arguments.since, arguments.until)
        return run_dump(arguments.log, wanted, arguments.json)
    if arguments.command == "replay":
        return run_replay(arguments.log, arguments.origin, arguments.to, arguments.force)
    if arguments.command == "diff":
        return run_diff(
            arguments.target, arguments.start, arguments.end, arguments.origin, arguments.raw, arguments.json
        )  # fmt: skip
    if arguments.command == "rewind":
        return run_rewind(arguments.log, arguments.when, arguments.origin)
    if arguments.command == "resize":
        return run_resize(arguments.log, arguments.origin, arguments.force, arguments.yes, arguments.json)
    if arguments.command == "picture":
        return run_picture(arguments.target, arguments.file)
    if arguments.command == "report":
        return run_report(arguments.target, arguments.file, arguments.json)
    if arguments.command == "tag":
        return run_tag(arguments.target, arguments.name, arguments.when)
    if arguments.command == "untag":
        return run_untag(arguments.target, arguments.name)
    if arguments.command == "resolve":
        return run_resolve(arguments.target, arguments.when)
    if arguments.command == "history":
        return run_history(arguments.target, arguments.limit, arguments.all, arguments.json)
    if "ask" in arguments:
        return int(arguments.ask(arguments))
    if arguments.command == "plugin-path":
        return run_plugin_path()
    return run_salvage(arguments.log, arguments.origin, arguments.yes, arguments.force, arguments.json)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return standard_streams.printable(super().format(record))


def _set_up_logging(verbose: bool) -> None:
    """Send the core's warnings to stderr; its errors are raised too, and printed where they are caught."""
    log = logging.getLogger("wbcache")
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("wbcache: %(message)s"))
    if not verbose:
        handler.addFilter(lambda record: record.levelno < logging.ERROR)
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.WARNING)
    log.propagate = False


def _status_of(error: WbcacheError, command: str) -> int:
    """A log written by a newer wbcache is not damaged; and what salvage refuses, it could not salvage."""
    if isinstance(error, LogRefusedError) and not isinstance(error, LogVersionError) and command != "salvage":
        return REFUSED
    return CANNOT_LOOK


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. `words` replace the arguments of the process."""
    standard_streams.fill_closed()
    standard_streams.show_any_name()
    try:
        return _main(sys.argv[1:] if words is None else words)
    except BrokenPipeError:
        # `wbcache dump | head`, or nobody reads what is wrong with the arguments.
        return NOBODY_READS if standard_streams.fails(sys.stdout) else CANNOT_LOOK
    except OSError as error:
        if standard_streams.fails(sys.stdout):
            standard_streams.tell(f"wbcache: cannot write the output: {error.strerror}")
        elif not standard_streams.fails(sys.stderr):
            raise
        return CANNOT_LOOK
    except KeyboardInterrupt:
        standard_streams.tell("wbcache: interrupted")
        return INTERRUPTED
    finally:
        standard_streams.give_up()


def _main(words: Sequence[str]) -> int:
    """Raises OSError if stdout does not accept the output."""
    try:
        arguments = build_parser().parse_args(_shield_ages(words))
    except SystemExit:
        sys.stdout.flush()
        raise
    _set_up_logging(arguments.verbose)
    try:
        status = _run(arguments)
    except WbcacheError as error:
        standard_streams.tell(f"wbcache: {error}")
        status = _status_of(error, arguments.command)
    sys.stdout.flush()
    return status
