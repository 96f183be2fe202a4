# SPDX-License-Identifier: BSD-3-Clause
"""All mutations, one module an area."""

from tests.mutations import (
    bad_origins,
    clocks,
    commits,
    comparisons,
    detaching,
    durability,
    epochs,
    failed_logs,
    forgetting,
    nbd_origins,
    own_origins,
    pairs,
    peers,
    ring_memory,
    salvaging,
    shared_ring,
    standby_past,
    workers,
)

MUTATIONS = (
    *durability.MUTATIONS,
    *failed_logs.MUTATIONS,
    *nbd_origins.MUTATIONS,
    *bad_origins.MUTATIONS,
    *pairs.MUTATIONS,
    *peers.MUTATIONS,
    *clocks.MUTATIONS,
    *commits.MUTATIONS,
    *comparisons.MUTATIONS,
    *forgetting.MUTATIONS,
    *ring_memory.MUTATIONS,
    *workers.MUTATIONS,
    *shared_ring.MUTATIONS,
    *detaching.MUTATIONS,
    *salvaging.MUTATIONS,
    *epochs.MUTATIONS,
    *own_origins.MUTATIONS,
    *standby_past.MUTATIONS,
)
