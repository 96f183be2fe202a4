# SPDX-License-Identifier: BSD-3-Clause
"""What every measurement is given: where its files go, how long and how often to measure."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import images


@dataclass
class Bench:
    """`folder` is for images, on the disk to measure, `sockets` for the rest: the path of a socket has to be short.

    `threads` is nbdkit's -t for every peer alike.
    """

    folder: Path
    sockets: Path
    rounds: int
    quick: bool
    threads: int

    def pick(self, full, quick):
        """One of two values."""
        return quick if self.quick else full

    def say(self, text):
        """Progress, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def settle(self):
        images.settle(self.folder)

    @contextlib.contextmanager
    def fresh_folder(self):
        """Room for one measurement: removed, whatever happens."""
        outer, self.folder = self.folder, Path(tempfile.mkdtemp(prefix="wbcache-bench-", dir=self.folder))
        # nbdkit's filters keep their files there, and are to have the same disk.
        os.environ["TMPDIR"] = str(self.folder)
        try:
            yield self.folder
        finally:
            shutil.rmtree(self.folder)
            self.folder = outer
            # The file system gets a moment to give back what was removed before the next is measured.
            time.sleep(0.5)
