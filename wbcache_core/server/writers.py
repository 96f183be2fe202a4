# SPDX-License-Identifier: BSD-3-Clause
"""Whether clients may write: tried for each client, and predicted when the server starts.

nbdkit cannot tell clients that write from those that only read before they do
so, and has no way to tell a client why it is refused. So if writers cannot be
admitted, the volume is served read-only. Then every client itself reports the
problem, and clients that only read are not kept out.
"""

import logging

from wbcache_core.device.log_file import check_creatable
from wbcache_core.errors import DeviceError, LogRefusedError, NoThreadError
from wbcache_core.server.cache import Cache
from wbcache_core.server.served import Served

_log = logging.getLogger("wbcache")


class Writers:
    """`_foretold` belongs to the thread that starts the server; the rest is for any thread."""

    def __init__(self, cache: Served | Cache) -> None:
        self._cache = cache
        self._foretold = ""

    def admit(self) -> str:
        """Admit writers; returns why the volume is read-only for this client, or ''.

        A failure is retried for the next client. Raises StoppedError.
        """
        if not self._cache.is_writable:
            return "origin or log cannot be written"
        try:
            self._cache.activate()
        except (DeviceError, LogRefusedError, NoThreadError) as error:
            _log.error("the volume is served read-only: %s", error)
            return str(error)
        return ""

    def check_user(self) -> None:
        """Report what the first client will find out if the user that this runs as cannot create the log.

        Called again, perhaps as another user, it reports only what is new.
        """
        path = self._cache.missing_log
        if not (path and self._cache.is_writable):
            return
        try:
            check_creatable(path)
        except DeviceError as error:
            if str(error) != self._foretold:
                self._foretold = str(error)
                _log.error("the volume is going to be served read-only: %s", error)
