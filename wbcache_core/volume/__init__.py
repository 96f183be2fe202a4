# SPDX-License-Identifier: BSD-3-Clause
"""What clients ask for."""
