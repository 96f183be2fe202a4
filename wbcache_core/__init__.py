# SPDX-License-Identifier: BSD-3-Clause
"""wbcache: a crash-safe write-back cache for block devices, in user space.

`docs/architecture.md` explains the number line and the four cursors; the
order in which to read the source is in README.md.
"""

__version__ = "0.1.0"
