# SPDX-License-Identifier: BSD-3-Clause
"""Everything about a cache that may change while it runs, as one immutable value."""

from dataclasses import dataclass

RAM, LOG, PEER_RAM, PEER, ORIGIN = range(5)
"""Levels of ack, flush and fua, weakest first: a request waits for the cursor `head`, `committed`, `peers_received`,
`peers_committed` or `destaged`, and for the weaker ones before it."""
LEVEL_NAMES = ("ram", "log", "peer-ram", "peer", "origin")
PEER_LEVELS = PEER_RAM, PEER


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Pages are pages of the log; times are in seconds unless noted otherwise.

    NumberLine.apply() replaces it as a whole; users read a value from there each time.
    """

    ack: int
    flush: int
    fua: int
    """For requests with FUA; not weaker than `ack`."""
    commit_interval: float
    commit_pages: int
    """With this many volatile pages a commit begins before the interval is over."""
    destage_delay: float
    destage_depth: int
    """Requests to the origin in flight, from the next batch on."""
    low_pages: int
    """Above this many dirty pages destaging does not wait for `destage_delay`."""
    high_pages: int
    """Above this many dirty pages writers are slowed, and snapshots and tags give way unless `hold`."""
    give_way_pages: int
    """Above this many dirty pages the history gives way."""
    history_pages: int
    """How much of what was written last is held back; 0 for nothing."""
    history_ns: int
    hold: bool
    """Writers wait for snapshots and tags instead of ending them."""
    may_go_on: bool
    """A peer that does not answer is left out after a while; otherwise it is waited for."""
    drain_at_stop: bool
    draining: bool
    """A drain while the server runs: a write is not answered before the origin has it, unless the origin fails."""


def stronger(one: Policy, other: Policy) -> Policy:
    """The one with the stronger `ack`."""
    return one if one.ack >= other.ack else other
