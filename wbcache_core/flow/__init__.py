# SPDX-License-Identifier: BSD-3-Clause
"""Who moves the cursors: into the log, to the origin, and what holds them back."""
