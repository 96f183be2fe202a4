# SPDX-License-Identifier: BSD-3-Clause
"""The command `wbcache`, one module a sub-command."""
