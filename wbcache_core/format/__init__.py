# SPDX-License-Identifier: BSD-3-Clause
"""Bytes of the log to values and back."""
