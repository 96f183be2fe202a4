# SPDX-License-Identifier: BSD-3-Clause
"""How a connection to an NBD server begins, whatever it is for."""

import errno
import logging
import re
from collections.abc import Callable

import nbd

from wbcache_core.device.nbd_refusals import advice
from wbcache_core.errors import ConfigError, NoConnectionError

_log = logging.getLogger("wbcache")

_FUNCTION = re.compile(r"^nbd_\w+: ")
"""What libnbd's messages begin with."""


def connect(handle: nbd.NBD, uri: str, whose: str, wait: Callable[[], None], if_not_open: str = "") -> None:
    """Make the handle's connection. `wait` returns when it is not being made any more, and may raise errors of its own.
    For messages: `whose`, such as origin, and what to do if the server does not open the export.

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
        # Which step fails, and in which function, is a matter of chance; a message that changes is logged again.
        _log.debug("no connection to %s '%s': %s", whose, uri, error.string)
        said = _FUNCTION.sub("", error.string)
        why = advice(uri, said)
        # Later this error is about the connection: libnbd's poll() also returns it if the state changes meanwhile.
        if error.errnum == errno.EINVAL and not is_started and not why:
            raise ConfigError(f"{whose} '{uri}' is not a usable NBD URI: {said}") from None
        if "has no export named" in said and if_not_open:
            why = f"{said}; {if_not_open}"
        raise NoConnectionError(f"cannot connect to {whose} '{uri}': {why or said}", errno.EIO) from None
    if not handle.aio_is_ready():
        raise NoConnectionError(f"{whose} '{uri}' ended the connection at once", errno.EIO)
