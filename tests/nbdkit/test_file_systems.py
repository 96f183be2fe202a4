# SPDX-License-Identifier: BSD-3-Clause
"""ext4 and xfs on a loop device over nbdfuse over the cache: a file tree survives, and fsck finds nothing."""

import contextlib
import filecmp
import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.support import clients, mounts

MIB = 1 << 20
TREE_SIZE = 12 * MIB
SETTINGS = {"log_size": "64M", "ring_size": "4M", "destage_delay": "500ms"}
FILE_SYSTEMS = {
    "ext4": (["mkfs.ext4", "-q"], ["e2fsck", "-f", "-n"]),
    "xfs": (["mkfs.xfs", "-q"], ["xfs_repair", "-n"]),
}


def _source_files():
    """Files of Python's standard library, which is there wherever the tests run, up to TREE_SIZE bytes."""
    root = Path(sysconfig.get_path("stdlib"))
    total, chosen = 0, []
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts or path.is_symlink():
            continue
        chosen.append(path.relative_to(root))
        total += path.stat().st_size
        if total > TREE_SIZE:
            break
    return root, chosen


def _copy(root, names, target):
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)


def _assert_same(root, names, target):
    _, different, failed = filecmp.cmpfiles(root, target, [str(name) for name in names], shallow=False)
    assert not different and not failed, f"{different[:5]}, {failed[:5]} of {len(names)} files"
    found = sum(len(files) for _, _, files in os.walk(target))
    assert found == len(names)


@contextlib.contextmanager
def _block_device(server, folder):
    with mounts.fuse_file(server.uri, folder) as file, mounts.loop_device(file) as device:
        yield device


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_file_tree_survives(pair, folder, kind):
    make, check = FILE_SYSTEMS[kind]
    root, names = _source_files()
    assert len(names) > 100
    pair.make_origin(320 * MIB)
    with pair.serve(**SETTINGS) as server:
        with _block_device(server, folder) as device:
            clients.run(*make, device)
            with mounts.mounted(device, folder) as target:
                _copy(root, names, target / "tree")
                shutil.copytree(target / "tree", target / "second")
                shutil.rmtree(target / "tree")
                clients.run("fstrim", target)
                os.rename(target / "second", target / "tree")
        with _block_device(server, folder) as device:
            clients.run(*check, device)
    with pair.serve(on_exit="destage", **SETTINGS) as server, _block_device(server, folder) as device:
        clients.run(*check, device)
        with mounts.mounted(device, folder, "ro") as target:
            _assert_same(root, names, target / "tree")
    with mounts.loop_device(pair.origin) as device:
        clients.run(*check, device)
        with mounts.mounted(device, folder, "ro") as target:
            _assert_same(root, names, target / "tree")


def test_synced_files_survive_a_kill(pair, folder):
    """A kill -9 right after sync, under a mounted ext4: journal replay brings every synced file back."""
    root, names = _source_files()
    names = names[:300]
    pair.make_origin(64 * MIB)
    with contextlib.suppress(AssertionError), pair.serve(**SETTINGS) as server:
        with _block_device(server, folder) as device:
            clients.run("mkfs.ext4", "-q", device)
            with mounts.mounted(device, folder) as target:
                _copy(root, names, target / "tree")
                clients.run("sync", "--file-system", target)
                server.kill()
    assert server.was_killed, server.describe()
    with pair.serve(**SETTINGS) as server, _block_device(server, folder) as device:
        with mounts.mounted(device, folder) as target:
            _assert_same(root, names, target / "tree")
        clients.run("e2fsck", "-f", "-n", device)
