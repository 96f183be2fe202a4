# SPDX-License-Identifier: BSD-3-Clause
"""The least an nbdkit plugin can do, to show what the thread state pin alone does.

    nbdkit python tests/support/null_plugin.py [size=SIZE] [pin=on|off] [count=on|off] [slow-reads=SECONDS]

Keeps the disk in memory. With count=on and -v the server says at the end of each connection how many requests it
served and how many thread states served them. A read takes at least SECONDS, so that requests overlap.
"""

import os
import sys
import threading
import time

import nbdkit

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from wbcache_core.nbdkit_process.thread_state import ThreadStatePin

API_VERSION = 2

ON_OFF = {"on": True, "off": False}

size = 1 << 20
pin_enabled = True
count_enabled = False
read_seconds = 0.0
disk = bytearray()


class ThisState(threading.local):
    seen = False


this_state = ThisState()


class Handle:
    def __init__(self):
        self.thread_pin = ThreadStatePin(enabled=pin_enabled)
        self.requests = 0
        self.states = 0

    def count(self):
        self.requests += 1
        if not this_state.seen:
            this_state.seen = True
            self.states += 1


def config(key, value):
    global size, pin_enabled, count_enabled, read_seconds
    if key == "size":
        size = nbdkit.parse_size(value)
    elif key == "pin":
        pin_enabled = ON_OFF[value]
    elif key == "count":
        count_enabled = ON_OFF[value]
    elif key == "slow-reads":
        read_seconds = float(value)
    else:
        raise RuntimeError(f"unknown parameter: {key}")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def get_ready():
    global disk
    disk = bytearray(size)


def open(readonly):
    return Handle()


def close(handle):
    handle.thread_pin.close()
    nbdkit.debug(f"null: {handle.requests} requests, {handle.states} thread states")


def get_size(handle):
    return size


def can_multi_conn(handle):
    return True


def pread(handle, buffer, offset, flags):
    handle.thread_pin.pin()
    if count_enabled:
        handle.count()
    if read_seconds:
        time.sleep(read_seconds)
    buffer[:] = disk[offset : offset + len(buffer)]


def pwrite(handle, buffer, offset, flags):
    handle.thread_pin.pin()
    if count_enabled:
        handle.count()
    disk[offset : offset + len(buffer)] = buffer


def cache(handle, count, offset, flags):
    handle.thread_pin.pin()
    if count_enabled:
        handle.count()


def flush(handle, flags):
    handle.thread_pin.pin()
    if count_enabled:
        handle.count()
