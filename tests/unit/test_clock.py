# SPDX-License-Identifier: BSD-3-Clause
"""What tells the boot, and how long ago it was, also in containers."""

import time

import pytest

from wbcache_core import clock


def test_both_clocks_are_read_at_one_moment():
    before, now, after = time.time_ns(), clock.read(), time.time_ns()
    assert before <= now.wall_ns <= after
    assert 0 < now.boot < 2**32 and now.boot_ns > 0
    later = clock.read()
    assert clock.elapsed_ns(now, later) >= 0
    assert clock.elapsed_ns(later._replace(boot_ns=later.boot_ns + 1), now) is None


def test_each_process_is_a_boot_of_its_own_where_that_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "_BOOT_ID", tmp_path / "none")
    found = {clock._this_boot() for _ in range(8)}
    assert len(found) == 8 and 0 not in found


def test_only_bytes_are_hashed(tmp_path, monkeypatch):
    """New releases of xxhash refuse text, older ones took it as UTF-8; the number of a boot is the same with both."""
    (tmp_path / "boot_id").write_text("0f2e3c1a-5d3b-4a4e-9d0b-6f3a1c2b4d5e\n")
    monkeypatch.setattr(clock, "_BOOT_ID", tmp_path / "boot_id")
    number = clock._this_boot()
    given = []
    monkeypatch.setattr(clock, "xxh3_64_intdigest", lambda data: given.append(data) or number - 1)
    assert clock._this_boot() == number
    assert given == [b"0f2e3c1a-5d3b-4a4e-9d0b-6f3a1c2b4d5e"]


@pytest.mark.parametrize(
    ("text", "offset_ns"),
    [("monotonic  5 6\nboottime  7 8\n", 7 * 10**9 + 8), ("boottime -3 500000000", -2_500_000_000),
     ("monotonic 0 0\n", 0), ("", 0), ("boottime x\n", 0), (None, 0)],
)  # fmt: skip
def test_the_offset_of_a_time_namespace(tmp_path, monkeypatch, text, offset_ns):
    """A container's time since the boot is that of the machine again."""
    if text is not None:
        (tmp_path / "offsets").write_text(text)
    monkeypatch.setattr(clock, "_OFFSETS", tmp_path / "offsets")
    assert clock._container_offset_ns() == offset_ns
    monkeypatch.setattr(clock, "_OFFSET_NS", offset_ns)
    assert abs(clock.read().boot_ns + offset_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 10**9


def test_a_time_before_the_boot_is_none(monkeypatch):
    monkeypatch.setattr(clock, "_OFFSET_NS", 2**62)
    assert clock.read()[1:] == (0, 0)
