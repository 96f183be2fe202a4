# SPDX-License-Identifier: BSD-3-Clause
"""What moves the cursors, into the log and to the origin, and what holds them back."""
