# SPDX-License-Identifier: BSD-3-Clause
"""Failures of log and origin: how they are recorded in the number line, and whom they reach."""

import logging
import time

from wbcache_core.errors import DeviceError, LogFailedError, OriginFailedError, RequestError
from wbcache_core.memory.cursors import NumberLine

_log = logging.getLogger("wbcache")

ORIGIN_PATIENCE = 5.0
"""Seconds that requests which need the origin wait for one that is failing to recover."""


def raise_if_log_failed(line: NumberLine) -> None:
    """Raises the latched LogFailedError, if any, as a new exception for the caller's thread."""
    error = line.log_error
    if error:
        raise LogFailedError(str(error), error.errno_value)


def raise_if_origin_failed(line: NumberLine, prefix: str = "") -> None:
    """Raises the latched OriginFailedError once the origin has failed for ORIGIN_PATIENCE. Lock held.

    While it is settling it does not count as failing.
    """
    error = line.origin_error
    if error and time.monotonic() - max(line.origin_failed_at, line.origin_settles_at) >= ORIGIN_PATIENCE:
        raise OriginFailedError(f"{prefix}{error}", error.errno_value)


def wait_for_move(line: NumberLine) -> None:
    """Wait on `moved`, with a time limit while the origin is failing, so that patience can end. Lock held."""
    line.moved.wait(ORIGIN_PATIENCE / 5 if line.origin_error else None)


def fail_log(line: NumberLine, error: DeviceError) -> None:
    """Latch and report that the log can no longer be written. Takes the lock."""
    with line.lock:
        committed, head = line.committed, line.head
    message = (
        f"{error}; the volume takes no more writes; start the server again when the log device is sound, "
        "or attach another log (wbcache attach)"
    )
    if head > committed:
        message += (
            f"; LSN {committed} to {head}, which no flush covered, are only in this server's memory: "
            "copy the volume (nbdcopy) before you stop it"
        )
    _log.error("%s", message)
    fail(line, LogFailedError(message, error.errno_value))


def fail(line: NumberLine, error: RequestError) -> None:
    """Latch a failure of log or origin and wake everybody. Takes the lock."""
    with line.lock:
        if isinstance(error, LogFailedError):
            line.log_error = line.log_error or error
        elif isinstance(error, OriginFailedError):
            if line.origin_error is None:
                line.origin_failed_at = time.monotonic()
            line.origin_error = error
        line.refresh_limits()
        line.moved.notify_all()
