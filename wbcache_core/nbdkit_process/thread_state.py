# SPDX-License-Identifier: BSD-3-Clause
"""Keeps the Python thread states of nbdkit's threads alive between two requests.

nbdkit wraps each callback in PyGILState_Ensure and PyGILState_Release. In a thread that Python did not start, this
creates a thread state for the request and destroys it afterwards. One more PyGILState_Ensure per thread, the pin, keeps
the count from falling to zero, and so keeps the state. docs/thread-state.md has the measured effect, and the reasons
for how it is undone.

Three rules keep this safe. A state to which they do not apply is left alone, which costs memory and nothing else:
- A pin is released only by the thread it belongs to.
- A state is deleted by another thread only when the kernel no longer knows its thread and nobody else has cleared it.
- That other thread is one that Python started for this purpose, never one that serves callbacks.
"""

import ctypes
import errno
import os
import sysconfig
import threading
import weakref
from typing import NamedTuple

# PyDLL holds the GIL during a call. All but tgkill need that, and tgkill returns sooner than the GIL could be had back.
_native = ctypes.PyDLL(None, use_errno=True)

# PyGILState_LOCKED: the answer of PyGILState_Ensure to a thread that holds the GIL already, as every caller here does.
_GIL_STATE_LOCKED = 0

# Not tried on free-threaded Python. Without tgkill there is no safe way to find out whether a thread has ended.
SUPPORTED = not sysconfig.get_config_var("Py_GIL_DISABLED") and hasattr(_native, "tgkill")

if SUPPORTED:
    _native.PyGILState_Ensure.argtypes = []
    _native.PyGILState_Ensure.restype = ctypes.c_int
    _native.PyGILState_Release.argtypes = [ctypes.c_int]
    _native.PyGILState_Release.restype = None
    _native.PyThreadState_Get.argtypes = []
    _native.PyThreadState_Get.restype = ctypes.c_void_p
    for _function in (_native.PyThreadState_Clear, _native.PyThreadState_Delete):
        _function.argtypes = [ctypes.c_void_p]
        _function.restype = None
    _native.tgkill.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    _native.tgkill.restype = ctypes.c_int


class _Anchor:
    """Only the thread state of a pinned thread refers to it, so it dies when that state is cleared."""

    __slots__ = ("__weakref__",)


class _ThisThread(threading.local):
    # Belongs to the thread state, not to a thread identifier: identifiers are reused by later threads.
    anchor: "_Anchor | None" = None


_this_thread = _ThisThread()


class _Pin(NamedTuple):
    state: int
    native_id: int
    anchor: "weakref.ref[_Anchor]"


# Guards _left_over and the fields of every ThreadStatePin. Nothing that could wait is called while it is held.
_lock = threading.Lock()

# Pins of closed handles whose threads had not ended at the time; the next close checks them again.
_left_over: list[_Pin] = []


class ThreadStatePin:
    """The pins made for one nbdkit handle.

    A thread has at most one pin, whichever handles it serves: it belongs to the handle that pinned it first.
    """

    def __init__(self, enabled: bool = True) -> None:
        """If `enabled` or SUPPORTED is false, pin does nothing."""
        self._pins: list[_Pin] = []
        self._active = enabled and SUPPORTED

    def pin(self) -> None:
        """Pin the calling thread if it is not pinned yet. Does nothing after close.

        For callbacks that serve requests: nbdkit does not call close for a handle whose open failed.
        """
        if self._active and _this_thread.anchor is None:
            self._pin_this_thread()

    def _pin_this_thread(self) -> None:
        anchor = _Anchor()
        pin = _Pin(_native.PyThreadState_Get(), threading.get_native_id(), weakref.ref(anchor))
        with _lock:
            self._pins.append(pin)
        _this_thread.anchor = anchor
        _native.PyGILState_Ensure()

    def close(self) -> None:
        """Undo the pins of this handle, and those that earlier handles had to leave, for this thread and all that have
        ended.

        May be called in any thread and more than once. If no helper thread can be started, that is not an error: the
        states wait for the next close.
        """
        with _lock:
            self._active = False
            pins = self._pins + _left_over
            self._pins = []
            _left_over.clear()
        if pins:
            pins = _release_own(pins)
            ended: list[_Pin] = []
            left: list[_Pin] = []
            for pin in pins:
                (ended if _has_ended(pin.native_id) else left).append(pin)
            if ended and not _delete_in_a_thread(ended):
                left = pins
            with _lock:
                _left_over.extend(left)


def _release_own(pins: list[_Pin]) -> list[_Pin]:
    """Release the calling thread's pin if it is one of these. Returns the others."""
    own = _this_thread.anchor
    if own is None:
        return pins
    others = [pin for pin in pins if pin.anchor() is not own]
    if len(others) < len(pins):
        _this_thread.anchor = None
        # The callback that runs now has its own count, so this never takes away the last one.
        _native.PyGILState_Release(_GIL_STATE_LOCKED)
    return others


def _has_ended(native_id: int) -> bool:
    """Whether no thread of this process has that number. Any doubt, also a reused number, counts as not ended."""
    return _native.tgkill(os.getpid(), native_id, 0) == -1 and ctypes.get_errno() == errno.ESRCH


def _delete_in_a_thread(pins: list[_Pin]) -> bool:
    """Delete the states of threads that have ended. Returns False if no thread could be started to do it."""
    helper = threading.Thread(target=_delete_states, args=(pins,), name="wbcache-thread-state", daemon=False)
    try:
        helper.start()
    except RuntimeError:
        return False
    helper.join()
    return True


def _delete_states(pins: list[_Pin]) -> None:
    # A dead anchor means that the state was cleared by its owner, as Python does with threads that it started itself.
    states = [pin.state for pin in pins if pin.anchor() is not None]
    for state in states:
        _native.PyThreadState_Clear(state)
    # From Python 3.12 on, the first deletion empties this thread's own slot, and a PyGILState_Ensure after it would
    # wait for ever. Clearing can run code that does that, deleting cannot: hence two loops.
    for state in states:
        _native.PyThreadState_Delete(state)
