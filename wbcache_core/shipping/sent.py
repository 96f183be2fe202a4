# SPDX-License-Identifier: BSD-3-Clause
"""A request to a peer that is under way: what its answer means."""

from typing import NamedTuple

from wbcache_core.format.superblock import Superblock


class Sent(NamedTuple):
    """Empty for a sign of life."""

    received: int = 0
    is_durable: bool = False
    superblock: Superblock | None = None
    is_whole: bool = False
    """Whether that superblock says everything that this server's does."""
    byte_count: int = 0
    lets_go: bool = False
    """It tells the peer that it may lack something, or be left out."""
    is_report: bool = False
