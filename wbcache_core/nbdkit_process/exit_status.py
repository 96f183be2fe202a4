# SPDX-License-Identifier: BSD-3-Clause
"""Gives the process an exit status other than nbdkit's, which is 0 whatever happens to a plugin during the stop.

A plugin cannot choose it, and ending the process in its last callback would
skip what comes after that: filters that report when they are unloaded, and the
removal of the temporary folder of `nbdkit -U -`. So the C library is made to
call its own _exit with the status when it runs the handlers of exit(), after
all that. Only handlers that libraries registered earlier to free their memory
are skipped. No Python is needed by then: the interpreter is gone.
"""

import ctypes

UNFINISHED = 3
"""The stop was not complete: data is lost, or on-exit=destage did not complete the origin."""

_libc = ctypes.CDLL(None)


def end_with(status: int) -> bool:
    """Make exit() end the process with that status; returns False if the C library cannot. To be called once."""
    try:
        register = _libc.__cxa_atexit
        leave, flush = (ctypes.cast(function, ctypes.c_void_p) for function in (_libc._exit, _libc.fflush))
    except AttributeError:
        return False
    # Called in the opposite order, each with the second argument: fflush(NULL), then _exit(status).
    register.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return bool(register(leave, status, None) == 0 and register(flush, None, None) == 0)
