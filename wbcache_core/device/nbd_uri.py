# SPDX-License-Identifier: BSD-3-Clause
"""Paths inside NBD URIs: a server in the background has another working directory than the one it was started in."""

import os
import re
from urllib.parse import quote, unquote

_PATHS = re.compile(r"(?<=[?&;])(socket|tls-certificates|tls-psk-file)=([^&;#]+)")


def with_absolute_paths(uri: str) -> str:
    """The URI with each relative path in its parameters made absolute, and nothing else changed."""

    def absolute(found: "re.Match[str]") -> str:
        name, value = found.groups()
        path = unquote(value, errors="surrogateescape")
        if os.path.isabs(path):
            return found[0]
        return f"{name}={quote(os.path.abspath(path), errors='surrogateescape')}"

    return _PATHS.sub(absolute, uri)
