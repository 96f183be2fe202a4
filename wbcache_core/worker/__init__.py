# SPDX-License-Identifier: BSD-3-Clause
"""Batches carried out in a process of their own: the worker, and what the server has to do with it."""
