# SPDX-License-Identifier: BSD-3-Clause
"""The owner's side of peers: what is committed goes to the logs of standbys too."""
