# SPDX-License-Identifier: BSD-3-Clause
"""Many writes to a file in one system call: io_submit(2), the kernel's asynchronous I/O.

Python releases the GIL for each system call, and has to get it back from the threads that serve requests: for thousands
of small writes that takes longer than the writes. Writes through the page cache are carried out by io_submit() before
it returns, one after another, so nothing here depends on the file system being asynchronous.

The structures are those of Linux's include/uapi/linux/aio_abi.h, the numbers of the system calls those of its
asm/unistd.h; glibc has no functions for them.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
"""Numbers of io_setup, io_destroy, io_getevents and io_submit, by machine."""
_IOCB = struct.Struct("<QIiHhIQQqQII")
"""struct iocb: data, key, rw_flags, lio_opcode, reqprio, fildes, buf, nbytes, offset, reserved2, flags, resfd."""
_IOVEC = struct.Struct("<QQ")
"""struct iovec: base, length."""
_EVENT = struct.Struct("<QQqq")
"""struct io_event: data, obj, res, res2."""
_PWRITEV = 8
NOT_TAKEN = -errno.ECANCELED
"""The result of a write that the kernel did not accept at all."""
assert (_IOCB.size, _IOVEC.size, _EVENT.size) == (64, 16, 32)

_Write = tuple[int, list[memoryview]]
"""Where, and what."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class KernelAio:
    """A queue for writes. Used by one thread at a time, and not across a fork."""

    def __init__(self, depth: int) -> None:
        """`depth` is the largest number of writes in one call. Raises OSError if the kernel has no such queue or gives
        none."""
        numbers = _NUMBERS.get(platform.machine())
        if not numbers or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, "no numbers of system calls for this machine")
        self._setup, self._destroy, self._getevents, self._submit = numbers
        self._iocbs = ctypes.create_string_buffer(_IOCB.size * depth)
        self._events = ctypes.create_string_buffer(_EVENT.size * depth)
        start = ctypes.addressof(self._iocbs)
        self._pointers = (ctypes.c_uint64 * depth)(*range(start, start + len(self._iocbs), _IOCB.size))
        self._first_number = 0
        """Identifies the present call's writes: an event left behind by an interrupted call cannot be mistaken for
        one."""
        self._context = ctypes.c_ulong(0)
        _call(self._setup, depth, ctypes.addressof(self._context))

    def write(self, fd: int, writes: Sequence[_Write]) -> list[int]:
        """Carry out at most `depth` writes from writable memory; returns the result of each: bytes, or an errno below
        0.

        Those that the kernel does not accept at all are NOT_TAKEN. Raises OSError if it does not say what became of
        them; they have ended then, and the queue is closed.
        """
        self._first_number += len(writes)
        iovecs = self._fill(fd, writes)
        results = [NOT_TAKEN] * len(writes)
        submitted = 0
        try:
            # io_submit stops at the first write it rejects; submitting that one alone tells why.
            with contextlib.suppress(OSError):
                while submitted < len(writes):
                    pointers = ctypes.addressof(self._pointers) + 8 * submitted
                    submitted += _call(self._submit, self._context.value, len(writes) - submitted, pointers)
        finally:
            try:
                self._reap(submitted, results)
            except OSError:
                # The kernel releases a queue only when nothing is in progress in it any more.
                self.close()
                raise
            finally:
                del iovecs
        return results

    def _fill(self, fd: int, writes: Sequence[_Write]) -> ctypes.Array[ctypes.c_char]:
        """Describe the writes in the iocbs; returns the iovecs that they point to."""
        iovecs = ctypes.create_string_buffer(_IOVEC.size * sum(len(views) for _, views in writes))
        start, at = ctypes.addressof(iovecs), 0
        first_byte, address = ctypes.c_char.from_buffer, ctypes.addressof
        for index, (offset, views) in enumerate(writes):
            _IOCB.pack_into(
                self._iocbs, index * _IOCB.size,
                self._first_number + index, 0, 0, _PWRITEV, 0, fd, start + at, len(views), offset, 0, 0, 0,
            )  # fmt: skip
            for view in views:
                _IOVEC.pack_into(iovecs, at, address(first_byte(view)), len(view))
                at += _IOVEC.size
        return iovecs

    def _reap(self, count: int, results: list[int]) -> None:
        """Wait until none of count writes is in progress any more."""
        while count:
            events = ctypes.addressof(self._events)
            found = _call(self._getevents, self._context.value, count, count, events, None)
            for number, _, result, _ in _EVENT.iter_unpack(self._events.raw[: found * _EVENT.size]):
                index = number - self._first_number
                if index >= 0:
                    results[index] = result
                    count -= 1

    def close(self) -> None:
        """Return the queue to the kernel."""
        _call(self._destroy, self._context.value)


def _call(number: int, *arguments: int | None) -> int:
    """A system call, repeated if a signal interrupts it; releases the GIL. Raises OSError."""
    words = [None if word is None else ctypes.c_ulong(word) for word in arguments]
    while True:
        result: int = _libc.syscall(ctypes.c_long(number), *words)
        if result >= 0:
            return result
        value = ctypes.get_errno()
        if value != errno.EINTR:
            raise OSError(value, os.strerror(value))
