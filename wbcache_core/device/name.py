# SPDX-License-Identifier: BSD-3-Clause
"""How a user may name a device: a path, the file:// URI of one, or an NBD URI."""

import os
import re
from urllib.parse import unquote

from wbcache_core.device.nbd_uri import with_absolute_paths
from wbcache_core.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE = re.compile(r"file://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)


def is_uri(text: str) -> bool:
    """Whether it is the URI of a server (nbd://, nbds://, nbd+unix://, ...) and not a path. A name that exists as a
    path is a path."""
    if not _SCHEME.match(text) or _FILE.match(text):
        return False
    # Encoded here, because Python would refuse to do so in the C locale that services start in.
    return not os.path.lexists(text.encode("utf-8", "surrogateescape"))


def local_path(text: str) -> str:
    """The path that a file:// URI names; anything else is a path already. Raises ConfigError."""
    if not text:
        # As an unset variable in a script makes it.
        raise ConfigError("the name of a file or device is empty")
    match = _FILE.fullmatch(text)
    if not match or os.path.lexists(text.encode("utf-8", "surrogateescape")):
        return text
    host, path = match.groups()
    if host.lower() not in ("", "localhost"):
        raise ConfigError(
            f"'{text}' names a file on host '{host}'; only files on this host can be used: write file:///PATH"
        )
    if "?" in path or "#" in path:
        raise ConfigError(f"'{text}': write %3F for a question mark and %23 for a number sign in the path")
    path = unquote(path, errors="surrogateescape")
    if "\0" in path or not path.strip("/"):
        raise ConfigError(f"'{text}' names no file: write file:///PATH")
    return path


def device_name(text: str) -> str:
    """A URI unchanged, or the path of something local. Raises ConfigError."""
    return text if is_uri(text) else local_path(text)


def absolute_device_name(text: str) -> str:
    """Like device_name(), but valid from every working directory. Raises ConfigError."""
    if not is_uri(text):
        return absolute_path(local_path(text))
    try:
        return with_absolute_paths(text)
    except OSError as error:
        raise _no_folder(text, error) from None


def absolute_path(path: str) -> str:
    """A path that is valid from every working directory. Raises ConfigError."""
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise _no_folder(path, error) from None


def _no_folder(name: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"'{name}' is relative to the working directory, which cannot be found: {error.strerror}; write an absolute "
        "path"
    )
