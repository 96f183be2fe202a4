# SPDX-License-Identifier: BSD-3-Clause
"""Logs that cannot be served with this origin: damaged, cut short, newer, foreign, or somebody else's.

Each is refused with or without -r, nothing changes, and only the force= that the message names accepts it.
"""

import contextlib
import os
import random

import pytest

from tests.support import clients, damage, mounts
from tests.support.matching import same
from tests.support.nbdkit_server import CachePair
from tests.support.refusal import assert_refused, unchanged
from wbcache_core.format.superblock import DATA_START, VERSION

MIB = 1 << 20
SIZE = 4 * MIB
PLACE = MIB + 4096 + 77
SETTINGS = {"log_size": "8M", "ring_size": "1M"}
DISCARD_HINT = "force=discard-log"
CHANGED_HINT = "force=origin-changed"
UNTOUCHED = "nothing has been changed"
ALONE = "the origin alone is"


def name_of(function):
    return function.__name__


def with_fresh(content):
    """What is there after a small write near the beginning."""
    return content[:123] + b"fresh" + content[128:]


class Pair(CachePair):
    """A pair with content: `old` is what the origin holds without the log's data, `new` what the volume is."""

    def __init__(self, folder, seed, size=SIZE, name="origin.img"):
        folder.mkdir()
        super().__init__(folder)
        self.origin = folder / name
        self._choose = random.Random(seed)
        self.old = self.new = self._choose.randbytes(size)
        self.make_origin(size, self.old)

    def fill(self, dirty):
        """Write a MiB; it stays only in the log if `dirty`."""
        data = self._choose.randbytes(MIB)
        self.new = self.old[:PLACE] + data + self.old[PLACE + MIB :]
        self._write(data, dirty)
        while dirty and self.origin.read_bytes() != self.old:
            # A second's pause, and the server took it for idle.
            self.make_origin(len(self.old), self.old)
            self.log.unlink()
            with contextlib.suppress(OSError):
                os.removexattr(self.origin, "user.wbcache")
            self._write(data, dirty)
        if not dirty:
            self.old = self.new

    def _write(self, data, dirty):
        with self.serve(destage_delay="1h", on_exit="destage", **SETTINGS) as server:
            with clients.connection(server.uri) as handle:
                for place in range(0, MIB, MIB // 4):
                    handle.pwrite(data[place : place + MIB // 4], PLACE + place)
                    handle.flush()
                if dirty:
                    server.kill()

    @property
    def words(self):
        return [f"origin={self.origin}", f"log={self.log}"]

    def assert_serves(self, content, **settings):
        """It is served with this content and takes a write; afterwards the origin has all."""
        with self.serve(on_exit="destage", **SETTINGS, **settings) as server:
            with clients.connection(server.uri) as handle:
                same(clients.read_all(handle), content)
                handle.pwrite(b"fresh", 123)
        same(self.origin.read_bytes(), with_fresh(content))

    def assert_refused(self, says):
        for options in ((), ("-r",)):
            assert_refused(self.folder, self.words, [str(self.log), *says], options=options)


@pytest.fixture
def make_pair(folder):
    """Makes pairs, each in a folder of its own; their servers are killed at the end."""
    made = []

    def make(seed=1, dirty=True, **settings):
        """With dirty=None there is no log yet."""
        made.append(Pair(folder / f"pair{len(made)}", seed, **settings))
        if dirty is not None:
            made[-1].fill(dirty)
        return made[-1]

    yield make
    for pair in made:
        pair.destroy()


def assert_refused_until_discarded(pair, says, content=None):
    """Refused, whatever else is forced; with force=discard-log -r shows the bare origin and still changes nothing;
    then a writer makes a new log of it."""
    pair.assert_refused([*says, DISCARD_HINT])
    assert_refused(pair.folder, [*pair.words, "force=origin-changed"], [*says, DISCARD_HINT])
    content = content or pair.old
    warning = ["discarding what the log holds, as forced"]
    with unchanged(pair.folder):
        with pair.serve(check=False, options=["-r"], tolerate=warning, force="discard-log") as server:
            with clients.connection(server.uri) as handle:
                same(clients.read_all(handle), content)
    pair.assert_serves(content, force="discard-log", tolerate=warning)


def random_bytes(path):
    path.write_bytes(random.Random(5).randbytes(5 * MIB))


def file_system(path):
    path.write_bytes(bytes(8 * MIB))
    clients.run("mkfs.ext4", "-q", path)


def qemu_image(path):
    clients.qemu_img("create", "-q", "-f", "qcow2", path, "1G")
    with open(path, "r+b") as file:
        file.truncate(8 * MIB)


def byte_in_the_middle(path):
    path.write_bytes(bytes(8 * MIB))
    damage.patch(path, 5 * MIB + 4097, b"x")


def byte_in_a_hole(path):
    with open(path, "wb") as file:
        file.truncate(8 * MIB)
    damage.patch(path, 5 * MIB + 4097, b"x")


def last_byte(path):
    path.write_bytes(bytes(8 * MIB))
    damage.patch(path, 8 * MIB - 1, b"x")


NOT_OURS = ["not a wbcache log", UNTOUCHED, "another log", "blank"]


@pytest.mark.parametrize("fill", [random_bytes, byte_in_the_middle], ids=name_of)
def test_foreign_data_in_the_log(make_pair, fill):
    pair = make_pair(dirty=None)
    fill(pair.log)
    assert_refused_until_discarded(pair, NOT_OURS)


@pytest.mark.parametrize("fill", [file_system, qemu_image, byte_in_a_hole, last_byte], ids=name_of)
def test_more_foreign_data_in_the_log(make_pair, fill):
    pair = make_pair(dirty=None)
    fill(pair.log)
    pair.assert_refused([*NOT_OURS, DISCARD_HINT])


def test_foreign_data_on_a_log_device(make_pair):
    pair = make_pair(dirty=None)
    byte_in_the_middle(pair.log)
    with mounts.loop_device(pair.log) as device:
        words = [f"origin={pair.origin}", f"log={device}"]
        assert_refused(pair.folder, words, [device, "not a wbcache log", UNTOUCHED, DISCARD_HINT])


@pytest.mark.parametrize("slots", [(0,), (0, 1)], ids=str)
def test_newer_format(make_pair, slots):
    pair = make_pair()
    for slot in slots:
        damage.set_superblock_version(pair.log, slot, VERSION + 1)
    pair.assert_refused([f"format version {VERSION + 1}", f"up to version {VERSION}", "use the wbcache that wrote it"])
    assert_refused(pair.folder, [*pair.words, "force=origin-changed"], [f"format version {VERSION + 1}"])


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
@pytest.mark.parametrize("slot", [0, 1])
def test_one_damaged_superblock(make_pair, slot, dirty):
    """The other one is enough, and the next start writes both."""
    pair = make_pair(dirty=dirty)
    damage.damage_superblocks(pair.log, slot)
    with unchanged(pair.folder), pair.serve(options=["-r"]) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), pair.new)
    pair.assert_serves(pair.new)
    damage.damage_superblocks(pair.log, 1 - slot)
    pair.assert_serves(with_fresh(pair.new))


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
def test_both_superblocks_damaged(make_pair, dirty):
    pair = make_pair(dirty=dirty)
    damage.damage_superblocks(pair.log, 0, 1)
    assert_refused_until_discarded(pair, ["both superblocks", "damaged", UNTOUCHED, "restore the log"])


@pytest.mark.parametrize("size", [8 * MIB - 4096, MIB], ids=["a page", "seven MiB"])
def test_log_cut_short(make_pair, size):
    pair = make_pair()
    with open(pair.log, "r+b") as log:
        log.truncate(size)
    pair.assert_refused([f"{size} bytes", "cut short", "restore it"])


def test_log_that_grew(make_pair):
    """The part that is its own is as good as before."""
    pair = make_pair()
    with open(pair.log, "r+b") as log:
        log.truncate(9 * MIB)
    pair.assert_serves(pair.new)


def test_hole_in_the_durable_part(make_pair):
    pair = make_pair()
    _, second, *_ = damage.descriptor_offsets(pair.log)
    damage.flip_bit(pair.log, second + 200)
    says = [f"byte {second}", "is damaged at LSN", "lost", ALONE, UNTOUCHED, "restore the log"]
    assert_refused_until_discarded(pair, says)


def test_wiped_data_area(make_pair):
    """The superblocks alone are left, and one of them says how far the log went."""
    pair = make_pair()
    with pair.serve(**SETTINGS) as server, clients.connection(server.uri):
        server.kill()
    damage.patch(pair.log, DATA_START, bytes(8 * MIB - DATA_START))
    assert_refused_until_discarded(pair, ["damaged", "lost", UNTOUCHED, "restore the log"])


@pytest.mark.parametrize(("size", "dirty"), [(SIZE - 512, True), (SIZE // 2, True), (SIZE // 2, False)])
def test_origin_resized(make_pair, size, dirty):
    pair = make_pair(dirty=dirty)
    with open(pair.origin, "r+b") as origin:
        origin.truncate(size)
    says = ["belongs to origin", str(pair.origin), f"{SIZE} bytes", str(size), "resized", "wrong pair"]
    says += ["restore the old size", UNTOUCHED]
    assert_refused_until_discarded(pair, says, pair.origin.read_bytes())


def test_origin_of_the_old_size_again(make_pair):
    """Refused after it shrank; what was in the log is there when that was undone."""
    pair = make_pair()
    end = pair.origin.read_bytes()[-4096:]
    with open(pair.origin, "r+b") as origin:
        origin.truncate(SIZE - 4096)
    pair.assert_refused(["resized"])
    with open(pair.origin, "ab") as origin:
        origin.write(end)
    pair.assert_serves(pair.new)


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
@pytest.mark.parametrize("more", [512, 4096, SIZE])
def test_origin_that_grew(make_pair, more, dirty):
    """What is in the log is as valid as before; with -r nothing is changed."""
    pair = make_pair(dirty=dirty)
    with open(pair.origin, "r+b") as origin:
        origin.truncate(SIZE + more)
    grown = ["has grown from"]
    with unchanged(pair.folder), pair.serve(options=["-r"], tolerate=grown) as server:
        with clients.connection(server.uri) as handle:
            same(clients.read_all(handle), pair.new + bytes(more))
    pair.assert_serves(pair.new + bytes(more), tolerate=grown)
    pair.assert_serves(with_fresh(pair.new) + bytes(more))


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
def test_log_of_another_origin_of_another_size(make_pair, dirty):
    other = make_pair(2, size=2 * SIZE, dirty=dirty, name="other.img")
    pair = make_pair(dirty=None)
    other.log.rename(pair.log)
    says = [str(other.origin), f"{2 * SIZE} bytes", str(pair.origin), str(SIZE), "wrong pair", UNTOUCHED]
    assert_refused_until_discarded(pair, says)


def test_dirty_log_of_another_origin_of_the_same_size(make_pair):
    other = make_pair(2, name="other.img")
    pair = make_pair(dirty=None)
    other.log.rename(pair.log)
    says = [str(pair.origin), "at byte 0, 4096, 8192", "wrong pair", UNTOUCHED, CHANGED_HINT, DISCARD_HINT]
    pair.assert_refused(says)
    warning = ["discarding what the log holds, as forced"]
    pair.assert_serves(pair.old, force="discard-log", tolerate=warning)


def test_clean_log_of_another_origin_of_the_same_size(make_pair):
    other = make_pair(2, dirty=False, name="other.img")
    pair = make_pair(dirty=None)
    other.log.rename(pair.log)
    pair.assert_refused([str(other.origin), "another origin", "nothing is lost", DISCARD_HINT])
    pair.assert_serves(pair.old, force="discard-log", tolerate=["discarding what the log holds, as forced"])


def first_page(path):
    damage.patch(path, 1024, b"mounted")
    return 0


def last_page(path):
    damage.patch(path, SIZE - 1, b"x")
    return SIZE - 4096


def new_file_system(path):
    clients.run("mkfs.ext4", "-q", "-F", path)
    return 0


@pytest.mark.parametrize("change", [first_page, last_page, new_file_system], ids=name_of)
def test_origin_changed_behind_a_dirty_log(make_pair, change):
    """What it took in without its cache and what the log holds may not fit together: the user has to choose."""
    pair = make_pair()
    place = change(pair.origin)
    says = [str(pair.origin), "changed behind its cache", f"at byte {place}", UNTOUCHED, CHANGED_HINT, DISCARD_HINT]
    pair.assert_refused(says)
    merged = bytearray(pair.origin.read_bytes())
    first, end = PLACE - PLACE % 4096, (PLACE + MIB + 4095) // 4096 * 4096
    merged[first:end] = pair.new[first:end]
    warning = ["has changed since the cache last wrote to it: accepted"]
    with unchanged(pair.folder):
        with pair.serve(check=False, options=["-r"], tolerate=warning, force="origin-changed") as server:
            with clients.connection(server.uri) as handle:
                same(clients.read_all(handle), bytes(merged))
    pair.assert_refused(says)
    pair.assert_serves(bytes(merged), force="origin-changed", tolerate=warning)
    pair.assert_serves(with_fresh(bytes(merged)))


def test_discarding_the_log_of_a_changed_origin(make_pair):
    """The other choice: the origin as it is."""
    pair = make_pair()
    first_page(pair.origin)
    content = pair.origin.read_bytes()
    pair.assert_serves(content, force="discard-log", tolerate=["discarding what the log holds, as forced"])
    pair.assert_serves(with_fresh(content))


def test_origin_changed_behind_a_clean_log(make_pair):
    """Nothing can be lost: a warning, no refusal, and no older data from the log."""
    pair = make_pair(dirty=False)
    damage.patch(pair.origin, 0, b"mounted")
    damage.patch(pair.origin, PLACE, b"changed where the log has data of before")
    content = pair.origin.read_bytes()
    warning = ["has changed since the cache last wrote to it: accepted"]
    with unchanged(pair.folder):
        with pair.serve(check=False, options=["-r"], tolerate=warning) as server:
            with clients.connection(server.uri) as handle:
                same(clients.read_all(handle), content)
    pair.assert_serves(content, tolerate=warning)
    pair.assert_serves(with_fresh(content))


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
@pytest.mark.parametrize("force", ["discard-log", "origin-changed,discard-log"])
def test_force_on_a_sound_pair_changes_nothing(make_pair, force, dirty):
    pair = make_pair(dirty=dirty)
    with unchanged(pair.folder), pair.serve(options=["-r"], force=force) as server:
        with clients.connection(server.uri) as handle:
            same(clients.read_all(handle), pair.new)
    pair.assert_serves(pair.new, force=force)


def test_force_does_not_accept_a_device_that_cannot_be_opened(make_pair):
    pair = make_pair()
    pair.origin.rename(pair.folder / "hidden.img")
    words = [*pair.words, "force=origin-changed,discard-log"]
    assert_refused(pair.folder, words, [str(pair.origin), "No such file"])
