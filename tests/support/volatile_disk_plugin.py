# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit plugin: a disk with a volatile write cache. What was not flushed is not in its file.

Parameters: `file` is what is durable; `unsynced` gets the writes since the last flush, one record each, so that
after a kill -9 somebody can choose which of them survive (volatile_disk.py does); a write and a flush take at least
`write-seconds` and `flush-seconds`; with `honest=no` a flush says that all is well and does nothing.
"""

import builtins
import os
import struct
import time

import nbdkit

API_VERSION = 2
RECORD = struct.Struct("<QQ")

_parameters = {"honest": "yes", "write-seconds": "0", "flush-seconds": "0"}


class _Disk:
    def __init__(self):
        self._file = os.open(_parameters["file"], os.O_RDWR)
        self.content = bytearray(os.pread(self._file, os.fstat(self._file).st_size, 0))
        self._journal = builtins.open(_parameters["unsynced"], "wb", buffering=0)
        self._ranges = []
        self._write_s = float(_parameters["write-seconds"])
        self._flush_s = float(_parameters["flush-seconds"])

    def write(self, data, offset):
        self.content[offset : offset + len(data)] = data
        self._ranges.append((offset, len(data)))
        self._journal.write(RECORD.pack(offset, len(data)) + data)
        time.sleep(self._write_s)

    def flush(self):
        """Whoever is killed in the middle has not answered: what is in the file already then counts as survived."""
        time.sleep(self._flush_s)
        for offset, length in self._ranges:
            os.pwrite(self._file, self.content[offset : offset + length], offset)
        self._ranges.clear()
        self._journal.seek(0)
        self._journal.truncate()


_disk = None


def config(key, value):
    _parameters[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def get_ready():
    global _disk
    _disk = _Disk()


def open(readonly):
    return _disk


def can_multi_conn(disk):
    return True


def get_size(disk):
    return len(disk.content)


def pread(disk, buffer, offset, flags):
    buffer[:] = disk.content[offset : offset + len(buffer)]


def pwrite(disk, data, offset, flags):
    disk.write(bytes(data), offset)


def zero(disk, count, offset, flags):
    disk.write(bytes(count), offset)


def trim(disk, count, offset, flags):
    zero(disk, count, offset, flags)


def flush(disk, flags):
    if _parameters["honest"] == "yes":
        disk.flush()
