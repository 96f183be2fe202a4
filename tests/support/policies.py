# SPDX-License-Identifier: BSD-3-Clause
"""Policies for tests of single parts: that of the defaults, with changes."""

import dataclasses

from wbcache_core.memory.policy import Policy
from wbcache_core.server.config import Config


def policy_with(data_pages: int, **changes: object) -> Policy:
    """That of a cache with default parameters and so many pages of log, but for these fields."""
    return dataclasses.replace(Config().policy(data_pages), **changes)
