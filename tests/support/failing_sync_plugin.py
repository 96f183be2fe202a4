# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit plugin: a file whose syncs fail while another file, `trigger`, exists. Parameters: `file`, `trigger`."""

import errno
import os

import nbdkit

API_VERSION = 2

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


def can_flush(fd):
    return True


def get_size(fd):
    return os.fstat(fd).st_size


def pread(fd, buffer, offset, flags):
    buffer[:] = os.pread(fd, len(buffer), offset)


def pwrite(fd, data, offset, flags):
    os.pwrite(fd, data, offset)


def flush(fd, flags):
    if os.path.exists(_parameters["trigger"]):
        nbdkit.set_error(errno.EIO)
        raise OSError(errno.EIO, "the sync fails, as the test wants it")
    os.fdatasync(fd)
