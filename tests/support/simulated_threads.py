# SPDX-License-Identifier: BSD-3-Clause
"""Threads and time for a whole cache, under one seed: a run can be repeated exactly, and an hour takes no time.

Each simulated thread is a real one, but only the one that holds the baton runs. It passes the baton on when it
takes a lock, waits, sleeps or asks a disk for something; who is next is drawn from the seed. The clock moves only
when everybody waits. When everybody waits for good, that is a deadlock and raises DeadlockError.
"""

import contextlib
import random
import secrets
import sys
import threading
import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from wbcache_core.threads import Turn

_START_SECONDS = 1_700_000_000
_STACK_LINES = 3


class DeadlockError(AssertionError):
    """Every thread waits for another."""


class _Abandoned(BaseException):
    """Unwinds the threads of a simulation that has failed."""


class _Thread:
    """`threading.Thread` as far as the cache uses it."""

    def __init__(self, simulation, target, name="", args=(), daemon=None):
        self.name = name
        self.ident = None
        self.error = None
        self._simulation = simulation
        self._target = target
        self._args = args
        self._joiners = []
        self.baton = threading.Lock()
        self.baton.acquire()
        self.is_ready = False
        self.is_done = False
        self.deadline = None
        self.real = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self):
        self.ident = self._simulation.add(self)
        self.real.start()
        self._simulation.switch()

    def join(self, timeout=None):
        while not self.is_done:
            self._joiners.append(self._simulation.current)
            self._simulation.block()

    def is_alive(self):
        return self.ident is not None and not self.is_done

    def _run(self):
        self.baton.acquire()
        try:
            self._simulation.check_abandoned()
            self._target(*self._args)
        except _Abandoned:
            pass
        except BaseException as error:
            self.error = error
        self.is_done = True
        for joiner in self._joiners:
            joiner.is_ready = True
        self._simulation.leave(self)


class _Lock:
    def __init__(self, simulation):
        self._simulation = simulation
        self._holder = None
        self._waiters = []

    def acquire(self, blocking=True, timeout=-1):
        simulation = self._simulation
        simulation.maybe_switch()
        while self._holder is not None:
            if not blocking:
                return False
            self._waiters.append(simulation.current)
            simulation.block()
        self._holder = simulation.current
        return True

    def release(self):
        assert self._holder is self._simulation.current or self._simulation.is_abandoned
        self._holder = None
        for waiter in self._waiters:
            waiter.is_ready = True
        self._waiters.clear()

    def locked(self):
        return self._holder is not None

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


class _Turn:
    """`threads.Turn`."""

    def __init__(self, simulation):
        self._simulation = simulation
        self._is_given = False
        self._waiters = []

    def give(self):
        self._is_given = True
        for waiter in self._waiters:
            waiter.is_ready = True
        self._waiters.clear()

    def wait(self, timeout=-1):
        simulation = self._simulation
        simulation.maybe_switch()
        if not self._is_given and timeout != 0:
            self._waiters.append(simulation.current)
            simulation.block(None if timeout < 0 else timeout)
            if simulation.current in self._waiters:
                self._waiters.remove(simulation.current)
        was_given, self._is_given = self._is_given, False
        return was_given


class _Condition:
    def __init__(self, simulation, lock=None):
        self._simulation = simulation
        self._lock = lock or _Lock(simulation)
        self._waiters = []

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *details):
        self._lock.__exit__(*details)

    def wait(self, timeout=None):
        simulation = self._simulation
        assert self._lock.locked()
        waiter = simulation.current
        self._waiters.append(waiter)
        self._lock.release()
        simulation.block(timeout)
        notified = waiter not in self._waiters
        if not notified:
            self._waiters.remove(waiter)
        self._lock.acquire()
        return notified

    def notify(self, count=1):
        assert self._lock.locked()
        for waiter in self._waiters[:count]:
            waiter.is_ready = True
        del self._waiters[:count]

    def notify_all(self):
        self.notify(len(self._waiters))


class _Event:
    def __init__(self, simulation):
        self._simulation = simulation
        self._is_set = False
        self._waiters = []

    def is_set(self):
        return self._is_set

    def set(self):
        self._is_set = True
        for waiter in self._waiters:
            waiter.is_ready = True
        self._waiters.clear()

    def wait(self, timeout=None):
        if not self._is_set:
            self._waiters.append(self._simulation.current)
            self._simulation.block(timeout)
        return self._is_set


class _Future:
    def __init__(self, thread, results):
        self._thread = thread
        self._results = results

    def cancelled(self):
        return False

    def exception(self):
        self._thread.join()
        error, self._thread.error = self._thread.error, None
        return error

    def result(self):
        error = self.exception()
        if error:
            raise error
        return self._results[0]


class _Pool:
    """`ThreadPoolExecutor` with a new thread for every call."""

    def __init__(self, simulation):
        self._simulation = simulation

    def submit(self, function, *args):
        results = []
        return _Future(self._simulation.spawn(lambda: results.append(function(*args)), name="pool"), results)

    def shutdown(self):
        """Nothing is left to end: whoever submits also waits."""


class Simulation:
    """See the module. `now` is in seconds."""

    def __init__(self, seed, switch_probability=0.1):
        self._random = random.Random(f"threads {seed}")
        self._switch_probability = switch_probability
        self._threads = []
        self._count = 0
        self._failure = None
        self.now = float(_START_SECONDS)
        self.is_abandoned = False
        self.current = None

    def run(self, function, *args):
        """Call function as the first simulated thread, wait for all the threads that it leaves, return its result.

        Raises what any of the threads raised, and DeadlockError.
        """
        results = []
        finished = threading.Event()
        self._finished = finished
        main = _Thread(self, lambda: results.append(function(*args)), "main")
        main.ident = self.add(main)
        main.real.start()
        self._dispatch()
        finished.wait()
        if self._failure:
            self._unwind()
            raise self._failure
        return results[0]

    def spawn(self, function, *args, name="client"):
        thread = _Thread(self, function, name, args)
        thread.start()
        return thread

    def sleep(self, seconds):
        self.block(seconds)

    def switch(self):
        """Let any thread go on, this one included."""
        self.current.is_ready = True
        self._pass_on()

    def maybe_switch(self):
        """At a lock: every acquisition is a chance, but few are worth taking."""
        self.check_abandoned()
        if self._random.random() < self._switch_probability:
            self.switch()

    def block(self, timeout=None):
        """Wait until somebody makes this thread ready, or for timeout seconds."""
        self.check_abandoned()
        self.current.is_ready = False
        self.current.deadline = None if timeout is None else self.now + max(timeout, 0)
        self._pass_on()

    def check_abandoned(self):
        if self.is_abandoned:
            raise _Abandoned

    def add(self, thread):
        """A new thread, ready to run; returns its identifier."""
        self._threads.append(thread)
        thread.is_ready = True
        self._count += 1
        return self._count

    def leave(self, thread):
        """The thread that holds the baton has ended."""
        self._threads.remove(thread)
        if thread.error and not thread.name.startswith("pool"):
            self._failure = self._failure or thread.error
        if self.is_abandoned:
            return
        if self._failure or not self._threads:
            self._finished.set()
        else:
            self._dispatch()

    def _pass_on(self):
        thread = self.current
        self._dispatch()
        thread.baton.acquire()
        self.check_abandoned()

    def _dispatch(self):
        """Hand the baton to a thread that can run, moving the clock if none can."""
        ready = [thread for thread in self._threads if thread.is_ready]
        if not ready:
            timed = [thread for thread in self._threads if thread.deadline is not None]
            if not timed:
                self._failure = DeadlockError(self._describe())
                self._finished.set()
                return
            first = min(timed, key=lambda thread: thread.deadline)
            self.now = max(self.now, first.deadline)
            ready = [first]
        thread = ready[0] if len(ready) == 1 else self._random.choice(ready)
        thread.deadline = None
        self.current = thread
        thread.baton.release()

    def _describe(self):
        frames = sys._current_frames()
        stacks = ["every thread waits for another"]
        for thread in self._threads:
            stack = traceback.extract_stack(frames[thread.real.ident]) if thread.real.ident in frames else []
            own = [line for line in stack if __file__ != line.filename and "threading.py" not in line.filename]
            stacks += [f"thread {thread.name}:", *traceback.format_list(own[-_STACK_LINES:])]
        return "\n".join(stacks)

    def _unwind(self):
        self.is_abandoned = True
        for thread in list(self._threads):
            self.current = thread
            thread.baton.release()
            thread.real.join()

    @contextlib.contextmanager
    def patched(self):
        """The core uses this simulation's threads, clock and random numbers as long as the context lasts."""
        replacements = {
            "threading": SimpleNamespace(
                Lock=lambda: _Lock(self),
                Condition=lambda lock=None: _Condition(self, lock),
                Event=lambda: _Event(self),
                Thread=lambda **arguments: _Thread(self, **arguments),
            ),
            "time": SimpleNamespace(
                monotonic=lambda: self.now,
                time_ns=lambda: int(self.now * 1_000_000) * 1000,
                clock_gettime_ns=lambda clock: int(self.now * 1_000_000) * 1000,
                CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
                sleep=self.sleep,
            ),
            "uuid": SimpleNamespace(uuid4=lambda: uuid.UUID(bytes=self._random.randbytes(16))),
            "secrets": SimpleNamespace(randbits=self._random.getrandbits),
            "ThreadPoolExecutor": lambda *_: _Pool(self),
            "Turn": lambda: _Turn(self),
        }
        originals = {
            "threading": threading, "time": time, "uuid": uuid, "secrets": secrets,
            "ThreadPoolExecutor": ThreadPoolExecutor, "Turn": Turn,
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            for module in [module for name, module in sys.modules.items() if name.startswith("wbcache_core.")]:
                for name, original in originals.items():
                    if getattr(module, name, None) is original:
                        stack.callback(setattr, module, name, original)
                        setattr(module, name, replacements[name])
            yield self
