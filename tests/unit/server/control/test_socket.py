# SPDX-License-Identifier: BSD-3-Clause
"""The file of the control socket: who may use it, whose place it takes, and that it goes away."""

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from wbcache_core.errors import ControlError
from wbcache_core.server.control import socket as control_listener
from wbcache_core.server.control.socket import LONGEST_PATH, ControlSocket


@pytest.fixture
def folder():
    """With a short name."""
    with tempfile.TemporaryDirectory(prefix="wbc-") as name:
        yield Path(name)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_use_it(folder, umask, monkeypatch):
    """Also at the moment at which it appears, and whatever the umask is."""
    modes = []
    bind = socket.socket.bind

    def watched(self, address):
        bind(self, address)
        modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(control_listener.socket.socket, "bind", watched)
    before = os.umask(umask)
    try:
        made = ControlSocket(str(folder / "c"))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert modes == [0o600] and stat.S_IMODE(os.stat(folder / "c").st_mode) == 0o600
    made.close()
    made.close()
    assert not list(folder.iterdir())


def test_what_a_killed_server_left_is_replaced(folder):
    path = folder / "c"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    made = ControlSocket(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    made.close()
    assert not path.exists()


def test_a_live_one_is_left_alone(folder):
    path = folder / "c"
    first = ControlSocket(str(path))
    for _ in range(100):
        # Beyond what the kernel lets wait.
        with pytest.raises(ControlError, match="another server listens"):
            ControlSocket(str(path))
    assert path.exists()
    first.close()


def test_one_that_took_its_place_is_left_alone(folder):
    path = folder / "c"
    first = ControlSocket(str(path))
    path.unlink()
    second = ControlSocket(str(path))
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_something_else_is_there(folder, kind):
    path = folder / "c"
    {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(ControlError, match="not a socket; choose another name"):
        ControlSocket(str(path))
    assert os.path.lexists(path)


def test_paths_that_cannot_be(folder):
    with pytest.raises(ControlError, match=f"at most {LONGEST_PATH}"):
        ControlSocket(str(folder / ("c" * LONGEST_PATH)))
    with pytest.raises(ControlError, match="No such file or directory"):
        ControlSocket(str(folder / "missing" / "c"))
    longest = str(folder / ("c" * (LONGEST_PATH - len(str(folder)) - 1)))
    ControlSocket(longest).close()
    name = folder / "h\u00e4\u00df"
    ControlSocket(str(name)).close()
