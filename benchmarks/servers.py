# SPDX-License-Identifier: BSD-3-Clause
"""The cache and its peers as servers, each for the length of a `with`."""

import contextlib
import itertools
import os
import subprocess
import time

from benchmarks import images
from tests.support.clients import REPOSITORY, SYSTEM_FOLDERS
from tests.support.nbdkit_server import PLUGIN, NbdkitServer
from wbcache_core.units import GIB

NULL_PLUGIN = REPOSITORY / "tests" / "support" / "null_plugin.py"
NOT_DESTAGED = {"destage_delay": "1h", "low_watermark": 98, "high_watermark": 99}
"""Parameters with which the log keeps what it has, until it is full or nobody has written for a second."""
ABSORBING = {"ring_size": "2G", "commit_interval": "10m", "commit_size": "1G"}
ABSORBING_LOG_BYTES = 9 * GIB
"""Parameters, and a size of the log, with which a GiB stays in the ring before the first commit."""
_LIFETIME_S = 900
_START_LIMIT_S = 10

_serial = itertools.count(1)


@contextlib.contextmanager
def nbdkit(bench, *arguments, threads=None):
    """An nbdkit with those arguments; killed at the end."""
    options = ("-t", threads or bench.threads)
    server = NbdkitServer(bench.sockets, (*options, *arguments), lifetime_s=_LIFETIME_S)
    try:
        yield server
        assert server.running or server.was_killed, server.describe()
    finally:
        server.destroy()


def wbcache_arguments(origin, log, **parameters):
    """Arguments of nbdkit; `ring_size="1M"` becomes ring-size=1M."""
    settings = {"origin": origin, "log": log, **parameters}
    return ["python", PLUGIN, *(f"{key.replace('_', '-')}={value}" for key, value in settings.items())]


@contextlib.contextmanager
def wbcache(bench, origin, log, fresh=True, ring_stays=False, threads=None, options=(), **parameters):
    """The cache; with fresh=True on a log that holds nothing yet. The origin may have been served with other logs.

    It is killed in the end; with ring_stays=True what its ring has is there for the next server.
    """
    parameters["force"] = "other-log"
    if fresh and log.exists():
        images.forget_log(log)
        parameters["force"] += ",discard-log"
    try:
        with nbdkit(bench, *options, *wbcache_arguments(origin, log, **parameters), threads=threads) as server:
            yield server
    finally:
        if log.exists() and not ring_stays:
            images.forget_ring(log)


def null(bench, size, pin, threads=None):
    """A Python plugin that copies to memory and does nothing else."""
    return nbdkit(bench, "python", NULL_PLUGIN, f"size={size}", f"pin={'on' if pin else 'off'}", threads=threads)


def file(bench, path, *options, threads=None):
    """nbdkit's own plugin for files, written in C: data goes to the page cache, a flush is an fdatasync."""
    return nbdkit(bench, *options, "file", path, threads=threads)


def memory(bench, size):
    """nbdkit's own memory plugin."""
    return nbdkit(bench, "memory", size)


def cache_filter(bench, path):
    """nbdkit's cache filter in write-back mode; its cache is a temporary file in TMPDIR."""
    return nbdkit(bench, "--filter=cache", "file", path, "cache=writeback")


def cow_filter(bench, path):
    """nbdkit's cow filter: writes go to a temporary file and never to the disk behind."""
    return nbdkit(bench, "--filter=cow", "file", path)


def slow_disk(bench, size, delay_ms=5):
    """A disk in memory with a delay for each request, as a server for an NBD origin."""
    delays = [f"{kind}delay={delay_ms}ms" for kind in ("r", "w")]
    return nbdkit(bench, "--filter=delay", "memory", size, *delays, threads=16)


class _QemuNbd:
    """One qemu-nbd process."""

    def __init__(self, folder, path):
        self.socket = folder / f"qemu-nbd{next(_serial)}.sock"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self._process = subprocess.Popen(
            ["qemu-nbd", "--cache=writeback", "-f", "raw", "-t", "-e", "32", "-k", self.socket, path],
            stdin=subprocess.DEVNULL,
            env=dict(os.environ, PATH=SYSTEM_FOLDERS),
        )
        self.pid = self._process.pid

    def wait_until_serving(self):
        deadline = time.monotonic() + _START_LIMIT_S
        while not self.socket.exists():
            assert self._process.poll() is None and time.monotonic() < deadline, "qemu-nbd does not serve"
            time.sleep(0.01)

    def destroy(self):
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def qemu_nbd(bench, path):
    """qemu-nbd over the page cache."""
    server = _QemuNbd(bench.sockets, path)
    try:
        server.wait_until_serving()
        yield server
    finally:
        server.destroy()
