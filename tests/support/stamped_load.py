# SPDX-License-Identifier: BSD-3-Clause
"""Client processes that write stamped blocks to a server until a test ends it."""

import contextlib

from tests.support.stamped_blocks import mark_flushed
from tests.support.stamped_client import StampedClient

_CLIENTS = 2


def load_until(server, chosen_end, seed, first_sequence, pages, flush_share=0.05):
    """Clients write until `chosen_end()` has ended the server; returns all their writes."""
    with contextlib.ExitStack() as stack:
        loads = []
        for number in range(_CLIENTS):
            first = first_sequence + (number << 32)
            load = StampedClient(
                server.uri,
                seed=f"{seed}/{number}",
                first_sequence=first,
                client=number,
                client_count=_CLIENTS,
                pages=pages,
                flush_share=flush_share,
            )
            stack.callback(load.destroy)
            loads.append(load)
        for load in loads:
            load.wait_until_writing()
        chosen_end()
        reports = [load.finish() for load in loads]
    writes = [write for written, _ in reports for write in written]
    mark_flushed(writes, max(flush_submitted_ns for _, flush_submitted_ns in reports))
    return writes
