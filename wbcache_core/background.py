# SPDX-License-Identifier: BSD-3-Clause
"""How background work shares the interpreter with requests."""

import time

PIECE_PAGES = 256
"""Background work on more pages than this pauses after each such piece."""
_PAUSE_SECONDS = 0.00005


def let_requests_run() -> None:
    """Release the interpreter for a moment, between two pieces of background work.

    Python takes the GIL away from a thread only after 5 ms, and a request would wait for it that long. No lock held.
    """
    time.sleep(_PAUSE_SECONDS)
