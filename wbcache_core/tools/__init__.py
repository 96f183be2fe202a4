# SPDX-License-Identifier: BSD-3-Clause
"""The command `wbcache`, one module per sub-command."""
