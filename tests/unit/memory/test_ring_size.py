# SPDX-License-Identifier: BSD-3-Clause
"""`ring-size=auto`: what a ring may take of what is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import ConfigError
from wbcache_core.memory import memory_limit, ring_size
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.ring_size import automatic_ring, share
from wbcache_core.units import GIB, MIB, PAGE_BYTES, PAGE_SHIFT


@pytest.mark.parametrize(
    ("unused", "bytes_"),
    [
        (32 * GIB, 2 * GIB),
        (2 * GIB, 128 * MIB),
        (GIB, 64 * MIB),
        (512 * MIB, 64 * MIB),
        (256 * MIB, 32 * MIB),
        (8 * MIB, MIB),
        (0, MIB),
    ],
)
def test_a_share_of_what_is_left(unused, bytes_):
    assert share(unused) == bytes_


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(16, 512))
def test_servers_leave_memory_to_each_other(order, gibibytes):
    """Rings that grow in any order, each as far as it may at that moment, leave what the module promises."""
    found, rings = gibibytes * GIB, {}
    for server in order:
        left = found - sum(rings.values()) + rings.get(server, 0)
        rings[server] = max(rings.get(server, 0), share(left))
    # Those that came first have more than their share until they look again.
    for server in [*rings] * 30:
        rings[server] = share(found - sum(rings.values()) + rings[server])
    assert found - sum(rings.values()) >= found * 15 // (15 + len(rings)) - len(rings)


@pytest.mark.parametrize(
    ("unused", "log_bytes", "ring_bytes"),
    [
        (32 * GIB, GIB, GIB),
        (8 * GIB, GIB, 512 * MIB),
        (1000 * GIB, 100 * GIB, 4 * GIB),
        (32 * GIB, 4 * MIB + 77, 4 * MIB),
        (0, GIB, MIB),
        (100 * MIB + 8888, GIB, (100 * MIB + 8888) // 8 // PAGE_BYTES * PAGE_BYTES),
    ],
)
def test_not_more_than_the_log_holds(monkeypatch, unused, log_bytes, ring_bytes):
    monkeypatch.setattr(memory_limit, "unused", lambda: unused)
    monkeypatch.setattr(memory_limit, "available", lambda: memory_limit.Memory(4000 * GIB, "this machine"))
    assert automatic_ring(log_bytes).pages << PAGE_SHIFT == ring_bytes


def test_address_space_may_be_short(monkeypatch):
    def refuse(byte_count, volatile_pages):
        if byte_count > 40 * MIB:
            raise ConfigError("no memory")
        return RingBuffer(byte_count, volatile_pages)

    monkeypatch.setattr(memory_limit, "unused", lambda: 16 * GIB)
    monkeypatch.setattr(ring_size, "RingBuffer", refuse)
    assert automatic_ring(GIB).pages << PAGE_SHIFT == 32 * MIB


def test_no_memory_at_all_is_an_error(monkeypatch):
    def refuse(byte_count, volatile_pages):
        raise ConfigError("no memory")

    monkeypatch.setattr(ring_size, "RingBuffer", refuse)
    with pytest.raises(ConfigError):
        automatic_ring(GIB)
