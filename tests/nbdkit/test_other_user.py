# SPDX-License-Identifier: BSD-3-Clause
"""`nbdkit -u`: opened and recovered as root, served as a user who may not make the log."""

import os

import nbd
import pytest

from tests.support import clients
from tests.support.gated_origin import wait_until
from tests.support.refusal import plugin_for_everybody, unchanged

MIB = 1 << 20
NOBODY = 65534
AS_NOBODY = {"options": ("-u", "nobody"), "log_size": "4M", "on_exit": "destage"}
CONTENT = b"origin" * 1000
ADVICE = ("cannot create log", "Permission denied", "'nobody'", "chown", "beforehand", "log=", "read-only")
TOLERATED = ["served read-only: cannot create log", "write request on readonly connection"]


@pytest.fixture
def served(pair):
    """The pair, with an origin that nobody may write and a folder for the log that only root may write."""
    pair.make_origin(4 * MIB, CONTENT)
    pair.origin.chmod(0o666)
    pair.folder.chmod(0o777)  # for the pid file
    pair.plugin = plugin_for_everybody(pair.folder)
    (pair.folder / "logs").mkdir(mode=0o755)
    pair.log = pair.folder / "logs" / "cache.log"
    return pair


def refusal_of(*command):
    """What a client says that wants to write and may not."""
    with pytest.raises(AssertionError) as caught:
        clients.run(*command)
    return str(caught.value)


def test_it_is_said_at_the_start(served):
    """Before any client; what is wrong, where, for whom, and what to do."""
    with served.serve(check=False, tolerate=TOLERATED, **AS_NOBODY) as server:
        # The pid file, for which serve() waits, comes a moment before.
        wait_until(lambda: "cannot create log" in server.stderr_text())
        said = server.stderr_text()
    assert not [words for words in (*ADVICE, str(served.log)) if words not in said], said
    assert server.stderr_text().count("cannot create log") == 1


def test_who_wants_to_write_hears_why(served):
    """Each kind of client says that it may not write, nbdinfo says why, and so does the server for each client."""
    image = served.folder / "image"
    image.write_bytes(bytes(4 * MIB))
    with unchanged(served.folder / "logs"), served.serve(check=False, tolerate=TOLERATED, **AS_NOBODY) as server:
        wait_until(lambda: "cannot create log" in server.stderr_text())
        foretold = server.stderr_text()
        assert "read-only" in refusal_of("nbdcopy", image, server.uri)
        assert "Permission denied" in refusal_of("qemu-io", "-f", "raw", "-c", "write 0 4096", server.uri)
        said = server.stderr_text().removeprefix(foretold)
        assert not [words for words in (*ADVICE, str(served.log)) if words not in said], said
        found = clients.nbdinfo(server.uri)
        assert found["is_read_only"] is True
        assert not [words for words in ADVICE if words not in found["description"]], found
        with clients.connection(server.uri) as handle:
            handle.set_strict_mode(0)
            with pytest.raises(nbd.Error) as caught:
                handle.pwrite(b"x" * 4096, 0)
            assert caught.value.errno == "EPERM"


def test_who_only_reads_is_served(served):
    volume = CONTENT.ljust(4 * MIB, b"\0")
    with served.serve(check=False, tolerate=TOLERATED, **AS_NOBODY) as server:
        with clients.connection(server.uri) as handle:
            assert clients.read_all(handle) == volume
    as_nobody = dict(AS_NOBODY, options=("-r", *AS_NOBODY["options"]))
    with served.serve(check=False, tolerate=TOLERATED, **as_nobody) as server:
        with clients.connection(server.uri) as handle:
            assert clients.read_all(handle) == volume
    with served.serve(check=False, tolerate=TOLERATED, filters=["cow"], **AS_NOBODY) as server:
        clients.qemu_io(server.uri, "write -P 0x77 0 4096", "read -P 0x77 0 4096")
    assert not list((served.folder / "logs").iterdir())
    assert served.origin.read_bytes() == volume


def test_the_advice_helps(served):
    """Each of the three, the first one without another start."""
    with served.serve(tolerate=TOLERATED, **AS_NOBODY) as server:
        assert clients.nbdinfo(server.uri)["is_read_only"] is True
        os.chown(served.log.parent, NOBODY, NOBODY)
        clients.qemu_io(server.uri, "write -P 1 0 4096")
    assert served.log.stat().st_uid == NOBODY
    served.log.unlink()
    os.chown(served.log.parent, 0, 0)
    clients.run("install", "-o", "nobody", "-m", "600", "/dev/null", served.log)
    with served.serve(tolerate=TOLERATED, **AS_NOBODY) as server:
        assert "cannot create log" not in server.stderr_text()
        clients.qemu_io(server.uri, "write -P 2 0 4096")
    assert served.log.stat().st_size == 4 * MIB
    (served.folder / "theirs").mkdir()
    os.chown(served.folder / "theirs", NOBODY, NOBODY)
    served.log = served.folder / "theirs" / "cache.log"
    with served.serve(tolerate=TOLERATED, **AS_NOBODY) as server:
        clients.qemu_io(server.uri, "write -P 3 0 4096")


def test_where_writers_cannot_be_let_in_nothing_is_foretold(served):
    """A volume that is read-only anyway, and a log that exists."""
    served.origin.chmod(0o444)
    clients.run("chattr", "+i", served.origin)
    try:
        with served.serve(check=False, **AS_NOBODY) as server:
            assert clients.nbdinfo(server.uri)["is_read_only"] is True
    finally:
        clients.run("chattr", "-i", served.origin)
