# SPDX-License-Identifier: BSD-3-Clause
"""Somebody else uses the origin or the log: qemu, a loop device, another file server. Refused, with who it is."""

import contextlib
import subprocess
import sys
import time

import pytest

from tests.support import clients, mounts
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import REPOSITORY, NbdkitServer
from tests.support.refusal import assert_refused, run_served

MIB = 1 << 20
LIMIT_S = 10


@pytest.fixture
def words(pair):
    """origin= and log= of a pair that is served and ended."""
    pair.make_origin(4 * MIB)
    with pair.serve(log_size="4M") as server:
        clients.qemu_io(server.uri, "write -P 7 0 4096")
    return [f"origin={pair.origin}", f"log={pair.log}"]


@contextlib.contextmanager
def qemu(path, *options):
    """qemu-io with the image open; yields words of the message that says who it is."""
    holder = subprocess.Popen(
        ["qemu-io", "-f", "raw", *options, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clients.environment(), text=True,
    )  # fmt: skip
    try:
        # It has opened the image when it answers.
        holder.stdin.write("length\n")
        holder.stdin.flush()
        assert "MiB" in holder.stdout.readline()
        yield ["in use", f"qemu-io (pid {holder.pid})", "lock", "stop that one"]
    finally:
        holder.communicate("quit\n", timeout=LIMIT_S)


@contextlib.contextmanager
def file_server(path):
    """nbdkit's file plugin, with a client: it opens the file for a client, and takes no locks."""
    server = NbdkitServer(path.parent, ["file", path])
    try:
        with clients.connection(server.uri) as handle:
            handle.pread(512, 0)
            yield ["in use", f"nbdkit (pid {server.pid})", "for writing", "force=in-use"]
    finally:
        server.destroy()


@contextlib.contextmanager
def loop_device(path):
    with mounts.loop_device(path) as device:
        yield ["in use", f"attached to {device}", f"losetup -d {device}"]


@contextlib.contextmanager
def read_only_loop_device(path):
    device = clients.run("losetup", "--find", "--show", "--read-only", path).strip()
    try:
        yield ["in use", f"attached to {device}"]
    finally:
        clients.run("losetup", "--detach", device)


HOLDERS = {
    "qemu": qemu,
    "loop device": loop_device,
    "read-only loop device": read_only_loop_device,
    "file server": file_server,
}


@pytest.mark.parametrize("part", ["origin", "log"])
@pytest.mark.parametrize("kind", HOLDERS)
def test_an_image_that_others_use_is_not_served(pair, words, part, kind):
    path = getattr(pair, part)
    with HOLDERS[kind](path) as says:
        assert_refused(pair.folder, words, [f"{part} '{path}'", *says])
    with pair.serve() as server:
        clients.qemu_io(server.uri, "read -P 7 0 4096")


def test_readers_that_can_bear_a_writer_are_no_hindrance(pair, words):
    with qemu(pair.origin, "-r"), pair.serve(check=False) as server:
        clients.qemu_io(server.uri, "read -P 7 0 4096")


def test_an_image_by_another_name(pair, words):
    """It is the file that counts, not what it is called."""
    other = pair.folder / "other"
    other.hardlink_to(pair.origin)
    for holder in (loop_device, file_server, qemu):
        with holder(other) as says:
            assert_refused(pair.folder, words, [f"origin '{pair.origin}'", *says])


def test_a_block_device_that_qemu_uses(pair, words):
    with mounts.loop_device(pair.origin) as device, qemu(device) as says:
        assert_refused(pair.folder, [f"origin={device}", words[1]], [f"origin '{device}'", *says])


def test_a_mount_is_named(pair, words):
    image = pair.folder / "image"
    image.write_bytes(bytes(16 * MIB))
    clients.run("mkfs.ext4", "-q", image)
    with mounts.loop_device(image) as device, mounts.mounted(device, pair.folder) as place:
        assert_refused(place, [f"origin={device}", words[1]], [device, "in use", f"mounted on {place}"])


def test_one_that_was_just_ended_is_waited_for(pair, words):
    """A restart that begins before the end of what was there before."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(qemu(pair.origin))
        server = pair.start(wait=False)
        time.sleep(0.3)
        assert server.running, server.describe()
    server._wait_until_serving()
    server.stop()


def test_a_writer_without_a_claim_can_be_accepted(pair, words):
    with file_server(pair.origin):
        output = run_served([*words, "force=in-use"], "qemu-io -f raw -c 'read -P 7 0 4096' $uri")
    assert "is open for writing in nbdkit" in output
    with qemu(pair.origin) as says:
        assert_refused(pair.folder, [*words, "force=in-use"], says)


@pytest.mark.parametrize("part", ["origin", "log"])
def test_qemu_keeps_away_from_what_is_served(pair, words, part):
    """In its usual words, also once the server has gone into the background."""
    path = getattr(pair, part)
    command = ("qemu-io", "-f", "raw", "-c", "write 0 512", str(path))
    with pair.serve():
        failed = subprocess.run(command, env=clients.environment(), capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert 'Failed to get "write" lock' in failed.stderr
    with background_server(pair.folder, words):
        failed = subprocess.run(command, env=clients.environment(), capture_output=True, text=True, check=False)
        assert 'Failed to get "write" lock' in failed.stderr
        read = ("qemu-img", "convert", "-f", "raw", "-O", "raw", str(path), str(pair.folder / "copy"))
        failed = subprocess.run(read, env=clients.environment(), capture_output=True, text=True, check=False)
        assert "Failed to get" in failed.stderr
    clients.run("qemu-img", "convert", "-f", "raw", "-O", "raw", path, pair.folder / "copy")


@contextlib.contextmanager
def background_server(folder, words):
    """A daemon, ended by its process id."""
    pid_file = folder / "daemon.pid"
    plugin = REPOSITORY / "plugin" / "wbcache.py"
    clients.run("nbdkit", "-U", folder / "daemon.sock", "-P", pid_file, "python", plugin, *words)
    # It is written by the process in the background, after the one in front has ended.
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = int(pid_file.read_text())
    try:
        yield
    finally:
        clients.run("kill", pid)
        deadline = time.monotonic() + LIMIT_S
        while subprocess.run(["kill", "-0", str(pid)], capture_output=True, check=False).returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def wbcache(*words):
    command = [sys.executable, "-m", "wbcache_core", *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_looking_is_possible_beside_readers_and_not_beside_writers(pair, words):
    info, check = ("info", pair.log), ("check", pair.log, "--origin", pair.origin)
    with qemu(pair.log, "-r"), qemu(pair.origin, "-r"), read_only_loop_device(pair.origin):
        for command in (info, check):
            done = wbcache(*command)
            assert done.returncode == 0, done.stderr
    for part, command in (("log", info), ("origin", check)):
        with qemu(getattr(pair, part)) as says:
            done = wbcache(*command)
            assert done.returncode == 2
            assert all(word in done.stderr for word in says), done.stderr
    with file_server(pair.log):
        done = wbcache(*info)
        assert done.returncode == 0, done.stderr
        assert "is open for writing in nbdkit" in done.stderr


def test_writing_commands_are_refused_beside_others(pair, words):
    for command in (("replay", pair.log, pair.origin), ("tag", pair.log, "name"), ("rewind", pair.log, "1")):
        with qemu(pair.log) as says:
            done = wbcache(*command)
            assert done.returncode == 2
            assert all(word in done.stderr for word in says), done.stderr
