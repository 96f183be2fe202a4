# SPDX-License-Identifier: BSD-3-Clause
"""The only modules that touch disks and NBD origins."""
