# SPDX-License-Identifier: BSD-3-Clause
"""What a command prints on: streams that may be closed, full, or unable to show a name."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def fill_closed() -> None:
    """Occupy those of the descriptors 0 to 2 that the caller has closed, so that no log or origin gets one of them.

    As with C programs, printing to stdout then fails; what is printed to stderr goes nowhere.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            # This is the lowest free one, since those below it are in use.
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


def show_any_name() -> None:
    """Show characters that the terminal's encoding lacks, or that are not UTF-8 in a path, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """With escapes for what would act on a terminal instead of being shown: names can have any characters."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text
    )  # fmt: skip


def say(message: str) -> None:
    """Print a line, or several, on stdout. Raises OSError."""
    print(printable(message))


def tell(message: str) -> None:
    """Print a line on stderr, if that works."""
    with suppress(OSError):
        print(printable(message), file=sys.stderr, flush=True)


def fails(stream: TextIO) -> bool:
    """Whether an OSError from a command may come from this stream: then an empty line fails there too."""
    try:
        print(file=stream, flush=True)
    except OSError:
        return True
    return False


def give_up() -> None:
    """Discard what is still buffered or yet to come: it must not fail again at exit."""
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, fd)
            os.close(null)
