# SPDX-License-Identifier: BSD-3-Clause
"""The progress of a long job: a moving bar on a terminal, a line from time to time elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from wbcache_core.units import format_size

_BAR_CELLS = 24
_TERMINAL_SECONDS = 0.2
_LINE_SECONDS = 30.0
_CLEAR_LINE = "\r\x1b[K"


def format_seconds(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Progress:
    """Use in a `with`. Counts up to `total`, in bytes unless describe() says otherwise; never prints to stdout."""

    def __init__(
        self, label: str, total: int, describe: Callable[[int], str] = format_size, stream: TextIO | None = None
    ) -> None:
        self._label = label
        self._total = max(total, 1)
        self._describe = describe
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._done = 0
        self._started = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._on_terminal:
            self._print(_CLEAR_LINE)

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.update(self._done + count)

    def update(self, done: int) -> None:
        """This many are done."""
        self._done = min(done, self._total)
        now = time.monotonic()
        if now - self._last >= (_TERMINAL_SECONDS if self._on_terminal else _LINE_SECONDS):
            self._last = now
            self._show(now - self._started)

    def _show(self, seconds: float) -> None:
        share = self._done / self._total
        text = f"{share:4.0%}  {self._describe(self._done)} of {self._describe(self._total)}"
        if self._done:
            text += f", {format_seconds(seconds / self._done * (self._total - self._done))} left"
        if self._on_terminal:
            bar = ("#" * round(share * _BAR_CELLS)).ljust(_BAR_CELLS, ".")
            self._print(f"{_CLEAR_LINE}{self._label} [{bar}] {text}")
        else:
            self._print(f"{self._label}: {text.strip()}\n")

    def _print(self, text: str) -> None:
        # The work continues even if nobody can see the progress.
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
