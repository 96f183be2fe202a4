# SPDX-License-Identifier: BSD-3-Clause
"""MemoryError at a chosen line of the core, as when an allocation fails there; threads that cannot be started."""

import contextlib
import linecache
import sys
import threading
from pathlib import Path

_CORE = Path(__file__).resolve().parents[2] / "wbcache_core"
_UNFIT = ("with ", "try:", "except ", "finally:", "else:", "@")
_UNFIT_ENDS = ("= None", "= True", "= False", "return None", "return True", "return False")
"""Lines that take no memory. A `with` is reported a second time at its end, before it gives the lock back; a plain
`return` inside of it is that end already."""


class Injection:
    """`struck` is where it happened, None while it has not; `passed` are the lines that went well before."""

    def __init__(self, countdown, files, functions, error):
        self.struck = None
        self.passed = []
        self._countdown = countdown
        self._files = {str((_CORE / name).resolve(strict=True)) for name in files}
        self._functions = functions
        self._error = error

    def trace(self, frame, event, _):
        code = frame.f_code
        if self.struck or code.co_filename not in self._files:
            return None
        if self._functions and code.co_name not in self._functions and not self._is_below(frame):
            return None
        return self._lines

    def _is_below(self, frame):
        """Whether one of the chosen functions is among the callers."""
        while frame := frame.f_back:
            if frame.f_code.co_name in self._functions and frame.f_code.co_filename in self._files:
                return True
        return False

    def _lines(self, frame, event, _):
        if self.struck or event != "line":
            return self._lines
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if text == "return" or text.startswith(_UNFIT) or text.endswith(_UNFIT_ENDS):
            return self._lines
        if self._countdown:
            self._countdown -= 1
            self.passed.append((frame.f_code.co_filename, frame.f_lineno))
            return self._lines
        self.struck = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}: {text}"
        raise self._error


@contextlib.contextmanager
def error_at(countdown, files, functions=(), error=None):
    """Inside, this thread meets the error (MemoryError) at one line of these modules: so many lines go well before.

    With `functions` only lines in these, and in what they call, count.
    """
    injection = Injection(countdown, files, functions, error or MemoryError("injected"))
    before = sys.gettrace()
    sys.settrace(injection.trace)
    try:
        yield injection
    finally:
        sys.settrace(before)


def each_line_once(injection):
    """Countdowns at which the error strikes each line for the first time, from a run that it did not strike."""
    first = {}
    for countdown, line in enumerate(injection.passed):
        first.setdefault(line, countdown)
    return sorted(first.values())


@contextlib.contextmanager
def threads_that_fail(monkeypatch, started=0, error=None):
    """Inside, so many threads can be started and no more."""
    start, left = threading.Thread.start, [started]

    def failing_start(thread):
        left[0] -= 1
        if left[0] < 0:
            raise error or RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", failing_start)
        yield
