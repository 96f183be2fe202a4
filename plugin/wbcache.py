#!/usr/bin/env -S nbdkit python
# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit callbacks -> wbcache_core. Everything else is in the core.

    nbdkit python plugin/wbcache.py origin=/dev/sdb log=/dev/nvme0n1p1
"""

import ctypes
import functools
import logging
import os
import sys
import threading

import nbdkit

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from wbcache_core import __version__, segment_format, superblock_format, thread_state
from wbcache_core.cache import Cache
from wbcache_core.client_sockets import hang_up
from wbcache_core.config import Config
from wbcache_core.errors import WbcacheError, errno_for_client
from wbcache_core.shutdown_watcher import ShutdownWatcher
from wbcache_core.thread_state import ThreadStatePin
from wbcache_core.units import MIB, PAGE_BYTES

API_VERSION = 2

# nbdkit prints the traceback of whatever a callback raises. Our messages say what to do; where a traceback helps,
# _failure() logs it.
sys.tracebacklimit = 0

_FUA = nbdkit.FLAG_FUA
_LARGEST_REQUEST = 32 * MIB

_config = Config()
_cache = None
_watcher = None


class NbdkitLogHandler(logging.Handler):
    """Sends the core's log to nbdkit: up to INFO as debug lines (-v), from WARNING on as errors, which go to stderr
    or syslog as nbdkit was told."""

    def __init__(self):
        super().__init__()
        # Python plugins have no nbdkit.error; the C function is exported to every plugin.
        self._error = ctypes.CDLL(None).nbdkit_error

    def emit(self, record):
        message = f"wbcache: {self.format(record)}"
        if record.levelno >= logging.WARNING:
            self._error(b"%s", message.encode("utf-8", "replace"))
        else:
            nbdkit.debug(message)


_log = logging.getLogger("wbcache")
_log.addHandler(NbdkitLogHandler())
_log.setLevel(logging.DEBUG)
_log.propagate = False


class RequestFailedError(Exception):
    """What nbdkit gets to see of a failure."""


def _failure(error):
    """Choose the errno; returns what to raise, which holds on to nothing."""
    if not isinstance(error, WbcacheError):
        sys.tracebacklimit = 100
        _log.error("internal error, please report it", exc_info=error)
        sys.tracebacklimit = 0
    nbdkit.set_error(errno_for_client(error))
    return RequestFailedError(str(error))


def _request(function):
    """Pins the thread and turns every exception into one that carries no data: nbdkit never frees its frames."""

    @functools.wraps(function)
    def callback(h, *arguments):
        h.pin()
        try:
            return function(*arguments)
        except Exception as error:
            failure = _failure(error)
        del h, arguments
        raise failure

    return callback


def dump_plugin():
    print(f"wbcache_version={__version__}")
    print(f"wbcache_segment_format={segment_format.VERSION}")
    print(f"wbcache_superblock_format={superblock_format.VERSION}")
    print("wbcache_compress=off,zstd")
    print(f"wbcache_pin_thread_state={'on' if thread_state.SUPPORTED else 'unsupported'}")
    print(f"wbcache_python={sys.version.split()[0]}")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def config(key, value):
    _config.set(key, value, nbdkit.parse_size)


def config_complete():
    _config.check()


def get_ready():
    global _cache
    _cache = Cache(_config)


def after_fork():
    # Signals and threads do not survive the fork into the background, so they start here.
    global _watcher
    _watcher = ShutdownWatcher(_stop_requested, _send_clients_away)
    _watcher.start()


def _stop_requested():
    # nbdkit calls cleanup() only when the last client is gone; what was acknowledged is made durable at once.
    _cache.interrupt()
    nbdkit.shutdown()
    threading.Thread(target=_cache.finish, name="wbcache-finish", daemon=True).start()


def _send_clients_away():
    # Not before the commit: some versions of nbdkit can abort when a client goes away with requests queued.
    if _cache.is_settled:
        hang_up()


def cleanup():
    _cache.stop()
    _watcher.finish()


def open(readonly):
    if not readonly and _cache.is_writable:
        try:
            _cache.activate()
            return ThreadStatePin(_config.pin_thread_state)
        except Exception as error:
            failure = _failure(error)
        raise failure
    return ThreadStatePin(_config.pin_thread_state)


def close(h):
    h.close()


def get_size(h):
    return _cache.volume.size


def block_size(h):
    return (1, PAGE_BYTES, _LARGEST_REQUEST)


def can_write(h):
    return _cache.is_writable


def can_flush(h):
    return True


def can_trim(h):
    return True


def can_zero(h):
    return True


def can_fast_zero(h):
    return True


def can_extents(h):
    return True


def can_multi_conn(h):
    return True


def can_fua(h):
    return nbdkit.FUA_NATIVE


def can_cache(h):
    return nbdkit.CACHE_NATIVE


@_request
def pread(buf, offset, flags):
    _cache.volume.read_into(buf, offset)


@_request
def pwrite(buf, offset, flags):
    _cache.volume.write(buf, offset, flags & _FUA != 0)


@_request
def flush(flags):
    _cache.volume.flush()


@_request
def trim(count, offset, flags):
    _cache.volume.trim(count, offset, flags & _FUA != 0)


@_request
def zero(count, offset, flags):
    _cache.volume.zero(count, offset, flags & _FUA != 0, flags & nbdkit.FLAG_MAY_TRIM != 0)


@_request
def cache(count, offset, flags):
    _cache.volume.prefetch(count, offset)


@_request
def extents(count, offset, flags):
    found = _cache.volume.extents(count, offset)
    if flags & nbdkit.FLAG_REQ_ONE:
        found = found[:1]
    return [
        (start, length, (nbdkit.EXTENT_HOLE if hole else 0) | (nbdkit.EXTENT_ZERO if zeros else 0))
        for start, length, hole, zeros in found
    ]
