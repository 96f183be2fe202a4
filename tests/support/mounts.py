# SPDX-License-Identifier: BSD-3-Clause
"""An export as a file (nbdfuse), as a block device (loop) and as a mounted file system; all undone on exit."""

import contextlib
import subprocess
import time

from tests.support import clients

START_LIMIT_S = 30
END_LIMIT_S = 10


@contextlib.contextmanager
def fuse_file(uri, folder, name="disk"):
    """The path of a file that is the export; its fsync is the export's flush."""
    mount_point = folder / f"{name}.fuse"
    mount_point.mkdir()
    pid_file = folder / f"{name}.fuse.pid"
    server = clients.start("nbdfuse", "--pidfile", pid_file, mount_point / name, uri)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not pid_file.exists():
            assert server.poll() is None, f"nbdfuse ended with status {server.returncode}"
            assert time.monotonic() < deadline, f"nbdfuse not ready after {START_LIMIT_S} s"
            time.sleep(0.01)
        yield mount_point / name
        _retry("fusermount3", "-u", mount_point)
        _end(server)
    except BaseException:
        subprocess.run(["fusermount3", "-u", "-z", mount_point], env=clients.environment(), check=False)
        server.kill()
        server.wait()
        raise
    pid_file.unlink(missing_ok=True)
    mount_point.rmdir()


def _end(server):
    """It ends by itself when unmounted, except when a mount namespace made meanwhile has a copy of the mount."""
    try:
        server.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.terminate()
        server.wait(END_LIMIT_S)


def _retry(*command):
    """A file system that was in use a moment ago can still be busy."""
    for _ in range(50):
        try:
            return clients.run(*command)
        except AssertionError as failure:
            if "busy" not in str(failure):
                raise
            time.sleep(0.1)
    return clients.run(*command)


@contextlib.contextmanager
def loop_device(path, *options):
    """The block device on top of a file; detached, with everything written and flushed, on exit."""
    device = clients.run("losetup", "--find", "--show", *options, path).strip()
    try:
        yield device
        clients.run("blockdev", "--flushbufs", device)
    finally:
        clients.run("losetup", "--detach", device)
        deadline = time.monotonic() + START_LIMIT_S
        while str(path) in clients.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"):
            assert time.monotonic() < deadline, f"{device} stays attached"
            time.sleep(0.02)


@contextlib.contextmanager
def memory_file_system(mount_point, kind, options="defaults"):
    """The path of a new file system of that kind, tmpfs or ramfs; gone with all it has on exit."""
    mount_point.mkdir()
    clients.run("mount", "-t", kind, "-o", options, kind, mount_point)
    try:
        yield mount_point
    finally:
        clients.run("umount", "--lazy", mount_point)


@contextlib.contextmanager
def mounted(device, folder, options="defaults"):
    """The path where the device's file system is mounted."""
    mount_point = folder / "mounted"
    mount_point.mkdir(exist_ok=True)
    clients.run("mount", "-o", options, device, mount_point)
    try:
        yield mount_point
    except BaseException:
        subprocess.run(["umount", "--lazy", mount_point], env=clients.environment(), check=False)
        raise
    _retry("umount", mount_point)
