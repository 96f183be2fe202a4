# SPDX-License-Identifier: BSD-3-Clause
"""A client process that writes stamped blocks until it is told to stop or the server goes away.

Each of its threads has a connection and blocks of its own, so that writes of one block never overlap in time.
It prints a line as soon as the
first write was answered; at the end of its stdin, or of the server, it prints its report as JSON.
"""

import json
import random
import subprocess
import sys
import threading
import time

import nbd

from tests.support import clients
from tests.support.stamped_blocks import Write, blocks_of, sequence_in, stamped

WRITES_LIMIT_PER_THREAD = 1_000_000


class _Load:
    """The threads' shared record."""

    def __init__(self, arguments):
        self.uri = arguments["uri"]
        self.seed = arguments["seed"]
        self.first_sequence = arguments["first_sequence"]
        self.threads = arguments["threads"]
        self.flush_share = arguments["flush_share"]
        blocks = blocks_of(arguments["pages"])
        self.blocks = blocks[arguments["client"] :: arguments["client_count"]]
        self.writes = []
        self.flush_submitted_ns = 0
        self.problems = []
        self.ready = threading.Event()
        self.stop = threading.Event()

    def work(self, number):
        """One thread: requests one after the other on its own connection and blocks."""
        try:
            with clients.connection(self.uri) as handle:
                self._requests(handle, number)
        except nbd.Error as error:
            if not _server_is_gone(error):
                self.problems.append(f"thread {number}: {error.string}")
        except AssertionError as problem:
            self.problems.append(f"thread {number}: {problem}")
        finally:
            self.ready.set()

    def _requests(self, handle, number):
        choose = random.Random(f"{self.seed}/{number}")
        blocks = self.blocks[number :: self.threads]
        written = {}
        for count in range(WRITES_LIMIT_PER_THREAD):
            if self.stop.is_set():
                return
            block = choose.choice(blocks)
            if choose.random() < self.flush_share:
                submitted_ns = time.monotonic_ns()
                handle.flush()
                self.flush_submitted_ns = max(self.flush_submitted_ns, submitted_ns)
            elif block.number in written and choose.random() < 0.1:
                found = sequence_in(block, handle.pread(block.size, block.offset))
                assert found == written[block.number], f"{block} reads as write {found}, not {written[block.number]}"
            else:
                sequence = self.first_sequence + count * self.threads + number
                written[block.number] = self._write(handle, block, sequence, choose)

    def _write(self, handle, block, sequence, choose):
        """One write, trim or zero; returns the sequence number that the block then shows."""
        kind = choose.choices(("write", "trim", "zero"), (90, 5, 5))[0]
        flags = nbd.CMD_FLAG_FUA if choose.random() < 0.05 else 0
        write = Write(block.number, sequence, kind != "write", time.monotonic_ns(), None, False)
        self.writes.append(write)
        if kind == "write":
            handle.pwrite(stamped(block, sequence), block.offset, flags)
        else:
            getattr(handle, kind)(block.size, block.offset, flags)
        write.done_ns = time.monotonic_ns()
        write.durable = bool(flags)
        self.ready.set()
        return 0 if write.zeroes else sequence

    def report(self):
        return {
            "writes": [list(vars(write).values()) for write in self.writes],
            "flush_submitted_ns": self.flush_submitted_ns,
            "problems": self.problems,
        }


def _server_is_gone(error):
    """A killed server closes its sockets; a stopping one says ESHUTDOWN (or EIO through an old nbdkit's reply)."""
    gone = "ENOTCONN ECONNRESET EPIPE ESHUTDOWN ECONNREFUSED EINVAL".split()
    return error.errno in gone or "server disconnected" in error.string or "recv" in error.string


def main():
    load = _Load(json.loads(sys.argv[1]))
    threads = [threading.Thread(target=load.work, args=(number,)) for number in range(load.threads)]
    for thread in threads:
        thread.start()
    load.ready.wait()
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), load.stop.set()), daemon=True).start()
    for thread in threads:
        thread.join()
    print(json.dumps(load.report()), flush=True)


class StampedClient:
    """The process, from the outside."""

    def __init__(self, uri, *, seed, first_sequence, client, client_count, pages, threads=4, flush_share=0.05):
        arguments = {
            "uri": uri,
            "seed": seed,
            "first_sequence": first_sequence,
            "client": client,
            "client_count": client_count,
            "pages": pages,
            "threads": threads,
            "flush_share": flush_share,
        }
        self.pid = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stamped_client", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=clients.REPOSITORY,
            text=True,
        )
        self.pid = self._process.pid

    def wait_until_writing(self):
        assert self._process.stdout.readline() == "ready\n", "the client ended before its first write"

    def finish(self, limit_s=30):
        """Ask it to stop if it has not. Returns its writes and when the last flush that was answered was sent.

        AssertionError if the client met anything wrong.
        """
        try:
            output, _ = self._process.communicate("", timeout=limit_s)
        finally:
            self.destroy()
        report = json.loads(output.splitlines()[-1])
        assert not report["problems"], report["problems"]
        return [Write(*fields) for fields in report["writes"]], report["flush_submitted_ns"]

    def destroy(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    main()
