# SPDX-License-Identifier: BSD-3-Clause
"""Thin wrappers round the NBD clients: each has a time limit, and a failure shows all that the client said."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import nbd

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_S = 90
SYSTEM_FOLDERS = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def environment():
    """Ours, with the system's programs first (a python3 or nbdsh of the user's must not win) and no translations."""
    return dict(os.environ, PATH=f"{SYSTEM_FOLDERS}:{os.environ.get('PATH', '')}", LC_ALL="C")


def start(*command, **options):
    """Start a client in the background; the caller ends it, and it is killed when the tests themselves die."""
    words = ["setpriv", "--pdeathsig", "KILL", *(str(word) for word in command)]
    return subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, **options)


def run(*command, limit_s=LIMIT_S, folder=None):
    """Run a client to its end and return its output; AssertionError with all of it when it fails or hangs."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=folder,
            timeout=limit_s,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as expired:
        output = f"{expired.stdout}\n{expired.stderr}"
        raise AssertionError(f"{' '.join(words)}: no end within {limit_s} s\n{output}") from None
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def connection(uri):
    """A libnbd handle, disconnected at the end if the server still lives; usable by one thread at a time."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    try:
        yield handle
    finally:
        if handle.aio_is_ready():
            leave(handle)


def leave(handle):
    """Disconnect from a server that may be ending: it can have closed the connection before it read the farewell."""
    try:
        handle.shutdown()
    except nbd.Error as error:
        if error.errno != "ECONNRESET":
            raise


@contextlib.contextmanager
def connections(uri, count):
    """A list of `count` libnbd handles."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connection(uri)) for _ in range(count)]


def read_all(handle, chunk=1 << 20):
    """The whole export as bytes."""
    size = handle.get_size()
    return b"".join(handle.pread(min(chunk, size - offset), offset) for offset in range(0, size, chunk))


def nbdinfo(uri):
    """The export's description as nbdinfo's JSON object."""
    return json.loads(run("nbdinfo", "--json", uri))["exports"][0]


def extent_map(uri):
    """The allocation map as a list of (offset, length, hole, zero)."""
    extents = json.loads(run("nbdinfo", "--json", "--map", uri))
    return [(e["offset"], e["length"], bool(e["type"] & 1), bool(e["type"] & 2)) for e in extents]


def nbdcopy(*arguments):
    return run("nbdcopy", *arguments)


def qemu_io(uri, *commands):
    """Run qemu-io commands in turn; a failing one or a pattern that does not verify fails the test."""
    words = [word for command in commands for word in ("-c", command)]
    output = run("qemu-io", "-f", "raw", *words, uri)
    assert "failed" not in output, output
    return output


def qemu_img(*arguments, limit_s=LIMIT_S):
    return run("qemu-img", *arguments, limit_s=limit_s)


def qemu_bench(uri, *arguments, count, depth=64, **limits):
    """Writes of 4 KiB by `qemu-img bench`; further arguments override or add to that."""
    words = ["-f", "raw", "-w", "-c", count, "-d", depth, "-s", "4096"]
    return qemu_img("bench", *words, *arguments, uri, **limits)


def fio_command(uri, *options):
    """One fio job on the nbd engine at depth 32; options without the leading dashes.

    The job is a thread: as a process of its own it would outlive a fio that is killed.
    """
    words = ["name=job", "thread=1", "ioengine=nbd", f"uri={uri}", "iodepth=32", "randrepeat=1", *options]
    return ["fio", *(f"--{word}" for word in words)]


def fio(uri, folder, *options, limit_s=LIMIT_S):
    """Run a fio job to its end; `folder` is where fio leaves its own files."""
    output = run(*fio_command(uri, *options), limit_s=limit_s, folder=folder)
    assert "err= 0" in output, output
    return output
