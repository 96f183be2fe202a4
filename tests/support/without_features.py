# SPDX-License-Identifier: BSD-3-Clause
"""Runs a program from which the kernel withholds features, as an old or odd file system or a container does.

    python3 without_features.py NAME=ERRNO... -- PROGRAM...

Each NAME, a key of FEATURES, fails with that errno, for the program and all that it starts (a seccomp filter).
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
import sys
from typing import NamedTuple

_IS_X86 = platform.machine() == "x86_64"


class Call(NamedTuple):
    """System calls: by number, and perhaps by what the bits of `mask` in one argument are."""

    numbers: tuple
    argument: int = 0
    mask: int = 0
    value: int = 0


def _call(x86, arm, *rest):
    return Call((x86 if _IS_X86 else arm,), *rest)


FEATURES = {
    "huge pages": _call(28, 233, 2, 0xFFFFFFFF, mmap.MADV_HUGEPAGE),
    "flock": _call(73, 32),
    # F_OFD_GETLK and F_OFD_SETLK
    "OFD locks": _call(72, 25, 1, 0xFFFFFFFE, fcntl.F_OFD_GETLK),
    "fallocate": _call(285, 47),
    "fadvise": _call(221, 223),
    "kernel AIO": _call(206, 0),
    "affinity": _call(204, 123),
    "statx": _call(332, 291),
    "direct I/O": _call(257, 56, 2, os.O_DIRECT, os.O_DIRECT),
    "hard links": Call((86, 265) if _IS_X86 else (37,)),
    "exclusive renames": _call(316, 276),
}

_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_AT, _ARGUMENTS_AT = 0, 16
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


def _instruction(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _rule(number, call, errno_value):
    """Jumps over the rest of itself where it does not apply."""
    code = [_instruction(_RETURN, _FAIL | errno_value)]
    if call.mask:
        code.insert(0, _instruction(_JUMP_IF_EQUAL, call.value, 0, len(code)))
        code.insert(0, _instruction(_AND, call.mask))
        code.insert(0, _instruction(_LOAD, _ARGUMENTS_AT + 8 * call.argument))
    return [_instruction(_LOAD, _NUMBER_AT), _instruction(_JUMP_IF_EQUAL, number, 0, len(code)), *code]


def _withhold(words):
    code = []
    for word in words:
        name, _, errno_name = word.partition("=")
        for number in FEATURES[name].numbers:
            code += _rule(number, FEATURES[name], getattr(errno, errno_name))
    code.append(_instruction(_RETURN, _ALLOW))
    instructions = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(instructions)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)):
        if prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    end = sys.argv.index("--")
    _withhold(sys.argv[1:end])
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
