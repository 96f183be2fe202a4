# SPDX-License-Identifier: BSD-3-Clause
"""Which log belongs to which origin: what is refused before a cache starts."""
