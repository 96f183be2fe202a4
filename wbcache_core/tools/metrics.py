# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache metrics`: what `metrics=` serves, as text, for any number of running servers."""

import sys

from wbcache_core.server.control.client import check_socket, counted_status
from wbcache_core.server.metrics import exposition, load_client


def run_metrics(paths: list[str]) -> int:
    """Print them; returns the exit status. Raises ControlError, ConfigError."""
    load_client()
    for path in paths:
        check_socket(path, "metrics")
    text = exposition([counted_status(path) for path in paths])
    sys.stdout.write(text.decode())
    return 0
