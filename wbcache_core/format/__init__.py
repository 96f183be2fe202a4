# SPDX-License-Identifier: BSD-3-Clause
"""Converts the bytes of the log to values and back."""
