# SPDX-License-Identifier: BSD-3-Clause
"""The tree of exceptions and the errno that a client sees."""

import errno
import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core import errors
from wbcache_core.errors import WbcacheError, errno_for_client

# What an NBD reply can carry; see the protocol's list of error values.
NBD_ERRNO = {
    errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW, errno.ENOTSUP, errno.ESHUTDOWN
}  # fmt: skip

CLASSES = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, WbcacheError)
}  # fmt: skip

SEEN_BY_CLIENTS = {
    "ConfigError": errno.EINVAL,
    "DeviceInUseError": errno.EIO,
    "LogRefusedError": errno.EINVAL,
    "OutOfRangeError": errno.EINVAL,
    "ReadOnlyError": errno.EPERM,
    "SnapshotEndedError": errno.EIO,
    "StoppedError": errno.ESHUTDOWN,
    "DamagedPageError": errno.EIO,
    "FormatError": errno.EIO,
}


def make(found):
    return found("what happened", 7) if found is errors.DamagedPageError else found("what happened")


def drawn_tree():
    """{class: base} as the module's docstring draws it."""
    bases, path = {}, []
    for line in errors.__doc__.splitlines():
        match = re.match(r"( +)(\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 2 - 2
            path[depth:] = [match[2]]
            bases[match[2]] = path[depth - 1] if depth else "Exception"
    return bases


def test_the_drawn_tree_is_the_real_one():
    assert drawn_tree() == {name: found.__base__.__name__ for name, found in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_each_error_shows_clients_an_errno_that_nbd_has(name):
    error = make(CLASSES[name])
    assert errno_for_client(error) in NBD_ERRNO
    assert errno_for_client(error) == SEEN_BY_CLIENTS.get(name, errno_for_client(error))
    assert "what happened" in str(error)


@pytest.mark.parametrize("found", [errors.DeviceError, errors.LogFailedError, errors.OriginFailedError])
@pytest.mark.parametrize(
    ("system", "client"),
    [
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.ENOSPC),
        (errno.EFBIG, errno.ENOSPC),
        (errno.EROFS, errno.EPERM),
        (errno.EACCES, errno.EPERM),
        (errno.ENOMEM, errno.ENOMEM),
        (errno.EIO, errno.EIO),
        (errno.ENODEV, errno.EIO),
        (errno.EBADF, errno.EIO),
        (errno.ETIMEDOUT, errno.EIO),
    ],
)
def test_a_failed_device_shows_what_nbd_can_say_of_it(found, system, client):
    assert errno_for_client(found("what happened", system)) == client


@given(st.integers(-10, 200))
def test_any_errno_becomes_one_that_nbd_has(value):
    assert errno_for_client(errors.DeviceError("what happened", value)) in NBD_ERRNO


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.ENOSPC, "raw"), AssertionError(), KeyError(1)])
def test_what_is_not_ours_is_an_io_error(error):
    assert errno_for_client(error) == errno.EIO


def test_no_memory_is_no_memory():
    assert errno_for_client(MemoryError()) == errno.ENOMEM
