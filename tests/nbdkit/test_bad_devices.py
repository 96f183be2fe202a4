# SPDX-License-Identifier: BSD-3-Clause
"""Origins and logs that cannot be opened, can only be read, or are in use: refused, or served as far as that goes."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess

import nbd
import pytest

from tests.support import clients, mounts
from tests.support.nbdkit_server import PLUGIN, NbdkitServer
from tests.support.refusal import assert_refused, plugin_for_everybody, run_served, unchanged

MIB = 1 << 20
CONTENT = b"origin" * 1000
NOBODY = 65534
AS_NOBODY = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
READ_ONLY = ("-r",)


@pytest.fixture
def words(pair):
    """origin= and log= of an origin without a log."""
    pair.make_origin(4 * MIB, CONTENT)
    return [f"origin={pair.origin}", f"log={pair.log}", "log-size=4M"]


@contextlib.contextmanager
def immutable(path):
    """Not even root can write it."""
    clients.run("chattr", "+i", path)
    try:
        yield
    finally:
        clients.run("chattr", "-i", path)


@contextlib.contextmanager
def read_only_mount(path):
    """The file, or all in the folder, mounted over itself read-only."""
    clients.run("mount", "--bind", path, path)
    try:
        clients.run("mount", "-o", "remount,bind,ro", path)
        yield
    finally:
        clients.run("umount", path)


@contextlib.contextmanager
def read_only_loop_device(path):
    """Such a device can be opened for writing; only the writes fail."""
    device = clients.run("losetup", "--find", "--show", "--read-only", path).strip()
    try:
        yield device
    finally:
        clients.run("losetup", "--detach", device)


@contextlib.contextmanager
def locked(path):
    """As another server or tool holds it."""
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_dirty_pair(pair):
    """Data that only the log holds; returns what the volume is."""
    pair.make_origin(4 * MIB, CONTENT)
    data = bytes(range(256)) * 64
    with pair.serve(log_size="4M", destage_delay="1h") as server, clients.connection(server.uri) as handle:
        handle.pwrite(data, MIB + 77)
        handle.flush()
        server.kill()
    volume = bytearray(CONTENT.ljust(4 * MIB, b"\0"))
    volume[MIB + 77 : MIB + 77 + len(data)] = data
    return bytes(volume)


def assert_refused_to_nobody(pair, words, says, options):
    pair.folder.chmod(0o755)
    plugin = plugin_for_everybody(pair.folder)
    assert_refused(pair.folder, words, says, options=options, prefix=AS_NOBODY, plugin=plugin)


@pytest.mark.parametrize("options", [(), READ_ONLY], ids=["writable", "read-only"])
class TestOriginRefused:
    def test_missing(self, folder, options):
        words = [f"origin={folder}/nowhere.img", f"log={folder}/log"]
        assert_refused(folder, words, ["origin", "nowhere.img", "No such file", "check the path"], options=options)

    def test_dangling_link(self, folder, options):
        (folder / "link").symlink_to(folder / "nowhere.img")
        assert_refused(folder, [f"origin={folder}/link"], ["origin", "link", "No such file"], options=options)

    def test_folder(self, folder, options):
        (folder / "images").mkdir()
        words = [f"origin={folder}/images", f"log={folder}/log"]
        assert_refused(folder, words, ["origin", "images", "a folder", "block device or"], options=options)

    def test_neither_file_nor_device(self, folder, options):
        os.mkfifo(folder / "pipe")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket"))
            for path in (folder / "pipe", folder / "socket", "/dev/zero"):
                words = [f"origin={path}", f"log={folder}/log"]
                assert_refused(folder, words, [f"origin '{path}'", "neither a file nor"], options=options)

    @pytest.mark.parametrize(("size", "says"), [(0, "0 bytes"), (511, "511"), (4 * MIB + 513, "truncate -s %512")])
    def test_size(self, pair, options, size, says):
        pair.make_origin(size)
        words = [f"origin={pair.origin}", f"log={pair.log}"]
        assert_refused(pair.folder, words, ["origin", str(pair.origin), says], options=options)

    def test_unreadable(self, pair, words, options):
        pair.origin.chmod(0o222)
        says = ["origin", str(pair.origin), "Permission denied"]
        assert_refused_to_nobody(pair, words, says, options)

    def test_in_an_unreachable_folder(self, pair, words, options):
        hidden = pair.folder / "hidden"
        hidden.mkdir(0o700)
        words[0] = f"origin={shutil.move(pair.origin, hidden)}"
        assert_refused_to_nobody(pair, words, ["origin", str(hidden), "Permission denied"], options)

    def test_in_use(self, pair, words, options):
        with locked(pair.origin):
            assert_refused(pair.folder, words, ["origin", str(pair.origin), "in use", "stop"], options=options)

    def test_mounted_device(self, pair, words, options):
        clients.run("mkfs.ext4", "-q", pair.origin)
        with mounts.loop_device(pair.origin) as device, mounts.mounted(device, pair.folder):
            says = ["origin", device, "in use", "unmount"]
            assert_refused(pair.folder / "mounted", [f"origin={device}", words[1]], says, options=options)
        assert not pair.log.exists()

    def test_device_without_a_log(self, pair, words, options):
        with mounts.loop_device(pair.origin) as device:
            says = ["'log' is missing", "log=PATH"]
            assert_refused(pair.folder, [f"origin={device}"], says, options=options)


class TestOriginUriRefused:
    def test_without_a_log(self, folder):
        assert_refused(folder, [f"origin=nbd+unix:///?socket={folder}/none"], ["'log' is missing", "log=PATH"])

    def test_nobody_listens(self, folder):
        uri = f"nbd+unix:///?socket={folder}/none"
        assert_refused(folder, [f"origin={uri}", f"log={folder}/log"], ["origin", uri, "No such file"])

    def test_not_an_nbd_server(self, folder):
        """It takes connections and says nothing."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "silent.sock"))
            listener.listen()
            uri = f"nbd+unix:///?socket={folder}/silent.sock"
            words = [f"origin={uri}", f"log={folder}/log", "origin-connect-timeout=1s"]
            assert_refused(folder, words, ["origin", uri, "does not answer"])

    @pytest.mark.parametrize("uri", ["http://localhost/", "nbd+unix:///no-socket"])
    def test_no_nbd_uri(self, folder, uri):
        assert_refused(folder, [f"origin={uri}", f"log={folder}/log"], ["origin", uri, "not a usable NBD URI"])

    @pytest.mark.parametrize("size", [0, 700])
    def test_size(self, folder, size):
        server = NbdkitServer(folder, ["memory", size])
        try:
            says = ["origin", server.uri, f"{size} bytes"]
            assert_refused(folder, [f"origin={server.uri}", f"log={folder}/log"], says)
        finally:
            server.destroy()

    def test_read_only_server(self, folder):
        """Served read-only, as a file that cannot be written is."""
        server = NbdkitServer(folder, ["-r", "memory", 4 * MIB])
        try:
            words = [f"origin={server.uri}", f"log={folder}/log"]
            assert info(words)["is_read_only"] is True
            assert not (folder / "log").exists()
        finally:
            server.destroy()


@pytest.mark.parametrize("options", [(), READ_ONLY], ids=["writable", "read-only"])
class TestLogRefused:
    def test_in_a_missing_folder(self, folder, words, options):
        log = f"log={folder}/no/such/log"
        assert_refused(folder, [words[0], log], ["log", f"{folder}/no/such", "no folder"], options=options)

    def test_beside_a_file(self, folder, pair, words, options):
        log = f"log={pair.origin}/log"
        assert_refused(folder, [words[0], log], ["log", f"{pair.origin}/log"], options=options)

    def test_folder(self, folder, words, options):
        assert_refused(folder, [words[0], f"log={folder}"], ["log", f"'{folder}'", "a folder"], options=options)

    def test_dangling_link(self, folder, pair, words, options):
        pair.log.symlink_to(folder / "nowhere")
        assert_refused(folder, words, ["log", str(pair.log), "No such file"], options=options)

    def test_neither_file_nor_device(self, folder, words, options):
        assert_refused(folder, [words[0], "log=/dev/null"], ["log '/dev/null'", "neither a file nor"], options=options)

    @pytest.mark.parametrize("size", [1, 4096, 4 * MIB - 4096])
    def test_too_small(self, pair, words, options, size):
        pair.log.write_bytes(bytes(size))
        assert_refused(pair.folder, words, ["log", str(pair.log), str(size), "at least 4.0 MiB"], options=options)

    @pytest.mark.parametrize("kind", ["same", "symbolic link", "hard link", "other spelling"])
    def test_same_file_as_the_origin(self, pair, words, options, kind):
        name = pair.folder / "other"
        if kind == "same":
            name = pair.origin
        elif kind == "symbolic link":
            name.symlink_to(pair.origin)
        elif kind == "hard link":
            name.hardlink_to(pair.origin)
        else:
            name = pair.folder / ".." / pair.folder.name / pair.origin.name
        says = ["origin and log are the same", "another log"]
        assert_refused(pair.folder, [words[0], f"log={name}"], says, options=options)

    def test_same_device_as_the_origin(self, pair, words, options):
        with mounts.loop_device(pair.origin) as device:
            node = pair.folder / "node"
            os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
            says = ["origin and log are the same", "another log"]
            assert_refused(pair.folder, [f"origin={device}", f"log={node}"], says, options=options)
            node.unlink()

    def test_unreadable(self, pair, words, options):
        pair.log.write_bytes(bytes(4 * MIB))
        pair.log.chmod(0)
        assert_refused_to_nobody(pair, words, ["log", str(pair.log), "Permission denied"], options)

    def test_in_use(self, pair, words, options):
        pair.log.write_bytes(bytes(4 * MIB))
        with locked(pair.log):
            assert_refused(pair.folder, words, ["log", str(pair.log), "in use", "stop"], options=options)

    def test_mounted_device(self, pair, words, options):
        image = pair.folder / "image"
        image.write_bytes(bytes(16 * MIB))
        clients.run("mkfs.ext4", "-q", image)
        with mounts.loop_device(image) as device, mounts.mounted(device, pair.folder):
            says = ["log", device, "in use", "unmount"]
            assert_refused(pair.folder / "mounted", [words[0], f"log={device}"], says, options=options)


def info(words, **settings):
    """nbdinfo's answer from a one-off server."""
    output = run_served(words, "nbdinfo --json $uri", **settings)
    return json.loads(output[output.index("{") :])["exports"][0]


@pytest.mark.parametrize("part", ["origin", "log"])
@pytest.mark.parametrize("kind", ["immutable", "read-only mount", "other user", "read-only device"])
def test_what_can_only_be_read_is_served_read_only(pair, part, kind):
    """With what the log recovers, and without a change of a byte."""
    volume = make_dirty_pair(pair)
    path = getattr(pair, part)
    copy = pair.folder / "copy"
    with contextlib.ExitStack() as stack:
        user = {}
        if kind == "immutable":
            stack.enter_context(immutable(path))
        elif kind == "read-only mount":
            stack.enter_context(read_only_mount(path))
        elif kind == "other user":
            pair.folder.chmod(0o755)
            pair.origin.chmod(0o666)
            pair.log.chmod(0o666)
            path.chmod(0o644)
            user = {"prefix": AS_NOBODY, "plugin": plugin_for_everybody(pair.folder)}
            # What the killed server left in memory is for this user too, or the start is refused.
            words = [f"origin={pair.origin}", f"log={pair.log}"]
            assert_refused(pair.folder, words, ["Permission denied", "wbcache-", "it may hold"], **user)
            for ring in os.scandir(os.environ["WBCACHE_SHM"]):
                os.chown(ring.path, NOBODY, NOBODY)
        else:
            path = stack.enter_context(read_only_loop_device(path))
        paths = {"origin": pair.origin, "log": pair.log, part: path}
        words = [f"{name}={value}" for name, value in paths.items()]
        with unchanged(pair.folder):
            assert info(words, **user)["is_read_only"] is True
            found = run_served(words, "nbdcopy $uri - | sha256sum", **user)
    copy.write_bytes(volume)
    assert clients.run("sha256sum", copy).split()[0] in found


@pytest.mark.parametrize("options", [(), READ_ONLY], ids=["immutable", "read-only"])
def test_writes_to_a_read_only_export_fail(pair, options):
    """EPERM for each, also from a client that does not look at the flags, and nothing changes."""
    volume = make_dirty_pair(pair)
    with contextlib.ExitStack() as stack:
        if not options:
            stack.enter_context(immutable(pair.log))
        stack.enter_context(unchanged(pair.folder))
        server = stack.enter_context(pair.serve(check=False, tolerate=["invalid request"], options=options))
        with clients.connection(server.uri) as handle:
            handle.set_strict_mode(0)
            assert handle.is_read_only()
            for request in (
                lambda: handle.pwrite(b"x" * 4096, 0),
                lambda: handle.trim(4096, 0),
                lambda: handle.zero(4096, 0),
            ):
                with pytest.raises(nbd.Error) as caught:
                    request()
                assert caught.value.errno == "EPERM"
            handle.flush()
            assert clients.read_all(handle) == volume


@pytest.mark.parametrize("missing", ["log", "space"])
def test_log_that_cannot_be_made(pair, words, missing):
    """Nothing is created before a client may write, so it shows only then: that client finds a read-only volume, and
    the server's stderr says why. A client that only reads needs no log."""
    place = pair.folder / "logs"
    place.mkdir()
    pair.log = place / "cache.log"
    volume = CONTENT.ljust(4 * MIB, b"\0")
    with contextlib.ExitStack() as stack:
        if missing == "log":
            stack.enter_context(read_only_mount(place))
            settings, says, foretold = {}, "Read-only file system", 1
        else:
            settings, says, foretold = {"log_size": "4096T"}, "File too large", 0
        tolerate = ["served read-only: cannot create log"]
        with pair.serve(check=False, tolerate=tolerate, **settings) as server:
            for number in range(3):
                assert server.stderr_text().count("cannot create log") == foretold + number
                with clients.connection(server.uri) as handle:
                    assert handle.is_read_only()
                    assert clients.read_all(handle) == volume
                assert says in server.stderr_text()
            assert "File exists" not in server.stderr_text()
        with pair.serve(check=False, tolerate=tolerate, options=READ_ONLY, **settings) as server:
            with clients.connection(server.uri) as handle:
                assert clients.read_all(handle) == volume
        assert not list(place.iterdir())
    with pair.serve(log_size="4M") as server:
        clients.qemu_io(server.uri, "write -P 0x77 0 4096")


def test_block_devices_that_are_free(pair):
    """What is refused while mounted is served afterwards, log and origin alike."""
    image = pair.make_origin(4 * MIB, CONTENT)
    pair.log.write_bytes(bytes(8 * MIB))
    with mounts.loop_device(image) as origin, mounts.loop_device(pair.log) as log:
        pair.origin, pair.log = origin, log
        with pair.serve(on_exit="destage") as server:
            clients.qemu_io(server.uri, "write -P 0x77 4096 4096")
    assert image.read_bytes()[4096:8192] == b"\x77" * 4096


def test_nothing_is_needed_but_the_files(pair):
    """A pair that was moved to another folder, with the origin renamed, is the same pair."""
    volume = make_dirty_pair(pair)
    moved = pair.folder / "elsewhere"
    moved.mkdir()
    shutil.move(pair.origin, moved / "renamed.img")
    shutil.move(pair.log, moved / "renamed.log")
    pair.origin, pair.log = moved / "renamed.img", moved / "renamed.log"
    with pair.serve(on_exit="destage") as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == volume
    assert pair.origin.read_bytes() == volume


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_name_with_all_sorts_of_characters(folder, locale):
    """Names are bytes for the kernel: they work in every locale, and messages show them."""
    place = folder / "größe 100%s %n"
    place.mkdir()
    (place / "imäge,=x.img").write_bytes(CONTENT.ljust(4 * MIB, b"\0"))
    words = [f"origin={place}/imäge,=x.img", f"log={place}/lög", "log-size=4M"]
    prefix = ("env", f"LC_ALL={locale}")
    run_served(words, "qemu-io -f raw -c 'write -P 7 0 4096' -c flush $uri", prefix=prefix)
    assert (place / "lög").stat().st_size == 4 * MIB
    run_served(words, "qemu-io -f raw -c 'read -P 7 0 4096' $uri", prefix=prefix)
    says = [f"{place}/nirgends: ö.img", "No such file"]
    assert_refused(folder, [f"origin={place}/nirgends: ö.img", words[1]], says, prefix=prefix)


def test_in_the_background(pair, words):
    """Errors reach who started the server also when it is going to be a daemon."""
    words[1] = f"log={pair.folder}/no/such/log"
    command = ["nbdkit", "-U", pair.folder / "daemon.sock", "-P", pair.folder / "daemon.pid", "python", PLUGIN, *words]
    with unchanged(pair.folder):
        done = subprocess.run(
            [str(word) for word in command], env=clients.environment(), capture_output=True, text=True, timeout=20
        )
    assert done.returncode == 1, done.stderr
    assert "there is no folder" in done.stderr
    assert not (pair.folder / "daemon.pid").exists()
