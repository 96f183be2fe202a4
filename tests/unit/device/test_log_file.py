# SPDX-License-Identifier: BSD-3-Clause
"""The file of a log that does not exist yet: made as a whole or not at all, and foreseen where it cannot be."""

import errno
import os

import pytest

from wbcache_core.device.log_file import check_creatable, create_file
from wbcache_core.errors import DeviceError
from wbcache_core.units import MIB


def fail_with(value):
    """A function that raises that errno."""
    def fail(*_arguments):
        raise OSError(value, os.strerror(value))

    return fail


def test_create_file(tmp_path):
    path = tmp_path / "log"
    create_file(str(path), 5 * MIB)
    status = path.stat()
    assert (status.st_size, status.st_blocks, status.st_mode & 0o777) == (5 * MIB, 0, 0o600)
    with pytest.raises(DeviceError, match=r"cannot create log .*File exists"):
        create_file(str(path), 5 * MIB)
    assert path.stat().st_size == 5 * MIB


def test_create_file_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(DeviceError, match="cannot create log"):
        create_file(str(tmp_path / "missing" / "log"), MIB)
    monkeypatch.setattr(os, "truncate", fail_with(errno.EFBIG))
    with pytest.raises(DeviceError, match="too large"):
        create_file(str(tmp_path / "log"), MIB)
    assert not list(tmp_path.iterdir())


def test_create_file_in_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(value, os.strerror(value))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    for value in (errno.EINVAL, errno.EBADF, errno.EACCES):
        create_file(str(tmp_path / str(value)), MIB)
        (tmp_path / str(value)).unlink()
    value = errno.EIO
    with pytest.raises(DeviceError, match="cannot create log"):
        create_file(str(tmp_path / "log"), MIB)
    assert not list(tmp_path.iterdir())


def test_what_create_file_would_raise_shows_beforehand(tmp_path):
    """Root may write everywhere; so it is asked about folders that are none, or not there."""
    (tmp_path / "file").write_bytes(b"")
    check_creatable(str(tmp_path / "log"))
    for path, value in (("file/log", errno.ENOTDIR), ("missing/log", errno.ENOENT)):
        found = []
        for call in (check_creatable, lambda path: create_file(path, MIB)):
            with pytest.raises(DeviceError) as caught:
                call(str(tmp_path / path))
            found.append((str(caught.value), caught.value.errno_value))
        assert found[0] == found[1]
        assert found[0][1] == value
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("value", [errno.EACCES, errno.EPERM])
def test_a_user_who_may_not_make_it_hears_what_to_do(tmp_path, monkeypatch, value):
    """Also one that has no name, as in containers."""
    monkeypatch.setattr(os, "open", fail_with(value))
    for user, name in ((0, "user 'root'"), (3999999, "user 3999999")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with pytest.raises(DeviceError) as caught:
            create_file(str(tmp_path / "log"), MIB)
        for words in (str(tmp_path / "log"), name, "chown", "beforehand", "log="):
            assert words in str(caught.value)
