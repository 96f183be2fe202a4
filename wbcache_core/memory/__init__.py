# SPDX-License-Identifier: BSD-3-Clause
"""What is true now, without I/O."""
