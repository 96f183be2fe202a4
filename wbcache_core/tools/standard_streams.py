# SPDX-License-Identifier: BSD-3-Clause
"""What a command prints on: streams that may be closed, full, or unable to show a name."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def fill_closed() -> None:
    """Occupy the descriptors 0 to 2 that the caller has closed, so that no log or origin gets one of them.

    As for programs in C, what is then printed to stdout fails; what is printed to stderr goes nowhere.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free one is this one, since those below it are in use.
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


def show_any_name() -> None:
    """Have what the terminal's encoding lacks, or what is not UTF-8 in a path, shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def tell(message: str) -> None:
    """A line on stderr, where that takes it."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def fails(stream: TextIO) -> bool:
    """Whether an OSError that came out of a command may be one of this stream: then an empty line fails there too."""
    try:
        print(file=stream, flush=True)
    except OSError:
        return True
    return False


def give_up() -> None:
    """What is still buffered, or comes yet, goes nowhere: it must not fail again at exit."""
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, fd)
            os.close(null)
