# SPDX-License-Identifier: BSD-3-Clause
"""How background work shares the interpreter with requests."""

import time

PIECE_PAGES = 256
"""Background work on more pages than this pauses in between."""
_PAUSE_SECONDS = 0.00005


def let_requests_run() -> None:
    """Give up the interpreter for a moment, between two pieces of background work.

    Python takes the GIL away from a thread only after 5 ms, and a request that waits for it waits as long. No lock
    held.
    """
    time.sleep(_PAUSE_SECONDS)
