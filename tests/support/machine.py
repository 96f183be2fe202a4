# SPDX-License-Identifier: BSD-3-Clause
"""All that a power cut takes away at once: a file system in use, the cache below it, and its disks' write caches.

ext4 on a loop device on nbdfuse  ->  nbdkit with the cache  ->  origin: NBD or nbdfuse  ->  VolatileDisk
                                                                 log: nbdfuse            ->  VolatileDisk
"""

import contextlib
import os
import signal
import subprocess
import time

from tests.support import clients
from tests.support.faulty_devices import fragile_fuse_file
from tests.support.nbdkit_server import PLUGIN, NbdkitServer
from tests.support.volatile_disk import VolatileDisk

_RELEASE_LIMIT_S = 20
_LIFETIME_S = 600
"""Of a server: a machine that is busy with other things can make a round of minutes of it."""


class Machine:
    """Between boot() and cut_power() or shut_down() `mounted` is a folder on the cached disk."""

    def __init__(self, folder, origin_bytes, log_bytes):
        self.origin = VolatileDisk(folder, "origin", origin_bytes)
        self.log = VolatileDisk(folder, "log", log_bytes)
        self.mounted = folder / "mounted"
        self.mounted.mkdir()
        self.device = None
        self._folder = folder
        self._boots = 0
        self._stack = None
        self._processes = []
        self._cache = None

    def boot(self, origin_is_file=False, log_disk=None, origin_disk=None, **parameters):
        """Start everything up to `device`, the cached disk as a loop device; nothing is mounted yet.

        log_disk and origin_disk are parameters of VolatileDisk.start(), the others those of the cache.
        """
        self._boots += 1
        self._stack = contextlib.ExitStack()
        self._processes = []
        try:
            self.origin.start(**origin_disk or {})
            self.log.start(**log_disk or {})
            log = self._file(self.log.uri, "log")
            origin = self._file(self.origin.uri, "origin") if origin_is_file else self.origin.uri
            # The origin is now a file and now an export; what it had not answered dies with it.
            settings = {"origin": origin, "log": log, "force": "origin-moved", "origin_settle": "0", **parameters}
            words = [f"{key.replace('_', '-')}={value}" for key, value in settings.items()]
            self._cache = NbdkitServer(self._folder, ["-v", "python", PLUGIN, *words], _LIFETIME_S)
            self._stack.callback(self._cache.destroy)
            with clients.connection(self._cache.uri) as handle:
                assert handle.can_trim(), "or mkfs and the file system would not trim"
            file = self._file(self._cache.uri, "disk")
            self.device = clients.run("losetup", "--find", "--show", file).strip()
            self._stack.callback(self._release, self.device)
        except BaseException:
            self._stack.close()
            raise

    def _file(self, uri, name):
        mount_point = self._folder / f"{name}{self._boots}"
        path = self._stack.enter_context(fragile_fuse_file(uri, mount_point, name))
        self._processes.append(int(mount_point.with_suffix(".fuse-pid").read_text()))
        return path

    def mount(self):
        clients.run("mount", "-t", "ext4", self.device, self.mounted)
        self._stack.callback(self.unmount, lazy=True)

    def unmount(self, lazy=False):
        """With lazy it need not be mounted, nor its device work."""
        if lazy:
            for options in ([], ["--lazy"]):
                command = ["umount", *options, self.mounted]
                if not os.path.ismount(self.mounted) or not subprocess.run(command, capture_output=True).returncode:
                    return
        clients.run("umount", self.mounted)

    def _release(self, device):
        """Detach a loop device whose file system may have gone away a moment ago."""
        deadline = time.monotonic() + _RELEASE_LIMIT_S
        clients.run("losetup", "--detach", device)
        while device in clients.run("losetup", "--list", "--noheadings", "--output", "NAME"):
            assert time.monotonic() < deadline, f"{device} stays attached"
            time.sleep(0.02)

    def cut_power(self, rng, *others, style=None):
        """Kill everything, processes `others` included, in any order; returns what VolatileDisk.settle() says of
        origin and log, for which style is."""
        servers = [self._cache, self.origin.server, self.log.server]
        pids = [*self._processes, *(server.pid for server in servers), *(process.pid for process in others)]
        rng.shuffle(pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for process in others:
            process.wait()
        self._stack.close()
        # Memory does not outlive the power.
        for ring in os.scandir(os.environ["WBCACHE_SHM"]):
            os.unlink(ring.path)
        return self.origin.settle(rng, style), self.log.settle(rng, style)

    def shut_down(self):
        """Stop everything in order; the disks lose nothing."""
        self.unmount()
        self._stack.callback(self._cache.assert_clean)
        clients.run("blockdev", "--flushbufs", self.device)
        self._cache.stop()
        self._stack.close()
        for disk in (self.origin, self.log):
            with clients.connection(disk.uri) as handle:
                handle.flush()
            disk.server.stop()

    def destroy(self):
        """Leave nothing behind, in whatever state it is."""
        if self._stack:
            self._stack.close()
        for disk in (self.origin, self.log):
            disk.destroy()
