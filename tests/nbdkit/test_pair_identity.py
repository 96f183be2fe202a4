# SPDX-License-Identifier: BSD-3-Clause
"""Which log belongs to which origin, where content cannot tell: twins, a forgotten log=, other ways to the same image.

A start that is refused changes no byte, and its message names what helps.
"""

import gzip
import os
import shutil

import pytest

from tests.support import clients, mounts
from tests.support.nbdkit_server import REPOSITORY, CachePair
from tests.support.refusal import assert_refused, unchanged

MIB = 1 << 20
SIZE = 4 * MIB
DATA, PLACE = b"what only the log has" * 100, MIB + 17
MOVED, OTHER_LOG = "force=origin-moved", "force=other-log"


@pytest.fixture(autouse=True)
def registry(folder, monkeypatch):
    """Of the pairs of this test alone."""
    path = folder / "registry"
    monkeypatch.setenv("WBCACHE_PAIRS", str(path))
    return path


class Pair(CachePair):
    """An origin of `size` blank bytes and its log, of which nothing is destaged by itself."""

    def start(self, **settings):
        return super().start(**{"log_size": "8M", "ring_size": "1M", "destage_delay": "1h", **settings})

    def make_dirty(self, data=DATA):
        """Write and flush, and kill the server before it is idle for long."""
        before = self.origin.read_bytes()
        with self.serve() as server:
            with clients.connection(server.uri) as handle:
                handle.pwrite(data, PLACE)
                handle.flush()
                server.kill()
        assert self.origin.read_bytes() == before

    def assert_serves(self, data=DATA, size=SIZE, **settings):
        with self.serve(**settings) as server, clients.connection(server.uri) as handle:
            assert handle.get_size() == size
            assert handle.pread(len(data), PLACE) == data

    def drain(self, **settings):
        """Serve until the origin has all of it."""
        with self.serve(on_exit="destage", **settings) as server, clients.connection(server.uri) as handle:
            handle.pread(512, 0)

    def words(self, **other):
        names = {"origin": self.origin, "log": self.log, **other}
        return [f"{key}={value}" for key, value in names.items()]


@pytest.fixture
def make(folder):
    """Makes pairs, each in a folder of its own, with a blank origin."""
    made = []

    def make(name="first", place=folder):
        (place / name).mkdir()
        pair = Pair(place / name)
        pair.make_origin(SIZE)
        made.append(pair)
        return pair

    yield make
    for pair in made:
        pair.destroy()


def test_blank_twins(make, folder):
    """Each with the other's log."""
    one, two = make("one"), make("two")
    one.make_dirty(b"one" * 500)
    two.make_dirty(b"two" * 500)
    for origin, log in ((one, two), (two, one)):
        message = assert_refused(folder, origin.words(log=log.log), [str(log.log)])
        assert MOVED in message or OTHER_LOG in message
    one.assert_serves(b"one" * 500)
    two.assert_serves(b"two" * 500)


@pytest.mark.parametrize("copy", [["-a"], ["--reflink=auto"]])
def test_clones_of_one_template(make, folder, copy):
    one, two = make("one"), make("two")
    template = folder / "template.img"
    template.write_bytes(os.urandom(SIZE))
    for pair in (one, two):
        clients.run("cp", *copy, template, pair.origin)
    one.make_dirty(b"one" * 500)
    two.make_dirty(b"two" * 500)
    for origin, log in ((one, two), (two, one)):
        assert_refused(folder, origin.words(log=log.log), [str(log.log)])
    one.assert_serves(b"one" * 500)


def test_a_clone_of_an_origin_in_use(make, folder):
    """It has the attributes of the first one too."""
    one, two = make("one"), make("two")
    one.make_dirty()
    clients.run("cp", "-a", one.origin, two.origin)
    assert_refused(folder, two.words(log=one.log), [str(one.log), MOVED])
    one.assert_serves()


def test_the_log_is_forgotten(make, folder):
    pair = make()
    pair.make_dirty()
    other = pair.folder / "other.log"
    assert_refused(folder, pair.words(log=other), [str(pair.log), OTHER_LOG])
    assert not other.exists()
    pair.assert_serves()


def test_the_default_log_is_not_made_beside_a_dirty_one(make, folder):
    pair = make()
    pair.make_dirty()
    assert_refused(folder, [f"origin={pair.origin}"], [str(pair.log), OTHER_LOG])
    pair.assert_serves()


def test_another_log_on_purpose(make):
    pair = make()
    pair.make_dirty()
    other = pair.folder / "other.log"
    with pair.serve(log=other, force="other-log", check=False) as server:
        with clients.connection(server.uri) as handle:
            assert handle.pread(len(DATA), PLACE) == bytes(len(DATA))
            handle.pwrite(b"new", 0)
    # From now on the first one is the other.
    message = assert_refused(pair.folder, pair.words(), [str(other), OTHER_LOG])
    assert str(pair.log) in message


def test_ways_to_the_same_image(make, folder):
    """None of them makes it another origin."""
    pair = make()
    pair.make_dirty()
    real = pair.origin
    link, hard, moved = (pair.folder / name for name in ("link.img", "hard.img", "moved.img"))
    link.symlink_to(real)
    os.link(real, hard)
    for way in (link, hard, os.path.relpath(real)):
        pair.assert_serves(origin=way)
    hard.unlink()
    with mounts.loop_device(real) as device:
        # The check opens the file, which is in use as long as it is attached; the next start checks.
        pair.assert_serves(origin=device, check=False)
    real.rename(moved)
    link.unlink()
    pair.origin = moved
    pair.assert_serves()
    pair.drain()
    assert moved.read_bytes()[PLACE : PLACE + len(DATA)] == DATA


def test_a_bind_mount(make, folder):
    pair = make()
    pair.make_dirty()
    there = folder / "bound"
    there.mkdir()
    clients.run("mount", "--bind", pair.folder, there)
    try:
        pair.assert_serves(origin=there / pair.origin.name, log=there / pair.log.name)
    finally:
        clients.run("umount", there)
    pair.assert_serves()


def test_moved_on_purpose(make, folder):
    pair = make()
    pair.make_dirty()
    copy = folder / "copy.img"
    shutil.copyfile(pair.origin, copy)
    pair.origin.unlink()
    pair.origin = copy
    assert_refused(folder, pair.words(), [str(pair.log), MOVED])
    pair.assert_serves(force="origin-moved")
    pair.assert_serves()


@pytest.mark.parametrize("log", ["the same", "another"])
def test_a_drained_pair_is_not_held_together(make, log):
    pair = make()
    pair.make_dirty()
    pair.drain()
    pair.assert_serves(log=pair.log if log == "the same" else pair.folder / "another.log", check=False)


def test_a_log_that_is_gone(make, folder):
    pair = make()
    pair.make_dirty()
    pair.log.unlink()
    assert_refused(folder, pair.words(), [str(pair.log), OTHER_LOG])
    pair.assert_serves(bytes(len(DATA)), force="other-log")
    pair.assert_serves(bytes(len(DATA)))


@pytest.mark.parametrize("settings", [{"options": ["-r"]}, {"filters": ["cow"]}], ids=["-r", "cow"])
def test_nothing_is_marked_before_a_client_may_write(make, folder, settings):
    pair = make()
    with unchanged(pair.folder):
        with pair.serve(check=False, **settings) as server, clients.connection(server.uri) as handle:
            handle.pread(4096, 0)
            attributes = os.listxattr(pair.origin)
    assert not attributes
    assert not list((folder / "registry").glob("*"))


def test_an_origin_that_was_grown(make):
    pair = make()
    pair.make_dirty()
    os.truncate(pair.origin, 2 * SIZE)
    grown = ["has grown from"]
    pair.assert_serves(size=2 * SIZE, tolerate=grown)
    with pair.serve(on_exit="destage", tolerate=grown) as server, clients.connection(server.uri) as handle:
        handle.pwrite(b"behind the old end", SIZE + 5)
    content = pair.origin.read_bytes()
    assert content[PLACE : PLACE + len(DATA)] == DATA
    assert content[SIZE + 5 :].startswith(b"behind the old end")


def test_an_origin_that_was_shrunk(make, folder):
    pair = make()
    pair.make_dirty()
    os.truncate(pair.origin, SIZE - MIB)
    assert_refused(folder, pair.words(), [str(pair.origin), str(SIZE), str(SIZE - MIB)])
    os.truncate(pair.origin, SIZE)
    pair.assert_serves()


def test_where_there_are_no_extended_attributes(make, folder):
    """A file system in memory that has none."""
    with mounts.memory_file_system(folder / "memory", "ramfs") as place:
        pair = make("pair", place)
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(pair.origin, "user.test", b"")
        pair.make_dirty()
        assert_refused(place, pair.words(log=pair.folder / "other.log"), [str(pair.log), OTHER_LOG])
        pair.assert_serves()


def test_a_log_of_format_version_2(folder, make):
    pair = make()
    data = REPOSITORY / "tests" / "data"
    for name, path in (("origin-v2", pair.origin), ("log-v2", pair.log)):
        path.write_bytes(gzip.decompress((data / f"{name}.img.gz").read_bytes()))
    with pair.serve() as server, clients.connection(server.uri) as handle:
        content = clients.read_all(handle)
        handle.pwrite(b"new", 100)
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == content[:100] + b"new" + content[103:]
