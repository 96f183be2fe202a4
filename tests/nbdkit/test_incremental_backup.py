# SPDX-License-Identifier: BSD-3-Clause
"""Exports @A..B and `wbcache diff SOCKET A B`: backups of what changed, taken while the volume is in use, and restored
by the tools that people have."""

import json
import random
import re
import threading
import time

import nbd
import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from tests.support.matching import same

MIB = 1 << 20
PAGE = 4096
SIZE = 24 * MIB
BUSY = {
    "destage_delay": "0", "low_watermark": "1", "history_full": "hold", "log_size": "256M", "commit_interval": "20ms",
}  # fmt: skip
KEEP = {"history": "1h", "log_size": "64M"}


def uri_of(server, name):
    return f"nbd+unix:///@{name}?socket={server.socket}"


class Load(threading.Thread):
    """Writes, trims and zeroes at random in the first half of the volume, with requests on every side of a page's
    bounds, until it is over."""

    def __init__(self, server, seed):
        super().__init__()
        self._uri, self._random = server.uri, random.Random(seed)
        self.count, self.error = 0, None
        self._over = threading.Event()
        self.start()

    def run(self):
        try:
            with clients.connection(self._uri) as handle:
                while not self._over.is_set():
                    self._request(handle)
                    self.count += 1
                    time.sleep(0.004)
        except nbd.Error as error:
            self.error = error

    def _request(self, handle):
        choose = self._random
        offset = choose.randrange(SIZE // 2)
        count = choose.choice((1, 700, 4096, 9000, 60_000))
        if choose.random() < 0.5:
            offset -= offset % PAGE
        kind = choose.random()
        if kind < 0.7:
            handle.pwrite(choose.randbytes(count), offset)
        elif kind < 0.85:
            handle.trim(count, offset)
        else:
            handle.zero(count, offset)

    def end(self):
        self._over.set()
        self.join(60)
        assert not self.is_alive() and self.error is None, self.error


class Loads:
    """Two of them, in a `with`."""

    def __init__(self, server, seed):
        self._server, self._seed = server, seed

    def __enter__(self):
        self._running = [Load(self._server, f"{self._seed} {number}") for number in range(2)]
        return self

    def __exit__(self, *_):
        for load in self._running:
            load.end()

    def go_on(self, count=60):
        """Return when each has done so many more requests."""
        before = [load.count for load in self._running]
        wait_until(lambda: all(load.count >= was + count for load, was in zip(self._running, before, strict=True)))


def changed(server, name):
    """What nbdinfo shows: (offset, length) of what is data. Everything else is a hole and not zero."""
    entries = json.loads(clients.run("nbdinfo", "--json", "--map", uri_of(server, name)))
    assert {entry["type"] for entry in entries} <= {0, 1}
    return [(entry["offset"], entry["length"]) for entry in entries if entry["type"] == 0]


def back_up(server, name, base, folder):
    """An incremental backup that qemu-img makes of what is not a hole, on top of an earlier one."""
    target = folder / f"{name}.qcow2"
    form = "qcow2" if base.suffix == ".qcow2" else "raw"
    clients.qemu_img("convert", "-f", "raw", "-O", "qcow2", "-B", base, "-F", form, uri_of(server, name), target)
    return target


def restored(backup, folder):
    """The volume as of a backup, from it and those below it."""
    target = folder / "restored.img"
    clients.qemu_img("convert", "-O", "raw", backup, target)
    return target.read_bytes()


def copied(server, name, folder):
    target = folder / f"copy of {name}"
    clients.nbdcopy(uri_of(server, name), target)
    return target


@pytest.mark.parametrize("between", ["running", "killed"])
def test_a_volume_under_load_with_its_server_killed_or_not(pair, folder, control, between):
    """Three backups. Each, restored, is what nbdcopy copies of that moment, byte for byte; so is the copy before with
    what `wbcache diff` lists. In between the origin follows from tag to tag."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    pair.make_origin(SIZE, random.Random(seed).randbytes(SIZE - MIB))
    server, backup, full, before = pair.start(control=control, **BUSY), None, None, None
    for number, tag in enumerate(("first", "second", "third")):
        with Loads(server, f"{seed} {number}") as loads:
            loads.go_on()
            assert wbcache("tag", control, tag)[0] == 0
            loads.go_on(20)
            if backup is None:
                backup = full = copied(server, tag, folder)
            else:
                assert changed(server, f"{before}..{tag}")
                backup = back_up(server, f"{before}..{tag}", backup, folder)
                found = restored(backup, folder)
                earlier, full = full, copied(server, tag, folder)
                same(found, full.read_bytes())
                as_listed(server, control, before, tag, earlier, full)
                same(copied(server, f"{before}..{tag}", folder).read_bytes(), full.read_bytes())
                assert wbcache("untag", control, before)[0] == 0
                ends = {one["name"]: one["end_lsn"] for one in ask(control, "status")["tags"]}
                wait_until(lambda end=ends[tag]: ask(control, "status")["cursors"]["destaged"] == end)
        before = tag
        if between == "killed" and number == 0:
            server.kill()
            server = pair.start(control=control, **BUSY)
    # The last one is small: half of the volume was never written to.
    assert backup.stat().st_size < SIZE
    server.stop()
    pair.check()


def as_listed(server, control, before, tag, earlier, full):
    status, text, errors = wbcache("diff", "--json", control, before, tag)
    assert (status, errors) == (0, "")
    content, expected = bytearray(earlier.read_bytes()), full.read_bytes()
    for entry in json.loads(text):
        start, end = entry["start"], entry["start"] + entry["length"]
        content[start:end] = bytes(end - start) if entry["zero"] else expected[start:end]
    same(content, expected)
    in_export = changed(server, f"{before}..{tag}")
    assert sum(entry["length"] for entry in json.loads(text)) == sum(length for _, length in in_export)


def made(pair, control, **parameters):
    """A server with three generations, of which the last is 'now'."""
    pair.make_origin(2 * MIB, b"o" * MIB)
    server = pair.start(control=control, **{**KEEP, **parameters})
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * 65536, 0)
        handle.flush()
        handle.pwrite(b"b" * PAGE, PAGE)
        handle.zero(PAGE, 4 * PAGE)
        handle.trim(MIB, MIB)
        handle.flush()
        handle.pwrite(b"c" * PAGE, 20 * PAGE)
        handle.flush()
    return server


def test_what_a_client_sees_of_it(pair, folder, control):
    server = made(pair, control)
    shown = clients.nbdinfo(uri_of(server, "1..2"))
    offered = {name for name, value in shown.items() if name.startswith("can_") and value}
    assert offered == {"can_cache", "can_df", "can_multi_conn"} and shown["is_read_only"] is True
    assert re.fullmatch(
        r"generation 2 \(.*\); what has not changed since generation 1 \(.*\) is a hole", shown["description"]
    )
    assert changed(server, "1..2") == [(PAGE, PAGE), (4 * PAGE, PAGE), (MIB, MIB)]
    assert changed(server, "2..2") == []
    with clients.connection(uri_of(server, "1..2")) as handle:
        assert handle.pread(3 * PAGE, 0) == b"a" * PAGE + b"b" * PAGE + b"a" * PAGE
        assert handle.pread(2 * PAGE, 4 * PAGE) == bytes(PAGE) + b"a" * PAGE
        with pytest.raises(nbd.Error):
            handle.pwrite(b"x" * 512, 0)
    assert ".." not in clients.run("nbdinfo", "--list", server.uri)
    # Nothing that has no copy of the earlier moment may leave anything out.
    same(copied(server, "1..2", folder).read_bytes(), copied(server, "2", folder).read_bytes())
    clients.qemu_img("convert", "-f", "raw", "-O", "raw", uri_of(server, "1..2"), folder / "whole.img")
    same((folder / "whole.img").read_bytes(), (folder / "copy of 2").read_bytes())
    server.stop()


def test_merged_into_a_copy_with_qemu_img(pair, folder, control):
    """The backup is committed into the copy that it is based on."""
    server = made(pair, control)
    base = copied(server, "1", folder)
    backup = back_up(server, "1..3", base, folder)
    clients.qemu_img("commit", backup)
    same(base.read_bytes(), copied(server, "3", folder).read_bytes())
    server.stop()


def test_what_cannot_be_opened_says_why(pair, control):
    server = made(pair, control)
    reasons = {
        "2..1": r"generation 2 .* is later than generation 1 .*open '@1..2'",
        "1..7": "'7' is outside the window; the log covers generation 0",
        "no..2": "there is no tag 'no'",
        "1..last-flush": "open '@1..3' instead",
        "-1s..": "'' is not a moment",
    }
    for name, reason in reasons.items():
        with pytest.raises(nbd.Error), clients.connection(uri_of(server, name)):
            pass
        assert re.search(reason, server.stderr_text())
    assert ask(control, "status")["snapshots"] == []
    server.stop()
    server.assert_clean(reasons.values())


def test_a_moment_that_gives_way_ends_the_copy_with_an_error(pair, folder, control):
    """history-full=drop, and a log of which little is left: EIO, and never data of another moment."""
    server = made(pair, control, history="off", log_size="8M")
    newest = ask(control, "status")["window"]["newest"]["generation"]
    with clients.connection(uri_of(server, f"{newest}..{newest}")) as past, clients.connection(server.uri) as handle:
        for _ in range(40):
            handle.pwrite(b"f" * MIB, 0)
        with pytest.raises(nbd.Error) as failure:
            past.pread(PAGE, 0)
        assert failure.value.errno == "EIO"
        with pytest.raises(nbd.Error) as failure:
            past.block_status(PAGE, 0, lambda *_: 0)
    server.stop()
    server.assert_clean(["has ended"])


def test_the_list_is_that_of_the_log_itself(pair, control):
    """In both directions, and as text too."""
    server = made(pair, control)
    live = {
        words: wbcache("diff", control, *words)
        for words in (("1", "3"), ("3", "1"), ("0", "last-flush", "--json"), ("2", "2", "--json"))
    }  # fmt: skip
    assert wbcache("resolve", control, "1..last-flush") == (0, "@1..3\n", "")
    server.stop()
    for words, outcome in live.items():
        assert wbcache("diff", pair.log, *words) == outcome and outcome[0] == 0, words
    assert wbcache("resolve", pair.log, "-1h..2")[0] == 2
    assert wbcache("resolve", pair.log, "1..last-flush") == (0, "@1..3\n", "")


def test_what_the_command_refuses(pair, folder, control):
    server = made(pair, control)
    for words, said in (
        (("1", "9"), "wbcache: '9' is outside the window; the log covers generation 0"),
        (("-3d", "2"), "wbcache: '-3d' is outside the window"),
        (("1", "2", "--raw", folder / "raw"), f"wbcache: '{control}' is the socket of a running server, which has its "
         "origin and gives a list only: leave out --raw; for the data, copy the export '@1..2'"),
        (("1", "2", "--origin", folder / "o"), "leave out --origin"),
    ):  # fmt: skip
        status, text, errors = wbcache("diff", control, *words)
        assert (status, text) == (2, "") and said in errors
    assert ask(control, "diff", start="1")["error"] == "'diff' needs the field 'end'"
    assert "'offset' has to be 0 or more" in ask(control, "diff", start="1", end="2", offset=-1)["error"]
    assert ask(control, "diff", start="1", end="2", offset=10**18)["extents"] == []
    server.stop()


def test_a_long_list_comes_in_pages(pair, control):
    """What is still in the ring is in it, because it is committed first."""
    pair.make_origin(128 * MIB)
    server = pair.start(control=control, commit_interval="1h", **KEEP)
    with clients.connection(server.uri) as handle:
        for block in range(0, 9000, 2):
            handle.pwrite(b"x" * PAGE, block * PAGE)
        status, text, errors = wbcache("diff", "--json", control, "0", "last-flush")
    assert (status, errors) == (0, "")
    assert [one["start"] // PAGE for one in json.loads(text)] == list(range(0, 9000, 2))
    assert ask(control, "status")["snapshots"] == []
    newest = str(ask(control, "status")["window"]["newest"]["generation"])
    assert changed(server, f"0..{newest}") == [(block * PAGE, PAGE) for block in range(0, 9000, 2)]
    first = ask(control, "diff", start="0", end=newest)
    assert len(json.dumps(first)) < 200_000 and first["next"] == 4000 * PAGE
    assert [one["opened"] for one in ask(control, "status")["snapshots"]] == [1, 1]
    assert ask(control, "diff", start="0", end=newest, offset=9000 * PAGE)["next"] is None
    assert ask(control, "status")["snapshots"] == []
    server.stop()
