# SPDX-License-Identifier: BSD-3-Clause
"""Loads on a server, and what they measured: rate, latency, CPU time of the server."""

import json
import os
import re
import time
from dataclasses import dataclass

from benchmarks import processes
from tests.support import clients

_FIO_SLACK_S = 120
_FLUSH_LIMIT_S = 120


@dataclass
class Sample:
    """One load. `rate` is requests a second; latencies are microseconds, None where the load does not tell."""

    rate: float
    requests: int
    request_bytes: int
    cpu_s: float
    median_us: float | None = None
    high_us: float | None = None
    """99.9th percentile."""

    @property
    def mib_per_s(self):
        return self.rate * self.request_bytes / 2**20

    @property
    def cpu_us_per_request(self):
        return 1e6 * self.cpu_s / max(self.requests, 1)


def fio(bench, server, mode, *, size, block=4096, depth=16, seconds=None, amount=None, ramp_s=0.0, options=()):
    """Random or sequential requests (randwrite, read, ...) over the first `size` bytes.

    For `seconds`, or until `amount` bytes are done. CPU time counts the ramp too, so do requests. With randrw 70 of
    100 are reads, and the latencies are theirs.
    """
    # The first client lets the cache take its memory and start its threads.
    with clients.connection(server.uri):
        pass
    target = ("--ioengine=nbd", f"--uri={server.uri}")
    return _fio(bench, target, mode, size, block, depth, seconds, amount, ramp_s, options, server.pid)


def device(bench, path, mode, *, size, block=4096, depth=16, seconds=None, amount=None, options=()):
    """The same past the page cache on a file, without any server: what the disk can do."""
    target = ("--ioengine=libaio", "--direct=1", f"--filename={path}")
    return _fio(bench, target, mode, size, block, depth, seconds, amount, 0.0, options, os.getpid())


def _fio(bench, target, mode, size, block, depth, seconds, amount, ramp_s, options, pid):
    words = [
        "fio", "--name=load", "--thread=1", *target, f"--rw={mode}", f"--bs={block}",
        f"--iodepth={depth}", f"--size={size}", "--random_generator=tausworthe64", "--scramble_buffers=0",
        "--output-format=json", "--group_reporting", *options,
    ]  # fmt: skip
    is_mixed = mode in ("randrw", "rw")
    if is_mixed:
        words.append("--rwmixread=70")
    if amount:
        words.append(f"--io_size={amount}")
    if seconds:
        words += ["--time_based", "--norandommap", f"--runtime={seconds}", f"--ramp_time={ramp_s}"]
    before = processes.cpu_s(pid)
    started = time.monotonic()
    output = clients.run(*words, limit_s=(seconds or 0) + _FIO_SLACK_S, folder=bench.folder)
    elapsed_s = time.monotonic() - started
    cpu_s = processes.cpu_s(pid) - before
    job = json.loads(output[output.index("{") :])["jobs"][0]
    assert not job["error"], output
    found = job["read" if "read" in mode or is_mixed else "write"]
    # With a ramp fio leaves its requests out of the count: scale the CPU time to what was counted.
    share = min(found["runtime"] / 1000 / elapsed_s, 1.0) if ramp_s else 1.0
    percentiles = found["clat_ns"]["percentile"]
    counted = (found, job["write"]) if is_mixed else (found,)
    return Sample(
        sum(kind["iops"] for kind in counted), sum(kind["total_ios"] for kind in counted), block, cpu_s * share,
        percentiles["50.000000"] / 1000, percentiles["99.900000"] / 1000,
    )  # fmt: skip


def synced_writes(bench, path, count, seconds, size):
    """What the disk gives to `count` writers, each at its own place: 8 KiB past the page cache, fdatasync, and again.

    So many bytes the log gets for a page.
    """
    options = ("--fdatasync=1", f"--numjobs={count}", f"--offset_increment={size // count}")
    return _fio(
        bench, ("--ioengine=sync", "--direct=1", f"--filename={path}"), "write", size // count, 8192, 1, seconds, None,
        0.0, options, os.getpid(),
    )  # fmt: skip


def flushed_writes(bench, server, client_count, writes_each, size):
    """Clients, each a process with its own connection and place: write 4 KiB, flush, and again."""
    before = processes.cpu_s(server.pid)
    running = [
        clients.start(
            "qemu-img", "bench", "-f", "raw", "-w", "-c", writes_each, "-d", 1, "-s", 4096, "--flush-interval=1",
            "-o", number * (size // client_count), server.uri, stdout=-1, stderr=-1, text=True,
        )
        for number in range(client_count)
    ]  # fmt: skip
    rate = 0.0
    try:
        for process in running:
            output, errors = process.communicate(timeout=_FLUSH_LIMIT_S)
            assert process.returncode == 0, output + errors
            rate += writes_each / float(re.search(r"Run completed in ([\d.]+) seconds", output)[1])
    finally:
        for process in running:
            process.kill()
            process.wait()
    requests = writes_each * client_count
    return Sample(rate, requests, 4096, processes.cpu_s(server.pid) - before)


def copy_in(bench, server, path, *options):
    """nbdcopy of a whole file into the server, flushed at the end."""
    size = path.stat().st_size
    before = processes.cpu_s(server.pid)
    started = time.monotonic()
    clients.run("nbdcopy", "--flush", *options, path, server.uri, limit_s=_FIO_SLACK_S)
    elapsed_s = time.monotonic() - started
    return Sample(size / 2**20 / elapsed_s, size >> 20, 2**20, processes.cpu_s(server.pid) - before)


def flush(server):
    """One flush, when it has been answered."""
    with clients.connection(server.uri) as handle:
        handle.flush()
