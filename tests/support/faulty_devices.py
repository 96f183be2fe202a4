# SPDX-License-Identifier: BSD-3-Clause
"""Devices that fail when a test wants it: a file over nbdkit's error filter, and a file system that gets full."""

import contextlib
import os
import subprocess
import time

from tests.support import clients, mounts
from tests.support.nbdkit_server import START_LIMIT_S, NbdkitServer

_WRITING = ("pwrite", "zero", "trim")


class FaultyDevice:
    """`path` is a file whose reads and writes fail on demand, `uri` the same over NBD; `backing` is the plain file that
    both stand on. After vanish() there is no device any more.

    The kernel keeps no written page back from the backing file, but may serve reads of what was read or written
    before: forget() is for tests of failing reads.
    """

    def __init__(self, folder, name):
        self._triggers = {kind: folder / f"{name}.fail-{kind}" for kind in ("read", "write")}
        self.backing = folder / f"{name}.backing"
        self.path = None
        self.uri = None
        self.vanish = None

    def parameters(self, error, rate):
        """Of nbdkit's error filter."""
        words = [f"error={error}"]
        for kind, names in (("read", ("pread",)), ("write", _WRITING)):
            for name in names:
                words += [f"error-{name}-rate={rate}", f"error-{name}-file={self._triggers[kind]}"]
        return words

    def fail(self, *kinds):
        """From now on these fail; kinds are "read" and "write"."""
        for kind in kinds:
            self._triggers[kind].touch()

    def heal(self):
        for trigger in self._triggers.values():
            trigger.unlink(missing_ok=True)

    def forget(self):
        """Have the next reads of `path` come from the backing file."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


@contextlib.contextmanager
def faulty_device(folder, name, size, content=b"", error="EIO", rate="100%", delay="0ms", lifetime_s=180):
    """A FaultyDevice of `size` bytes that starts with `content`; each write of it takes `delay`. It is there for
    `lifetime_s` at most."""
    device = FaultyDevice(folder, name)
    with open(device.backing, "wb") as backing:
        backing.write(content)
        backing.truncate(size)
    filters = ["--filter=error", "--filter=delay"]
    words = ["file", device.backing, f"wdelay={delay}", *device.parameters(error, rate)]
    server = NbdkitServer(folder, [*filters, *words], lifetime_s)
    try:
        with fragile_fuse_file(server.uri, folder / f"{name}.fuse", name) as path:
            device.path, device.uri, device.vanish = path, server.uri, server.destroy
            yield device
    finally:
        server.destroy()


@contextlib.contextmanager
def fragile_fuse_file(uri, mount_point, name):
    """A file that is the export. Unlike that of `mounts` it goes away in any state, also without its server: what was
    written to it has reached the backing file. The process is that of the pid in `mount_point`.fuse-pid."""
    mount_point.mkdir()
    pid_file = mount_point.with_suffix(".fuse-pid")
    process = clients.start("nbdfuse", "--pidfile", pid_file, mount_point / name, uri)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not (pid_file.exists() and pid_file.stat().st_size):
            assert process.poll() is None, f"nbdfuse ended with status {process.returncode}"
            assert time.monotonic() < deadline, f"nbdfuse not ready after {START_LIMIT_S} s"
            time.sleep(0.01)
        yield mount_point / name
    finally:
        subprocess.run(["fusermount3", "-u", "-z", mount_point], env=clients.environment(), check=False)
        process.kill()
        process.wait()
        pid_file.unlink(missing_ok=True)


class SmallFileSystem:
    """A tmpfs at `path`."""

    def __init__(self, path):
        self.path = path
        self._ballast = path / "ballast"

    def fill_up(self):
        """Leave not a page free."""
        with open(self._ballast, "ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(bytes(4096)):
                pass

    def make_room(self):
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_file_system(folder, size):
    """A SmallFileSystem with room for `size` bytes."""
    with mounts.memory_file_system(folder / "small", "tmpfs", f"size={size}") as path:
        yield SmallFileSystem(path)


@contextlib.contextmanager
def small_ext4(folder, size):
    """A SmallFileSystem of `size` bytes in all, in a file: one that takes direct I/O, and whose journal counts."""
    image = folder / "small.img"
    with open(image, "wb") as file:
        file.truncate(size)
    clients.run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    with mounts.loop_device(image) as device, mounts.mounted(device, folder) as path:
        yield SmallFileSystem(path)
