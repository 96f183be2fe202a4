# SPDX-License-Identifier: BSD-3-Clause
"""What a stop does with the data in memory and in the log, and what it reports if that fails."""

import logging
import threading

from wbcache_core.errors import WbcacheError
from wbcache_core.flow.committer import Committer
from wbcache_core.flow.destager import Destager
from wbcache_core.flow.retention import Pins
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.units import PAGE_SHIFT, format_size

_log = logging.getLogger("wbcache")


def commit_and_drain(
    line: NumberLine, committer: Committer, destager: Destager, pins: Pins, shipping: Shipping,
    settled: threading.Event, pair: str, drains: bool, ring_path: str,
) -> bool:  # fmt: skip
    """Make durable what was accepted, signal it by `settled`, and drain if that is wanted; returns whether all is done.

    `pair` names log and origin in messages, `ring_path` the ring's file, if it outlives the server. The line has been
    stopped. No lock held.
    """
    try:
        _commit(committer)
    except WbcacheError as error:
        fate = "are lost"
        if ring_path:
            fate = f"stay in memory, in '{ring_path}', for the next server, as long as the machine runs"
        _log.error(
            "stopping: %s; LSN %d to %d, which no flush covered, could not be written and %s",
            error, line.committed, line.head, fate,
        )  # fmt: skip
        return False
    settled.set()
    if not drains:
        return True
    shipping.wait_at_stop()
    _log.info("draining %d pages of log to the origin", line.dirty_pages)
    if destager.finish_drain():
        _log.info("the origin is complete")
        return True
    incomplete = f"; {line.origin_incomplete}" if line.origin_incomplete else ""
    _tell_incomplete(pair, f"still holds data for it{_told_by_tags(line, pins)}{incomplete}")
    return False


def _commit(committer: Committer) -> None:
    """Raises LogFailedError, and any other exception if it occurs twice."""
    try:
        committer.commit_before_stop()
    except WbcacheError:
        raise
    except Exception:
        # Acknowledged data is worth another attempt. An error within the commit has been latched.
        _log.exception("internal error in the last commit, please report it; it is tried once more")
        committer.commit_before_stop()


def tell_undrained(line: NumberLine, pair: str) -> None:
    """If no client that may write has connected, nothing can be drained: only then does nbdkit say that writing is
    wanted."""
    with line.lock:
        size = format_size(line.dirty_pages << PAGE_SHIFT)
    _tell_incomplete(pair, f"still holds {size} for it, and nothing was drained: no client that may write was let in")


def _tell_incomplete(pair: str, what: str) -> None:
    _log.error(
        "the origin is not complete: the log %s; keep them together; this drains it: wbcache replay %s", what, pair
    )  # fmt: skip


def _told_by_tags(line: NumberLine, pins: Pins) -> str:
    """What to add to a message if a tag ended a drain."""
    with line.lock:
        tags, destaged = pins.tags, line.destaged
    first = min(tags, key=lambda tag: tag.end_lsn, default=None)
    if first is None or first.end_lsn > destaged:
        return ""
    return f" (the tag '{first.name}' keeps the origin at generation {first.generation}: wbcache untag)"
