# SPDX-License-Identifier: BSD-3-Clause
"""A cache from start to stop, and what a running one is asked."""
