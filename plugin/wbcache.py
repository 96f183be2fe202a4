#!/usr/bin/env -S nbdkit python
# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit callbacks -> wbcache_core. Everything else is in the core.

    nbdkit python plugin/wbcache.py origin=/dev/sdb log=/dev/nvme0n1p1
"""

import ctypes
import functools
import importlib
import logging
import os
import site
import sys
import threading
import time

import nbdkit

_NEEDED = {"sortedcontainers": "python3-sortedcontainers", "xxhash": "python3-xxhash", "zstandard": "python3-zstandard"}
"""Modules that the core imports, and the Debian packages that have them."""


def _make_importable():
    """Make the core and what it needs importable, wherever this file is installed and however nbdkit was started.

    nbdkit embeds one Python, on Debian that of /usr/bin/python3. This file may lie in a virtual environment of another
    version, whose compiled modules cannot be loaded here. And in a shell with an activated environment the embedded
    Python leaves out the system's folders. Ends the process with a message if something is missing.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if os.path.isdir(os.path.join(home, "wbcache_core")):
        # Not left in front: other modules installed there must not come before the standard library.
        sys.path.insert(0, home)
        importlib.import_module("wbcache_core")
        sys.path.remove(home)
    owner = os.path.basename(os.path.dirname(home))
    if owner == version:
        installed = [place for place, path in enumerate(sys.path) if path.endswith(("site-packages", "dist-packages"))]
        sys.path.insert(min(installed, default=len(sys.path)), home)
    elif not owner.startswith(("python", "pypy")):
        sys.path.append(home)
    # After all others, so that an environment that has its own modules keeps them.
    sys.path += [path for path in site.getsitepackages([sys.base_prefix, "/usr"]) if path not in sys.path]

    missing = [name for name in ("wbcache_core", *_NEEDED) if not _loads(name)]
    if "wbcache_core" in missing:
        sys.exit(f"wbcache: the plugin {__file__} does not find its core, wbcache_core, in {home}: install it again")
    if missing:
        packages = " ".join(_NEEDED[name] for name in missing)
        sys.exit(
            f"wbcache: cannot load Python modules: {', '.join(missing)}. nbdkit runs Python {sys.version.split()[0]} "
            f"and needs them for that version. Install them, on Debian and Ubuntu: apt install {packages}"
        )


def _loads(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


_make_importable()

from wbcache_core import __version__
from wbcache_core.errors import ExportNameError, StoppedError, VolumeReplacedError, WbcacheError, errno_for_client
from wbcache_core.format import segment as segment_format
from wbcache_core.format import superblock as superblock_format
from wbcache_core.format.standby_state import DESCRIPTION as LOG_DESCRIPTION
from wbcache_core.memory import moments
from wbcache_core.nbdkit_process import exit_status, thread_state
from wbcache_core.nbdkit_process.client_sockets import ClientSockets, allow_more_descriptors
from wbcache_core.nbdkit_process.shutdown import ShutdownWatcher
from wbcache_core.nbdkit_process.this_client import is_exposed
from wbcache_core.nbdkit_process.thread_state import ThreadStatePin
from wbcache_core.server.config import Config
from wbcache_core.server.control.commands import COMMANDS, TOO_LONG
from wbcache_core.server.control.node_commands import NodeCommands
from wbcache_core.server.control.server import ControlServer
from wbcache_core.server.control.socket import ControlSocket
from wbcache_core.server.metrics import load_client
from wbcache_core.server.metrics_server import MetricsServer
from wbcache_core.server.node import MOMENT, Node
from wbcache_core.server.standby import EXPORT as LOG_EXPORT
from wbcache_core.units import MIB, PAGE_BYTES, quoted
from wbcache_core.volume.export import descriptions, level_of

API_VERSION = 2

# nbdkit prints the traceback of whatever a callback raises. Our messages say what to do; where a traceback helps,
# _failure() logs it.
sys.tracebacklimit = 0

_FUA = nbdkit.FLAG_FUA
_LARGEST_REQUEST = 32 * MIB
_LONGEST_DESCRIPTION = 1000
"""Characters; NBD has room for 4096 bytes."""

_config = Config()
_node = None
_client_sockets = None
_watcher = None
_control = None
_control_socket = None
_metrics = None
_hanging_up = threading.Lock()
_last_answers = threading.Event()
"""At a stop, when what was accepted is durable, requests that were carried out are answered; then it is set, and the
others get no answer."""
_ANSWER_SECONDS, _ANSWER_PAUSE = 0.1, 0.005
"""So long they may take, and between two looks whether all have gone."""


class NbdkitLogHandler(logging.Handler):
    """Sends the core's log to nbdkit: from log-level on as errors, the only lines of nbdkit's that go to stderr or
    syslog as it is configured; what is less important as debug lines (-v)."""

    def __init__(self):
        super().__init__()
        # Python plugins have no nbdkit.error; the C function is exported to every plugin.
        self._error = ctypes.CDLL(None).nbdkit_error

    def emit(self, record):
        message = self.format(record)
        if record.levelno < (_node or _config).log_level:
            nbdkit.debug(f"wbcache: {message}")
            return
        # nbdkit calls all of them errors.
        kind = f"{record.levelname.lower()}: " if record.levelno < logging.WARNING else ""
        self._error(b"%s", f"wbcache: {kind}{message}".encode("utf-8", "replace"))


_log = logging.getLogger("wbcache")
_log.addHandler(NbdkitLogHandler())
_log.setLevel(logging.DEBUG)
_log.propagate = False


class RequestFailedError(Exception):
    """What nbdkit gets to see of a failure."""


def _failure(error):
    """Choose the errno; returns the exception to raise, which keeps no references."""
    if isinstance(error, StoppedError):
        # A client that learns of the stop disconnects, see _end_when_settled().
        _last_answers.wait()
    if not isinstance(error, WbcacheError):
        sys.tracebacklimit = 100
        _log.error("internal error, please report it", exc_info=error)
        sys.tracebacklimit = 0
    nbdkit.set_error(errno_for_client(error))
    return RequestFailedError(str(error))


class Connection:
    """What one client has open: the live volume, a snapshot, or a comparison of two. A callback works on `target`, and
    starts over if that has been replaced meanwhile."""

    __slots__ = ("pin", "read_only", "snapshot", "target", "thread_states")

    def __init__(self, snapshot=None, read_only=""):
        """Without a snapshot, the volume is still to be given to it. `read_only`: why this client may not write to it,
        or empty."""
        self.target = snapshot
        self.snapshot = snapshot
        self.read_only = read_only
        self.thread_states = ThreadStatePin(_config.pin_thread_state)
        self.pin = self.thread_states.pin

    def close(self):
        if self.snapshot:
            self.snapshot.close()
        else:
            _node.served.switch.remove(self)
        self.thread_states.close()


class LogConnection(Connection):
    """What the owner has open at a standby: its log. It stays that when the standby takes over."""

    __slots__ = ()


def _is_log(h):
    return isinstance(h, LogConnection)


def _request(function):
    """Pins the thread and turns every exception into one that carries no data: nbdkit never frees its frames."""

    @functools.wraps(function)
    def callback(h, *arguments):
        h.pin()
        try:
            return function(h.target, *arguments)
        except VolumeReplacedError:
            failure = None
        except Exception as error:
            failure = _failure(error)
        if failure is None:
            return callback(h, *arguments)
        del h, arguments
        raise failure

    return callback


def dump_plugin():
    print(f"wbcache_version={__version__}")
    print(f"wbcache_segment_format={segment_format.VERSION}")
    print(f"wbcache_superblock_format={superblock_format.VERSION}")
    print("wbcache_compress=off,zstd")
    print("wbcache_history=off,size,time")
    print("wbcache_history_full=drop,hold")
    print(f"wbcache_control={','.join(COMMANDS)}")
    print(f"wbcache_pin_thread_state={'on' if thread_state.SUPPORTED else 'unsupported'}")
    print(f"wbcache_python={sys.version.split()[0]}")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def config(key, value):
    _config.set(key, value, nbdkit.parse_size)


def config_complete():
    _config.check()


def get_ready():
    global _node, _client_sockets, _control_socket, _metrics
    allow_more_descriptors()
    _client_sockets = ClientSockets()
    _node = Node(_config, may_spawn=True)
    _check_user()
    if _config.control:
        _control_socket = ControlSocket(_config.control)
    if _config.metrics:
        load_client()
        _metrics = MetricsServer(*_config.metrics)


def _check_user():
    if _node and _node.writers:
        _node.writers.check_user()


def after_fork():
    # Signals and threads do not survive the fork into the background, so they start here.
    global _watcher, _control
    # nbdkit calls cleanup() only when the last client is gone; what was acknowledged is made durable at once.
    at_stop = {"wbcache-finish": _node.finish, "wbcache-end": _end_when_settled}
    _watcher = ShutdownWatcher(_node.interrupt, _send_clients_away, at_stop)
    _watcher.start()
    # With -u the user is a different one now. Failing here would keep out readers (-r, --filter=cow), who are not known
    # before they connect; and in the background nobody would notice.
    _check_user()
    if _node and _control_socket:
        commands = NodeCommands(_node)
        _control = ControlServer(_control_socket, commands.answer, TOO_LONG, commands.tick)
        _control.start()
    if _node and _metrics:
        _metrics.start(_node.metrics)


def _end_when_settled():
    # Not before the commit: a client that learns of the stop disconnects, and some versions of nbdkit can abort when
    # one does so with requests queued. And nbdkit answers what it reads after the shutdown with an error.
    _node.wait_until_settled()
    try:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while _hang_up(answers=True) and time.monotonic() < deadline:
            time.sleep(_ANSWER_PAUSE)
        _hang_up(answers=False)
    finally:
        _last_answers.set()
        nbdkit.shutdown()


def _send_clients_away():
    if _node.is_settled:
        _hang_up(answers=not _last_answers.is_set())


def _hang_up(answers):
    with _hanging_up:
        return _client_sockets.hang_up(_control_socket.listener if _control_socket else None, answers)


def cleanup():
    # A drain can be watched to its end; no tag may be in progress when the log is closed.
    _node.finish()
    _last_answers.set()
    if _metrics:
        _metrics.stop()
    if _control:
        _control.stop()
    _node.stop()
    _watcher.finish()
    if _node.is_unfinished:
        exit_status.end_with(exit_status.UNFINISHED)


def open(readonly):
    try:
        # One that connects again has to find the next server: this one cannot carry out its requests.
        _node.check_not_stopping()
        name = _export_name()
        if log := _node.open_log(name, is_exposed):
            return LogConnection(log)
        if name.startswith(MOMENT):
            return Connection(_node.open_past(name[len(MOMENT) :], is_exposed))
        level = level_of(name, bool(_config.peer)) if name else None
        # nbdkit has no way to tell a client why it is refused. Of a read-only export each client says that itself.
        connection = Connection(read_only="" if readonly else _node.writers.admit())
        _node.served.switch.add(connection, level)
        return connection
    except Exception as error:
        failure = _failure(error)
    raise failure


def _export_name():
    try:
        return nbdkit.export_name()
    except UnicodeDecodeError as error:
        name = quoted(error.object.decode("utf-8", "backslashreplace"))
        raise ExportNameError(f"there is no export {name}: a name has to be UTF-8") from None


def close(h):
    h.close()


def list_exports(readonly, is_tls):
    oldest, newest, tags = _node.window_ends()
    if _node.served:
        exports = [("", "the live volume; " + moments.describe_window(oldest, newest))]
        exports += [(name, f"the live volume; {description}") for name, description in descriptions(bool(_config.peer))]
    else:
        exports = [(LOG_EXPORT, LOG_DESCRIPTION)]
    for which, generation in (("oldest", oldest), ("newest", newest)):
        if generation:
            exports.append((f"{MOMENT}{generation.number}", f"{which}: {moments.describe(generation)}"))
    exports += [(f"{MOMENT}{tag.name}", f"tag: {moments.describe_tag(tag)}") for tag in tags]
    return exports


def export_description(h):
    if h.snapshot:
        return h.snapshot.description
    if h.read_only:
        return f"the live volume; read-only: {h.read_only}"[:_LONGEST_DESCRIPTION]
    oldest, newest, _ = _node.window_ends()
    return "the live volume; " + moments.describe_window(oldest, newest)


def get_size(h):
    return h.target.size


def block_size(h):
    return (1, PAGE_BYTES, _LARGEST_REQUEST)


def can_write(h):
    return _is_log(h) or (h.snapshot is None and not h.read_only)


def can_flush(h):
    return _is_log(h) or h.snapshot is None


def can_trim(h):
    return h.snapshot is None and _node.served.now.can_trim


def can_zero(h):
    return h.snapshot is None


def can_fast_zero(h):
    return h.snapshot is None


def can_extents(h):
    return not _is_log(h)


def can_multi_conn(h):
    return not _is_log(h)


def can_fua(h):
    return nbdkit.FUA_NATIVE if can_flush(h) else nbdkit.FUA_NONE


def can_cache(h):
    return nbdkit.CACHE_NONE if _is_log(h) else nbdkit.CACHE_NATIVE


# The two that matter for speed do what _request() does, without its second call.
def pread(h, buf, offset, flags):
    h.pin()
    try:
        h.target.read_into(buf, offset)
        return
    except VolumeReplacedError:
        failure = None
    except Exception as error:
        failure = _failure(error)
    if failure is None:
        pread(h, buf, offset, flags)
        return
    del h, buf
    raise failure


def pwrite(h, buf, offset, flags):
    h.pin()
    try:
        h.target.write(buf, offset, flags & _FUA != 0)
        return
    except VolumeReplacedError:
        failure = None
    except Exception as error:
        failure = _failure(error)
    if failure is None:
        pwrite(h, buf, offset, flags)
        return
    del h, buf
    raise failure


@_request
def flush(target, flags):
    target.flush()


@_request
def trim(target, count, offset, flags):
    target.trim(count, offset, flags & _FUA != 0)


@_request
def zero(target, count, offset, flags):
    target.zero(count, offset, flags & _FUA != 0, flags & nbdkit.FLAG_MAY_TRIM != 0)


@_request
def cache(target, count, offset, flags):
    target.prefetch(count, offset)


@_request
def extents(target, count, offset, flags):
    found = target.extents(count, offset, flags & nbdkit.FLAG_REQ_ONE != 0)
    return [
        (start, length, (nbdkit.EXTENT_HOLE if hole else 0) | (nbdkit.EXTENT_ZERO if zeros else 0))
        for start, length, hole, zeros in found
    ]
