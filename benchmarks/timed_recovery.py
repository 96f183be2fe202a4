# SPDX-License-Identifier: BSD-3-Clause
"""Recovery in a process of its own, timed from inside: without the start of nbdkit and Python."""

import os
import sys
import time

from tests.support import clients
from wbcache_core.device.device import aligned_buffer
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.units import MIB

_LIMIT_S = 600


def run(origin, log):
    """Seconds from opening origin and log to a volume that can be read."""
    return float(clients.run(sys.executable, "-m", "benchmarks.timed_recovery", origin, log, limit_s=_LIMIT_S))


def read_once(log):
    """Seconds to read all of a log past the page cache, 1 MiB at a time."""
    buffer = aligned_buffer(MIB)
    fd = os.open(log, os.O_RDONLY | os.O_DIRECT)
    try:
        offset, end = 0, os.lseek(fd, 0, os.SEEK_END)
        started = time.monotonic()
        while offset < end:
            offset += os.preadv(fd, [buffer], offset)
        return time.monotonic() - started
    finally:
        os.close(fd)


def main(origin, log):
    config = Config.from_pairs([("origin", origin), ("log", log)])
    started = time.monotonic()
    cache = Cache(config)
    print(time.monotonic() - started)
    cache.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
