# SPDX-License-Identifier: BSD-3-Clause
"""Paths inside NBD URIs."""

import os
import re
from urllib.parse import quote, unquote

_PATHS = re.compile(r"(?<=[?&;])(socket|tls-certificates|tls-psk-file)=([^&;#]+)")


def parameter(uri: str, name: str) -> str:
    """The path that a parameter of the URI names: socket, tls-certificates or tls-psk-file; empty without it."""
    for found in _PATHS.finditer(uri):
        if found[1] == name:
            return unquote(found[2], errors="surrogateescape")
    return ""


def with_absolute_paths(uri: str) -> str:
    """The URI with each relative path in its parameters made absolute, and nothing else changed: a server in the
    background has another working directory than the one it was started in."""

    def absolute(found: "re.Match[str]") -> str:
        name, value = found.groups()
        path = unquote(value, errors="surrogateescape")
        if os.path.isabs(path):
            return found[0]
        return f"{name}={quote(os.path.abspath(path), errors='surrogateescape')}"

    return _PATHS.sub(absolute, uri)
