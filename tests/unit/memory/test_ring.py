# SPDX-License-Identifier: BSD-3-Clause
"""The RAM ring."""

import ctypes
import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import ConfigError
from wbcache_core.memory import memory_limit
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import PAGE_BYTES

PAGES = 8


def page_of(lsn):
    return lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)


def image(lsn, count):
    return b"".join(page_of(lsn + index) for index in range(count))


@pytest.fixture
def ring():
    return RingBuffer(PAGES * PAGE_BYTES)


def test_slots_are_aligned_for_direct_io(ring):
    address = ctypes.addressof(ctypes.c_char.from_buffer(ring.memory))
    assert address % mmap.PAGESIZE == 0
    assert [ring.offset(lsn) for lsn in (0, 1, 7, 8, 17)] == [at * PAGE_BYTES for at in (0, 1, 7, 0, 1)]


def test_a_size_that_is_no_multiple_of_a_page_is_rounded_down():
    assert RingBuffer(3 * PAGE_BYTES + 4095).pages == 3


def test_it_begins_with_zeros(ring):
    assert not any(ring.memory)
    assert len(ring.memory) == PAGES * PAGE_BYTES


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, PAGES)), max_size=20))
def test_it_holds_what_came_last(runs):
    ring, slots = RingBuffer(PAGES * PAGE_BYTES), {}
    for lsn, count in runs:
        ring.copy_in(lsn, 0, image(lsn, count))
        slots.update({at % PAGES: page_of(at) for at in range(lsn, lsn + count)})
        for start in (lsn, lsn + 3):
            expected = b"".join(slots.get(at % PAGES, bytes(PAGE_BYTES)) for at in range(start, start + count))
            found = bytearray(count * PAGE_BYTES)
            ring.copy_out(start, memoryview(found))
            assert found == expected
            assert b"".join(ring.spans(start, count)) == expected
            assert b"".join(ring.pages_of(start, count)) == expected
            assert ring.page(start) == expected[:PAGE_BYTES]


@pytest.mark.parametrize(("lsn", "count", "views"), [(0, 8, 1), (8, 8, 1), (1, 8, 2), (7, 1, 1), (7, 2, 2), (15, 2, 2)])
def test_spans_are_one_view_or_two(ring, lsn, count, views):
    spans = ring.spans(lsn, count)
    assert len(spans) == views
    assert sum(map(len, spans)) == count * PAGE_BYTES
    assert [len(page) for page in ring.pages_of(lsn, count)] == [PAGE_BYTES] * count


def test_views_are_the_ring_itself(ring):
    for view in [ring.page(9), *ring.spans(10, 1), *ring.pages_of(11, 1)]:
        view[:] = b"x" * PAGE_BYTES
    assert bytes(ring.memory[PAGE_BYTES : 4 * PAGE_BYTES]) == b"x" * 3 * PAGE_BYTES


def test_more_than_half_of_memory_is_refused():
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with pytest.raises(ConfigError, match=r"ring-size .* more than half"):
        RingBuffer(memory // 2 + PAGE_BYTES)
    with pytest.raises(ConfigError, match="ring-size"):
        RingBuffer(2**63)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1048576\n"}, 1 << 20),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "9999", "sys/fs/cgroup/memory.max": "96"}, 96),
        ({"proc/self/cgroup": "0::/docker/x\n", "sys/fs/cgroup/memory.max": "8192\n"}, 8192),
        ({"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/memory.max": "8192\n"}, 8192),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/unified/memory.max": "8192\n"}, 8192),
        (
            {
                "proc/self/cgroup": "9:name=systemd:/x\n4:cpu,memory:/a:c\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/a:c/memory.limit_in_bytes": "12288\n",
            },
            12288,
        ),
        ({"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9" * 18}, None),
        ({"proc/self/cgroup": "nonsense\n"}, None),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "nonsense\n"}, None),
    ],
)  # fmt: skip
def test_limits_of_control_groups(tmp_path, files, limit):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    memory = memory_limit.available(str(tmp_path))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.byte_count == (machine if limit is None else limit)
    assert ("control group" in memory.whose) == (limit is not None)


def test_more_than_half_of_what_the_control_group_may_use_is_refused(monkeypatch):
    memory = memory_limit.Memory(4 << 20, "this control group")
    monkeypatch.setattr(memory_limit, "available", lambda: memory)
    RingBuffer(2 << 20)
    with pytest.raises(ConfigError, match=r"ring-size 3.0 MiB is more than half of .* control group \(4.0 MiB\)"):
        RingBuffer(3 << 20)


def test_memory_that_cannot_be_had_is_refused(monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError("no memory")

    monkeypatch.setattr("wbcache_core.memory.ring.mmap.mmap", refuse)
    with pytest.raises(ConfigError, match="no memory for ring-size"):
        RingBuffer(PAGE_BYTES)
