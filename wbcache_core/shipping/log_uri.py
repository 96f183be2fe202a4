# SPDX-License-Identifier: BSD-3-Clause
"""How a user names a peer: the NBD URI of a standby."""

from wbcache_core.errors import ConfigError

_EXPORT = "log"


def log_uri(text: str) -> str:
    """The URI of the export `log` at a server; the URI may name it or leave it out. Raises ConfigError."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("nbd", "nbds", "nbd+unix", "nbds+unix"):
        raise ConfigError(f"'{text}' is not an NBD URI of a standby, such as nbd://HOST:PORT or nbd+unix:///?socket=PATH")
    place, mark, query = rest.partition("?")
    host, _, export = place.partition("/")
    if export not in ("", _EXPORT):
        raise ConfigError(f"'{text}' names the export '{export}': a standby takes the log at '{_EXPORT}'; leave it out")
    return f"{scheme}://{host}/{_EXPORT}{mark}{query}"
