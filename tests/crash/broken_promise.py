# SPDX-License-Identifier: BSD-3-Clause
"""What the crash tests raise."""


class BrokenPromiseError(AssertionError):
    """A promise of the cache that a crash broke."""
