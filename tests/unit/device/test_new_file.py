# SPDX-License-Identifier: BSD-3-Clause
"""Files that a command makes: complete under their name, and nobody else's is touched."""

import contextlib
import errno
import fcntl
import os
import stat

import pytest

from wbcache_core.device import new_file as module
from wbcache_core.device.new_file import new_file
from wbcache_core.errors import ConfigError, DeviceError


@pytest.fixture
def target(tmp_path):
    return tmp_path / "image"


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "image.partial"


def write(target, data=b"new"):
    with new_file(str(target), "image") as fd:
        os.write(fd, data)


def failing(value, applies=lambda *_: True, real=None):
    def function(*arguments, **options):
        if applies(*arguments):
            raise OSError(value, os.strerror(value))
        return real(*arguments, **options)

    return function


@pytest.fixture
def no_links(monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EPERM))


@pytest.fixture
def no_renames(monkeypatch, no_links):
    monkeypatch.setattr(module, "_libc", object())


WAYS = pytest.mark.parametrize("way", [None, "no_links", "no_renames"])


@WAYS
def test_it_has_its_name_at_the_end(request, target, partial, way):
    if way:
        request.getfixturevalue(way)
    with new_file(str(target), "image") as fd:
        os.write(fd, b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert not partial.exists()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@WAYS
def test_what_has_come_meanwhile_is_not_overwritten(request, target, partial, way):
    """And what is finished is not thrown away."""
    if way:
        request.getfixturevalue(way)
    with pytest.raises(DeviceError, match=r"complete, but .*image': File exists; it is '.*image.partial'"):
        with new_file(str(target), "image") as fd:
            os.write(fd, b"new")
            target.write_bytes(b"mine")
    assert target.read_bytes() == b"mine"
    assert partial.read_bytes() == b"new"


def test_a_name_that_cannot_be_had(target, partial, no_renames, monkeypatch):
    monkeypatch.setattr(os, "rename", failing(errno.EACCES))
    with pytest.raises(DeviceError, match="complete, but"):
        write(target)
    assert partial.read_bytes() == b"new"
    assert not target.exists()


def test_after_an_error_it_is_gone(target, partial):
    with pytest.raises(DeviceError, match="No space"), new_file(str(target), "image"):
        raise OSError(errno.ENOSPC, "No space")
    with pytest.raises(KeyboardInterrupt), new_file(str(target), "image"):
        raise KeyboardInterrupt
    assert not target.exists() and not partial.exists()


def test_a_leftover_is_taken_over(target, partial):
    partial.write_bytes(b"a longer leftover")
    write(target)
    assert target.read_bytes() == b"new"
    assert not partial.exists()


def test_a_leftover_that_is_another_name_of_a_finished_file(target, partial, tmp_path):
    """Killed between the two steps of giving it its name; the finished one has been renamed since."""
    finished = tmp_path / "kept"
    finished.write_bytes(b"finished")
    os.link(finished, partial)
    write(target)
    assert finished.read_bytes() == b"finished"
    assert target.read_bytes() == b"new"


def test_another_run_is_writing_it(target, partial):
    with new_file(str(target), "image") as fd:
        os.write(fd, b"first")
        with pytest.raises(ConfigError, match="another run"):
            write(target)
        assert partial.exists()
    assert target.read_bytes() == b"first"


def test_a_file_of_somebody_else_is_not_removed(target, partial):
    with pytest.raises(ZeroDivisionError), new_file(str(target), "image"):
        partial.unlink()
        partial.write_bytes(b"mine")
        raise ZeroDivisionError
    assert partial.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_in_the_way(target, partial, tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    {"pipe": lambda: os.mkfifo(partial), "link": lambda: partial.symlink_to(victim), "folder": partial.mkdir}[kind]()
    with pytest.raises((ConfigError, DeviceError)):
        write(target)
    assert os.path.lexists(partial)
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("value", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF])
def test_without_locks(target, partial, monkeypatch, value):
    monkeypatch.setattr(fcntl, "flock", failing(value))
    write(target)
    assert target.read_bytes() == b"new"
    target.unlink()
    partial.write_bytes(b"perhaps somebody's")
    with pytest.raises(ConfigError, match="no locks: remove it"):
        write(target)
    assert partial.read_bytes() == b"perhaps somebody's"


def is_folder(fd, *_):
    return stat.S_ISDIR(os.fstat(fd).st_mode)


@pytest.mark.parametrize("value", [errno.EINVAL, errno.EBADF, errno.EACCES, errno.EOPNOTSUPP])
def test_a_folder_that_cannot_be_synced(target, monkeypatch, value):
    monkeypatch.setattr(os, "fsync", failing(value, is_folder, os.fsync))
    write(target)
    assert target.read_bytes() == b"new"


def test_a_folder_that_may_not_be_opened(target, monkeypatch):
    real = os.open
    monkeypatch.setattr(os, "open", failing(errno.EACCES, lambda _, flags, *__: flags & os.O_DIRECTORY, real))
    write(target)
    assert target.read_bytes() == b"new"


def test_a_folder_whose_sync_fails(target, partial, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, is_folder, os.fsync))
    with pytest.raises(DeviceError, match="power cut"):
        write(target)
    assert target.read_bytes() == b"new"
    with contextlib.suppress(FileNotFoundError):
        pytest.fail(f"left {partial.stat()}")
