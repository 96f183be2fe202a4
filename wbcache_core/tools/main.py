# SPDX-License-Identifier: BSD-3-Clause
"""The command `wbcache`: looks at, checks, empties, rewinds and salvages the log of a server that is not running."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from wbcache_core import __version__
from wbcache_core.device.name import device_name, local_path
from wbcache_core.errors import ConfigError, LogRefusedError, LogVersionError, WbcacheError
from wbcache_core.memory import moments
from wbcache_core.pairing.pairing import ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG
from wbcache_core.server.history import DEFAULT_ROWS, MOST_GROUPS
from wbcache_core.tools import standard_streams
from wbcache_core.tools.check import run_check
from wbcache_core.tools.diff import run_diff
from wbcache_core.tools.dump import Filter, parse_range, run_dump
from wbcache_core.tools.info import run_info
from wbcache_core.tools.picture import run_picture
from wbcache_core.tools.plugin_path import run_plugin_path
from wbcache_core.tools.replay import run_replay
from wbcache_core.tools.rewind import run_rewind
from wbcache_core.tools.salvage.lost_superblocks import UNCERTAIN_LOG
from wbcache_core.tools.salvage.salvage import run_salvage
from wbcache_core.tools.status import run_give_up, run_status
from wbcache_core.tools.tags import run_history, run_resolve, run_tag, run_untag

REFUSED, CANNOT_LOOK, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_DESCRIPTION = (
    "Looks at, checks, empties, rewinds and salvages the log of a wbcache server that is not running; names "
    "moments, and asks a running server."
)
_EPILOG = """\
LOG is the log's file or block device. ORIGIN is the slow device it belongs to: a file, a block device or an NBD URI.
SOCKET is what a running server was given with control=.
info, check, dump, diff, history, picture, replay --to, and salvage without --yes write nothing to log and origin.
A log or origin that a running server holds is refused.

exit status:
  0    all is well, or done
  1    the log is damaged or refused, or what was begun could not be finished
  2    the log or the origin could not be looked at, the output could not be written, or the command makes no sense
  130  interrupted; where something was being written, run the same command again
"""


def _argument(parse: Callable[[str], object]) -> Callable[[str], object]:
    """A parser of ours with argparse's way of refusing."""

    def convert(text: str) -> object:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


_origin = _argument(device_name)
_PAIR_WORDS = (ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG)


def _words_among(*allowed: str) -> Callable[[str], frozenset[str]]:
    """A parser of words, with commas between."""

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
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more of what is done, on stderr")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_check(commands)
    _add_dump(commands)
    _add_replay(commands)
    _add_salvage(commands)
    _add_diff(commands)
    _add_rewind(commands)
    _add_picture(commands)
    _add_tag(commands)
    _add_untag(commands)
    _add_resolve(commands)
    _add_history(commands)
    _add_status(commands)
    _add_give_up(commands)
    _add_plugin_path(commands)
    return parser


def _add(commands: _Commands, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=text)
    parser.add_argument("log", metavar="LOG", type=_argument(local_path), help="the log: a file or block device")
    return parser


def _add_info(commands: _Commands) -> None:
    parser = _add(
        commands, "info", "what a log is, and what it holds that its origin lacks",
        "Tells whose log it is, its sizes and cursors, how much of it the origin lacks and since when, and how old the "
        "origin is on its own. Of a log that is refused it tells what its superblocks say, and why it is refused.",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_check(commands: _Commands) -> None:
    parser = _add(
        commands, "check", "whether a log is sound",
        "Reads all of the log, verifies every checksum and whatever else must hold, and says what is wrong and where. "
        "A remark is what a crash may leave and the next start of a server mends.",
    )  # fmt: skip
    parser.add_argument("--origin", metavar="ORIGIN", type=_origin, help="also check that the origin is as it was left")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_dump(commands: _Commands) -> None:
    parser = _add(
        commands, "dump", "every segment and entry of a log, a line each",
        "Reads all of the log and prints the segments in order of their LSNs: 'dirty' are those that the origin lacks, "
        "'clean' those that it has and that are not overwritten yet, 'loose' those that a crash or damage cut off.",
    )  # fmt: skip
    number, time = _argument(parse_range), _argument(moments.parse)
    parser.add_argument("--block", metavar="A[-B]", type=number, help="only entries of these blocks of 4096 bytes")
    parser.add_argument("--lsn", metavar="A[-B]", type=number, help="only entries with these LSNs")
    parser.add_argument("--since", metavar="TIME", type=time, help="only commits from then on (ISO 8601, local or Z)")
    parser.add_argument("--until", metavar="TIME", type=time, help="only commits up to then")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_replay(commands: _Commands) -> None:
    parser = _add(
        commands, "replay", "write everything the log holds to the origin",
        "Destages the whole log, as a server would; afterwards the origin alone is the volume. Can be killed at any "
        "time and run again. With --to, writes the volume to a new file instead and changes nothing.",
    )  # fmt: skip
    parser.add_argument("origin", metavar="ORIGIN", type=_origin, help="the origin of this log")
    parser.add_argument("--to", metavar="FILE", help="write the volume to this new, sparse file instead")
    parser.add_argument(
        "--force", metavar="WORD[,WORD]", type=_argument(_words_among(*_PAIR_WORDS)), default=frozenset(),
        help=f"write the log over an origin that was changed behind its cache ({ORIGIN_CHANGED}), that was moved or "
        f"restored ({ORIGIN_MOVED}), or for which another log holds data ({OTHER_LOG})",
    )  # fmt: skip


def _add_salvage(commands: _Commands) -> None:
    parser = _add(
        commands, "salvage", "save what can be had from a damaged log",
        "For a log that is refused because it is damaged, or whose destaging is stalled by a damaged page. Says up to "
        "which moment the volume can be had, and exactly what is lost. With --yes, destages up to the damage, leaves "
        "out damaged pages, gives up the rest and makes the log a new, empty one. Can be killed at any time and run "
        "again: until the origin has all that can be had, nothing that the log holds is given up.",
    )  # fmt: skip
    parser.add_argument("origin", metavar="ORIGIN", type=_origin, help="the origin of this log")
    parser.add_argument("--yes", action="store_true", help="do it, and not only say what would be done")
    parser.add_argument(
        "--force", metavar="WORD[,WORD]", type=_argument(_words_among(*_PAIR_WORDS, UNCERTAIN_LOG)),
        default=frozenset(),
        help=f"go on although the origin seems to have changed or to be another one ({ORIGIN_CHANGED}), was moved or "
        f"restored ({ORIGIN_MOVED}), has another log with data for it ({OTHER_LOG}), or although part of the log may "
        f"be missing, or all of it given up before ({UNCERTAIN_LOG})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what is found as one JSON object")


def _when(text: str) -> str:
    """A WHEN, perhaps with the @ that it has as the name of an export."""
    return text.removeprefix("@")


_WHENS = "generation number, an age like -5m, a time, last-flush, or a tag"


def _add_diff(commands: _Commands) -> None:
    parser = _add(
        commands, "diff", "what changed from one moment to another",
        "Prints the extents that were written, trimmed or zeroed between A and B, each with what it is at B: what has "
        "to be done to the volume as of A to make it that as of B. B may be the earlier one; then data can be on the "
        "origin. An extent that was written anew counts as changed, whatever was written. With --raw, the data goes "
        "to a sparse file, at its offsets: an incremental backup.",
    )  # fmt: skip
    parser.add_argument("start", metavar="A", type=_when, help=f"the moment to start from: a {_WHENS}")
    parser.add_argument("end", metavar="B", type=_when, help="the moment to come to, in the same words")
    parser.add_argument("--origin", metavar="ORIGIN", type=_origin, help="the origin, if it is not where it was last")
    parser.add_argument("--raw", metavar="FILE", help="write the data to this new, sparse file")
    parser.add_argument("--json", action="store_true", help="print a list in the map format of qemu-img")


def _add_rewind(commands: _Commands) -> None:
    parser = _add(
        commands, "rewind", "make a past moment the present one",
        "Appends to the log every block that changed since WHEN, as it was then. Nothing is taken away: the moment "
        "before is a past one, to which the volume can be rewound in turn as long as the log covers it. Interrupted "
        "or killed, it has done all of it or nothing.",
    )  # fmt: skip
    parser.add_argument("when", metavar="WHEN", type=_when, help=f"a {_WHENS}")
    parser.add_argument("--origin", metavar="ORIGIN", type=_origin, help="the origin, if it is not where it was last")


def _add_picture(commands: _Commands) -> None:
    parser = _add(
        commands, "picture", "draw what a log holds",
        "Draws a PNG: time across, the volume up, how much was written where and when, the window of moments that can "
        "be opened, the cursors, and the tags. Needs Matplotlib (python3-matplotlib).",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE.png", help="the new file")


def _add_to_target(commands: _Commands, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=text)
    parser.add_argument(
        "target", metavar="LOG|SOCKET", type=_argument(local_path),
        help="the log, or of a running server the socket that it has from control="
    )
    return parser


def _add_tag(commands: _Commands) -> None:
    parser = _add_to_target(
        commands, "tag", "give a moment a name, and keep it",
        "Gives a moment that the log covers a name, the present one unless said otherwise: a generation, an age such "
        "as -5m, a time, last-flush or another tag. The moment can be opened as long as the tag is there.",
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", type=_name, help="at most 64 bytes, not another WHEN")
    parser.add_argument("when", metavar="WHEN", nargs="?", type=_when, help="the moment, if not the present one")


def _add_untag(commands: _Commands) -> None:
    parser = _add_to_target(
        commands, "untag", "take a name away", "Takes a name away; the moment is kept no longer than any other."
    )
    parser.add_argument("name", metavar="NAME", type=_name, help="the tag")


def _add_resolve(commands: _Commands) -> None:
    parser = _add_to_target(
        commands, "resolve", "the export that a moment is now",
        "Prints the name of the export (@ and the generation) that an age, a time or last-flush means now. That name "
        "means the same moment to a client that connects anew.",
    )  # fmt: skip
    parser.add_argument("when", metavar="WHEN", type=_when, help=f"the moment: a {_WHENS}")


def _add_history(commands: _Commands) -> None:
    parser = _add_to_target(
        commands, "history", "the moments that can be opened, what was written when, and the tags",
        "Tells which moments the log covers, how much was written in each generation (commit), and the tags. Where "
        "there are many generations they are grouped by time.",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="a line for every generation, however many there are")
    parser.add_argument(
        "--limit", metavar="N", type=_argument(_row_limit), default=DEFAULT_ROWS,
        help=f"group so that there are at most so many lines, 1 to {MOST_GROUPS}; {DEFAULT_ROWS} by default",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_status(commands: _Commands) -> None:
    parser = commands.add_parser(
        "status", help="what a running server is doing",
        description="Tells the cursors, how much is dirty, rates, the window, open snapshots, tags, and what fails.",
    )  # fmt: skip
    parser.add_argument("socket", metavar="SOCKET", help="the socket that the server has from control=")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_give_up(commands: _Commands) -> None:
    parser = commands.add_parser(
        "give-up", help="give up bytes that the origin refuses to take",
        description="For bad sectors of the origin, which status shows: what was written there is in the log alone. "
        "Gives that up for good, in all bad blocks from OFFSET on for LENGTH bytes. What clients wrote there is lost, "
        "flushed or not; the volume reads there what the origin has, which is old data or an error.",
    )  # fmt: skip
    parser.add_argument("socket", metavar="SOCKET", help="the socket that the server has from control=")
    parser.add_argument("offset", metavar="OFFSET", type=_argument(_bytes), help="in bytes")
    parser.add_argument("length", metavar="LENGTH", type=_argument(_bytes), help="in bytes")


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"'{text}' is not a number of bytes")
    return int(text)


def _add_plugin_path(commands: _Commands) -> None:
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
    """To argparse -5m is an option. @-5m is none, and means the same."""
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
            arguments.log, arguments.start, arguments.end, arguments.origin, arguments.raw, arguments.json
        )  # fmt: skip
    if arguments.command == "rewind":
        return run_rewind(arguments.log, arguments.when, arguments.origin)
    if arguments.command == "picture":
        return run_picture(arguments.log, arguments.file)
    if arguments.command == "tag":
        return run_tag(arguments.target, arguments.name, arguments.when)
    if arguments.command == "untag":
        return run_untag(arguments.target, arguments.name)
    if arguments.command == "resolve":
        return run_resolve(arguments.target, arguments.when)
    if arguments.command == "history":
        return run_history(arguments.target, arguments.limit, arguments.all, arguments.json)
    if arguments.command == "status":
        return run_status(arguments.socket, arguments.json)
    if arguments.command == "give-up":
        return run_give_up(arguments.socket, arguments.offset, arguments.length)
    if arguments.command == "plugin-path":
        return run_plugin_path()
    return run_salvage(arguments.log, arguments.origin, arguments.yes, arguments.force, arguments.json)


def _set_up_logging(verbose: bool) -> None:
    """The core's warnings to stderr; its errors are raised too, and printed by who catches them."""
    log = logging.getLogger("wbcache")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("wbcache: %(message)s"))
    if not verbose:
        handler.addFilter(lambda record: record.levelno < logging.ERROR)
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.WARNING)
    log.propagate = False


def _status_of(error: WbcacheError, command: str) -> int:
    """What a newer wbcache wrote is no damage; and what salvage refuses is nothing that it could salvage."""
    if isinstance(error, LogRefusedError) and not isinstance(error, LogVersionError) and command != "salvage":
        return REFUSED
    return CANNOT_LOOK


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. `words` stand in for those of the process."""
    standard_streams.fill_closed()
    standard_streams.show_any_name()
    try:
        return _main(sys.argv[1:] if words is None else words)
    except BrokenPipeError:
        # `wbcache dump | head`
        return NOBODY_READS
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
    """Raises OSError where stdout does not take the output."""
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
