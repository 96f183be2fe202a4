# SPDX-License-Identifier: BSD-3-Clause
"""How a connection to an NBD server begins, whatever it is for."""

import errno
from collections.abc import Callable

import nbd

from wbcache_core.errors import ConfigError, NoConnectionError


def connect(handle: nbd.NBD, uri: str, whose: str, wait: Callable[[], None]) -> None:
    """Make the handle's connection. `wait` returns when it is not being made any more, and may raise errors of its own;
    `whose`, such as origin, is for messages.

    Raises NoConnectionError, ConfigError for an invalid URI.
    """
    # Of a key (tls-psk-file), which libnbd does not read by default: other programs get URIs from strangers.
    handle.set_uri_allow_local_file(True)
    is_started = False
    try:
        handle.aio_connect_uri(uri)
        is_started = True
        wait()
    except nbd.Error as error:
        # Later this error is about the connection: libnbd's poll() also returns it if the state changes meanwhile.
        if error.errnum == errno.EINVAL and not is_started:
            raise ConfigError(f"{whose} '{uri}' is not a usable NBD URI: {error.string}") from None
        raise NoConnectionError(f"cannot connect to {whose} '{uri}': {error.string}", errno.EIO) from None
    if not handle.aio_is_ready():
        raise NoConnectionError(f"{whose} '{uri}' ended the connection at once", errno.EIO)
