# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit plugin: memory, where each connection goes on reading what it has read once, until it writes that itself.

A server may do that unless it says that it is multi-conn (NBD's proto.md, NBD_FLAG_CAN_MULTI_CONN). Parameters:
`size`, `multi` (yes or no: then nothing is kept), `counter`, a file that gets a byte for each connection, and
`pause`, seconds for each read.
"""

import builtins
import time

import nbdkit

API_VERSION = 2
PAGE = 4096

_parameters = {"pause": "0"}
_disk = bytearray()


def config(key, value):
    _parameters[key] = value


def config_complete():
    _disk[:] = bytes(int(_parameters["size"]))


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    with builtins.open(_parameters["counter"], "a", encoding="ascii") as file:
        file.write(".")
    return {}


def get_size(kept):
    return len(_disk)


def can_multi_conn(kept):
    return _parameters["multi"] == "yes"


def can_flush(kept):
    return True


def can_write(kept):
    return True


def flush(kept, flags):
    """Of memory."""


def pread(kept, buffer, offset, flags):
    time.sleep(float(_parameters["pause"]))
    for at in range(offset, offset + len(buffer), PAGE):
        page = bytes(_disk[at : at + PAGE])
        if not can_multi_conn(kept):
            page = kept.setdefault(at, page)
        buffer[at - offset : at - offset + PAGE] = page[: len(buffer) - (at - offset)]


def pwrite(kept, data, offset, flags):
    _disk[offset : offset + len(data)] = data
    for at in range(offset, offset + len(data), PAGE):
        kept.pop(at, None)
