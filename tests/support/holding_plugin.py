# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit plugin: a file of which one write is held back: it is carried out long after its client has gone.

Parameters: `file`, and `hold`, the beginning of the names of three files. While the first, `hold`, exists, the next
write is kept: `hold` is renamed to `hold`.held, and when `hold`.release appears the write is carried out and
`hold`.landed made. All other requests go on meanwhile.
"""

import builtins
import os
import time

import nbdkit

API_VERSION = 2
_LONGEST_S = 120

_parameters = {}


def config(key, value):
    _parameters[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return os.open(_parameters["file"], os.O_RDWR)


def close(fd):
    os.close(fd)


def can_multi_conn(fd):
    return True


def get_size(fd):
    return os.fstat(fd).st_size


def pread(fd, buffer, offset, flags):
    buffer[:] = os.pread(fd, len(buffer), offset)


def _held_back():
    """Whether this write is the one: only one renames the file."""
    hold = _parameters["hold"]
    try:
        os.rename(hold, f"{hold}.held")
    except FileNotFoundError:
        return False
    return True


def pwrite(fd, data, offset, flags):
    if not _held_back():
        os.pwrite(fd, data, offset)
        return
    hold, until = _parameters["hold"], time.monotonic() + _LONGEST_S
    own, data = os.dup(fd), bytes(data)
    while not os.path.exists(f"{hold}.release") and time.monotonic() < until:
        time.sleep(0.01)
    os.pwrite(own, data, offset)
    os.close(own)
    builtins.open(f"{hold}.landed", "w").close()


def flush(fd, flags):
    os.fdatasync(fd)
