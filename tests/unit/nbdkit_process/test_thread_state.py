# SPDX-License-Identifier: BSD-3-Clause
"""The thread state pin in threads that Python did not start, made here with pthread_create instead of nbdkit."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.support.clients import REPOSITORY
from wbcache_core.nbdkit_process import thread_state
from wbcache_core.nbdkit_process.thread_state import ThreadStatePin

PATIENCE_S = 10

libc = ctypes.CDLL(None)
libc.fopencookie.restype = ctypes.c_void_p
libc.fputc.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.pthread_create.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
libc.pthread_join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]

interpreter = ctypes.PyDLL(None)
interpreter.PyInterpreterState_Get.restype = ctypes.c_void_p
interpreter.PyInterpreterState_ThreadHead.restype = ctypes.c_void_p
interpreter.PyInterpreterState_ThreadHead.argtypes = [ctypes.c_void_p]
interpreter.PyThreadState_Next.restype = ctypes.c_void_p
interpreter.PyThreadState_Next.argtypes = [ctypes.c_void_p]
interpreter.PyThreadState_GetID.restype = ctypes.c_uint64
interpreter.PyThreadState_GetID.argtypes = [ctypes.c_void_p]

WriteFunction = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CloseFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class CookieFunctions(ctypes.Structure):
    _fields_ = [
        ("read", ctypes.c_void_p),
        ("write", WriteFunction),
        ("seek", ctypes.c_void_p),
        ("close", CloseFunction),
    ]


class ForeignThread:
    """A thread that makes two separate callbacks into Python and has no Python state of its own in between.

    It runs fclose on a stream with a byte in its buffer, which calls the stream's write and close functions. ctypes
    wraps each in PyGILState_Ensure and PyGILState_Release, just as nbdkit does. What a callback raises fails the test,
    since pytest is told to turn unraisable exceptions into errors.
    """

    def __init__(self, first, second=lambda: None):
        self._native_id = None

        def write(_cookie, _buffer, count):
            self._native_id = threading.get_native_id()
            first()
            return count

        def close(_cookie):
            second()
            return 0

        self._functions = CookieFunctions(None, WriteFunction(write), None, CloseFunction(close))
        stream = libc.fopencookie(None, b"w", self._functions)
        libc.fputc(0, stream)
        self._thread = ctypes.c_ulong()
        start = ctypes.cast(libc.fclose, ctypes.c_void_p)
        assert libc.pthread_create(ctypes.byref(self._thread), None, start, stream) == 0

    def join(self):
        libc.pthread_join(self._thread, None)
        # pthread_join returns a moment before the kernel has forgotten the thread.
        deadline = time.monotonic() + PATIENCE_S
        while os.path.exists(f"/proc/self/task/{self._native_id}"):
            assert time.monotonic() < deadline
            time.sleep(0.001)


def run_foreign(first, second=lambda: None):
    ForeignThread(first, second).join()


class NewStates:
    """The thread states that Python has now and had not when this was made."""

    def __init__(self):
        self._before = self._all()

    def count(self):
        return len(self._all() - self._before)

    @staticmethod
    def _all():
        state = interpreter.PyInterpreterState_ThreadHead(interpreter.PyInterpreterState_Get())
        numbers = set()
        while state:
            numbers.add(interpreter.PyThreadState_GetID(state))
            state = interpreter.PyThreadState_Next(state)
        return numbers


class Visit:
    """Counts in how many of its calls the thread still had the state of an earlier call."""

    def __init__(self):
        self._local = threading.local()
        self.known = 0

    def __call__(self):
        if hasattr(self._local, "seen"):
            self.known += 1
        self._local.seen = True


@pytest.fixture(autouse=True)
def nothing_left():
    """Each test leaves no thread state behind and no pin for a later one."""
    states = NewStates()
    yield
    ThreadStatePin().close()
    assert thread_state._left_over == []
    assert states.count() == 0


def test_without_a_pin_each_callback_has_a_state_of_its_own():
    visit = Visit()
    run_foreign(visit, visit)
    assert visit.known == 0


def test_a_pinned_thread_keeps_its_state():
    handle, visit = ThreadStatePin(), Visit()
    run_foreign(lambda: (handle.pin(), visit()), lambda: (handle.pin(), visit()))
    assert visit.known == 1
    handle.close()


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_close_deletes_the_states_of_all_threads_that_have_ended(threads):
    states = NewStates()
    handle = ThreadStatePin()
    for _ in range(threads):
        run_foreign(handle.pin, handle.pin)
    assert states.count() == threads
    handle.close()
    assert states.count() == 0


def test_close_twice_is_harmless():
    handle = ThreadStatePin()
    run_foreign(handle.pin)
    handle.close()
    handle.close()


def test_close_in_the_pinned_thread_releases_its_own_pin():
    states = NewStates()
    handle = ThreadStatePin()
    run_foreign(handle.pin, handle.close)
    assert states.count() == 0


def test_close_in_a_pinned_thread_deletes_the_others_and_the_thread_goes_on():
    states = NewStates()
    handle, later, visit = ThreadStatePin(), ThreadStatePin(), Visit()
    for _ in range(3):
        run_foreign(handle.pin)

    def close_and_pin_again():
        visit()
        handle.close()
        later.pin()
        visit()

    run_foreign(lambda: (handle.pin(), visit()), close_and_pin_again)
    assert visit.known == 2
    assert states.count() == 1
    later.close()


def test_one_pin_for_a_thread_that_serves_two_handles():
    states = NewStates()
    first, second, visit = ThreadStatePin(), ThreadStatePin(), Visit()

    def serve_both():
        first.pin()
        second.pin()
        visit()

    run_foreign(serve_both, lambda: (second.close(), visit()))
    assert visit.known == 1
    assert states.count() == 1, "the pin belongs to the first handle, which is still open"
    first.close()


def test_a_running_thread_is_not_touched_and_its_state_goes_with_a_later_close():
    states = NewStates()
    handle, visit = ThreadStatePin(), Visit()
    pinned, go_on = threading.Event(), threading.Event()

    def first():
        handle.pin()
        visit()
        pinned.set()
        assert go_on.wait(PATIENCE_S)

    thread = ForeignThread(first, visit)
    assert pinned.wait(PATIENCE_S)
    handle.close()
    go_on.set()
    thread.join()
    assert visit.known == 1
    assert states.count() == 1
    ThreadStatePin().close()
    assert states.count() == 0


def test_a_thread_releases_its_own_pin_of_a_handle_that_was_closed_elsewhere():
    states = NewStates()
    handle, other = ThreadStatePin(), ThreadStatePin()
    pinned, go_on = threading.Event(), threading.Event()

    def first():
        handle.pin()
        pinned.set()
        assert go_on.wait(PATIENCE_S)

    thread = ForeignThread(first, other.close)
    assert pinned.wait(PATIENCE_S)
    handle.close()
    go_on.set()
    thread.join()
    assert states.count() == 0


def test_a_thread_number_in_use_again_counts_as_a_running_thread(monkeypatch):
    states = NewStates()
    handle, stop = ThreadStatePin(), threading.Event()
    newcomer = threading.Thread(target=stop.wait, args=(PATIENCE_S,))
    newcomer.start()

    def pin_under_the_number_of_the_newcomer():
        with monkeypatch.context() as patch:
            patch.setattr(thread_state.threading, "get_native_id", lambda: newcomer.native_id)
            handle.pin()

    run_foreign(pin_under_the_number_of_the_newcomer)
    handle.close()
    assert states.count() == 2
    stop.set()
    newcomer.join()
    while os.path.exists(f"/proc/self/task/{newcomer.native_id}"):
        time.sleep(0.001)


def test_pin_after_close_does_nothing():
    states = NewStates()
    handle = ThreadStatePin()
    handle.close()
    run_foreign(handle.pin, handle.pin)
    assert states.count() == 0


def test_the_state_of_a_thread_started_by_python_is_left_to_python():
    handle = ThreadStatePin()
    thread = threading.Thread(target=handle.pin)
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        time.sleep(0.001)
    handle.close()


def test_a_foreign_thread_that_the_threading_module_has_met():
    """logging does that to every thread; from Python 3.13 on its clean-up runs when the state is cleared."""
    handle = ThreadStatePin()
    run_foreign(lambda: (handle.pin(), threading.current_thread()))
    handle.close()
    run_foreign(lambda: (handle.pin(), threading.current_thread()), handle.close)


def test_pin_and_close_in_the_main_thread():
    handle = ThreadStatePin()
    handle.pin()
    handle.pin()
    handle.close()


def test_switched_off_it_pins_nothing():
    handle, visit = ThreadStatePin(enabled=False), Visit()
    run_foreign(lambda: (handle.pin(), visit()), lambda: (handle.pin(), visit()))
    assert visit.known == 0
    handle.close()


def test_unsupported_it_pins_nothing(monkeypatch):
    monkeypatch.setattr(thread_state, "SUPPORTED", False)
    handle, visit = ThreadStatePin(), Visit()
    run_foreign(lambda: (handle.pin(), visit()), lambda: (handle.pin(), visit()))
    assert visit.known == 0
    handle.close()


def test_states_wait_for_the_next_close_when_no_thread_can_be_started(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    states = NewStates()
    handle = ThreadStatePin()
    run_foreign(handle.pin)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        handle.close()
    assert states.count() == 1
    ThreadStatePin().close()
    assert states.count() == 0


def test_what_dies_with_a_state_may_call_back_into_python():
    """Were each state cleared and deleted in turn, this would hang on Python 3.12 and later; hence the process."""
    script = """
        import ctypes, threading
        from tests.unit.nbdkit_process.test_thread_state import ThreadStatePin, run_foreign

        Compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        libc = ctypes.PyDLL(None)
        local = threading.local()

        class SortsWhenItDies:
            def __del__(self):
                numbers = (ctypes.c_int * 2)(2, 1)
                libc.qsort(numbers, 2, 4, Compare(lambda left, right: 0))
                print("sorted", flush=True)

        def keep():
            handle.pin()
            local.value = SortsWhenItDies()

        handle = ThreadStatePin()
        for _ in range(3):
            run_foreign(keep)
        handle.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (0, "sorted\n" * 3), result.stderr
