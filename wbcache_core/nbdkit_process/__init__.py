# SPDX-License-Identifier: BSD-3-Clause
"""Life inside an nbdkit process."""
