# SPDX-License-Identifier: BSD-3-Clause
"""Who may go on, and when: writers need room in ring and log, and who waits for the origin needs `destaged` to pass."""

from wbcache_core.errors import (
    OriginFailedError,
    ReadOnlyError,
    StoppedError,
    VolumeReplacedError,
    WritesEndedError,
)
from wbcache_core.flow.failure import raise_if_log_failed, raise_if_origin_failed, wait_for_move
from wbcache_core.memory.cursors import NumberLine


def check_writable(line: NumberLine) -> None:
    """Raises the error that a writer gets now, if any. Lock held."""
    if line.is_replaced:
        raise VolumeReplacedError("the volume goes on with another log, or without one")
    if not line.is_handing_over:
        # Otherwise another log may be about to take the place of one that has failed.
        raise_if_log_failed(line)
        if line.stopping:
            raise StoppedError("the server is shutting down")
    if line.writes_ended:
        raise WritesEndedError(
            "a write failed half-way, most likely for want of memory: the volume takes no more; what was accepted "
            "before is kept; start the server again"
        )
    if not line.writable:
        raise ReadOnlyError("the volume is served read-only: origin or log cannot be written")


def check_log(line: NumberLine) -> None:
    """Return if the log has not failed. Lock held; released while waiting for another log that is to take its place.

    Raises LogFailedError, VolumeReplacedError.
    """
    while line.log_error and line.is_handing_over:
        if line.is_replaced:
            raise VolumeReplacedError("the volume goes on with another log")
        line.moved.wait()
    raise_if_log_failed(line)


def end_writes(line: NumberLine) -> None:
    """A write failed between two of its steps. Lock held. Nothing here allocates memory before it has taken
    effect."""
    line.writes_ended = True
    line.limit = line.soft_limit = 0
    line.moved.notify_all()


def wait_for_room(line: NumberLine, pages: int) -> None:
    """Return when `pages` more LSNs fit under the limit, and the volume is not quiesced. Lock held; released while
    waiting.

    Raises VolumeReplacedError, LogFailedError, StoppedError, ReadOnlyError, CommitFailedError when an attempt failed
    that began after the call, and OriginFailedError when only the origin could make room and it has been failing for
    ORIGIN_PATIENCE.
    """
    begun = line.commits.begun
    while line.head + pages > line.limit:
        check_writable(line)
        if line.quiesced or line.is_handing_over:
            line.quiesced_waiters += 1
            line.moved.wait()
            line.quiesced_waiters -= 1
            # What failed meanwhile was not this request.
            begun = line.commits.begun
            continue
        line.commits.raise_if_failed_since(begun)
        _want_attempt(line, begun + 1)
        line.request_commit()
        log_is_full = line.head + pages > line.committed + line.room_in_log
        if log_is_full:
            raise_if_origin_failed(line, "the log is full and ")
            line.destage_wanted.notify()
        line.room_waiters += log_is_full
        wait_for_move(line)
        line.room_waiters -= log_is_full
    check_writable(line)
    if line.head + pages > line.committed + line.policy.commit_pages:
        line.request_commit()


def _want_attempt(line: NumberLine, number: int) -> None:
    """Have the committer begin that attempt to commit at once although others failed just now. Lock held."""
    if line.commits.error and line.commits.wanted < number:
        line.commits.wanted = number
        line.commit_wanted.notify()


def wait_for_destaged(line: NumberLine, lsn: int) -> None:
    """Return when every LSN below lsn is durable on the origin. Lock held; released while waiting.

    Raises LogFailedError, StoppedError, and OriginFailedError if the origin has been failing for ORIGIN_PATIENCE,
    or if it has everything except blocks that it rejects.
    """
    while line.destaged < lsn and not (line.origin_incomplete and only_carried_below(line, lsn)):
        raise_if_log_failed(line)
        raise_if_origin_failed(line)
        if line.stopping:
            raise StoppedError("the server is shutting down")
        line.origin_target = max(line.origin_target, lsn)
        line.destage_wanted.notify()
        wait_for_move(line)
    if line.origin_incomplete:
        raise OriginFailedError(line.origin_incomplete)


def wait_for_peers(line: NumberLine, lsn: int, is_durable: bool) -> None:
    """Return when all peers that count have every LSN below lsn, in memory, or durably. Lock held; released while
    waiting.

    Raises LogFailedError, StoppedError, VolumeReplacedError: never a success for a peer that did not answer.
    """
    while (line.peers_committed if is_durable else line.peers_received) < lsn:
        if line.is_replaced:
            raise VolumeReplacedError("the volume goes on with another log, or without one")
        raise_if_log_failed(line)
        if line.stopping:
            raise StoppedError("the server is shutting down")
        line.moved.wait()


def only_carried_below(line: NumberLine, lsn: int) -> bool:
    """Whether everything that the origin lacks below lsn was carried forward. Lock held."""
    at = line.destaged
    for first, end in line.carried:
        if first > at or at >= lsn:
            break
        at = max(at, end)
    return at >= lsn
