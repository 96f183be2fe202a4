# SPDX-License-Identifier: BSD-3-Clause
"""The limits of a block device as sysfs has them, for disks and partitions."""

import os

import pytest

from wbcache_core.device import file_device

DISK, PARTITION = os.makedev(8, 16), os.makedev(8, 17)


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """Makes a disk with a partition; returns its folder for limits."""
    disk = tmp_path / "devices" / "sdb"
    (disk / "sdb1").mkdir(parents=True)
    (disk / "queue").mkdir()
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / "8:16").symlink_to("../devices/sdb")
    (numbers / "8:17").symlink_to("../devices/sdb/sdb1")
    monkeypatch.setattr(file_device, "_SYSFS", str(numbers))
    return disk / "queue"


@pytest.mark.parametrize("number", [DISK, PARTITION])
@pytest.mark.parametrize(
    ("discard", "write_zeroes", "expected"),
    [
        ("1073741824\n", "2147483648\n", True),
        ("0\n", "0\n", False),
        ("0\n", "33553920\n", False),
        ("1073741824\n", "0\n", False),
        ("1073741824\n", None, True),
        (None, None, True),
    ],
)
def test_a_device_needs_both(sysfs, number, discard, write_zeroes, expected):
    for name, text in (("discard_max_bytes", discard), ("write_zeroes_max_bytes", write_zeroes)):
        if text is not None:
            (sysfs / name).write_text(text)
    assert file_device.can_discard(number) is expected


def test_limits_that_may_not_be_read(sysfs, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_device.Path, "is_dir", refuse)
    assert file_device.can_discard(DISK)


def test_a_device_that_sysfs_does_not_know(sysfs):
    assert file_device.can_discard(os.makedev(250, 3))
