# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache salvage`: what can be saved of a damaged log."""
