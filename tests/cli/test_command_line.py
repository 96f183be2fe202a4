# SPDX-License-Identifier: BSD-3-Clause
"""The command as such: help, exit statuses, ways to start it, progress, and what it must not drag into the server."""

import os
import pty
import re
import subprocess
import time

import pytest

from tests.cli.history import History
from tests.support.clients import REPOSITORY
from tests.support.matching import same
from tests.support.nbdkit_server import NbdkitServer
from wbcache_core.errors import ConfigError
from wbcache_core.memory import moments
from wbcache_core.tools.progress import Progress, format_seconds

COMMANDS = "info check dump replay salvage diff rewind picture tag untag resolve history status".split()


def start(*words, **options):
    command = ["/usr/bin/python3", "-m", "wbcache_core", *map(str, words)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, **options)


def test_help_names_every_command_and_exit_status(wbcache):
    outcome = wbcache("--help")
    assert outcome.status == 0
    for word in (*COMMANDS, "exit status", "  0 ", "  1 ", "  2 ", "  130"):
        assert word in outcome.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(wbcache, command):
    outcome = wbcache(command, "--help")
    assert outcome.status == 0
    assert "LOG" in outcome.stdout or "SOCKET" in outcome.stdout or command == "plugin-path"


def test_the_manual_has_every_option(wbcache):
    manual = (REPOSITORY / "docs" / "wbcache.1").read_text().replace("\\-", "-")
    for command in COMMANDS:
        options = set(re.findall(r"--[a-z-]+", wbcache(command, "--help").stdout)) - {"--help"}
        missing = {option for option in options if option not in manual}
        assert not missing, command


@pytest.mark.parametrize(
    "words",
    [(), ("frob",), ("info",), ("info", "a", "b"), ("replay", "log"), ("salvage", "log", "origin", "--force=x")],
)
def test_what_makes_no_sense(wbcache, words):
    outcome = wbcache(*words)
    assert outcome.status == 2
    assert "usage:" in outcome.stderr


def test_as_a_module(tmp_path):
    log, _ = History("module", commits=2).save(tmp_path)
    process = start("info", log, stdout=subprocess.PIPE)
    assert b"dirty" in process.communicate()[0]
    assert process.returncode == 0


def test_nobody_reads_to_the_end(tmp_path):
    log, _ = History("pipe", commits=20, largest=120).save(tmp_path)
    process = start("dump", log, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_the_server_imports_nothing_of_it():
    code = (
        "import sys, wbcache_core.server.cache, wbcache_core.device.nbd_device; "
        "print([name for name in sys.modules if name.startswith('wbcache_core.')])"
    )
    loaded = subprocess.run(
        ["/usr/bin/python3", "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    assert "wbcache_core.server.cache" in loaded
    ours = ("wbcache_core.tools", "wbcache_core.log.survey", "wbcache_core.server.control.client")
    assert not [name for name in ours if f"'{name}" in loaded]


def test_an_origin_behind_nbd(wbcache, tmp_path):
    history = History("nbd", commits=6)
    history.damage_descriptor(history.segments()[3])
    log, origin = history.save(tmp_path)
    end = history.states[wbcache("salvage", "--json", log, origin).json["end_lsn"]]
    server = NbdkitServer(tmp_path, ["file", origin])
    try:
        assert wbcache("salvage", "--yes", log, server.uri).status == 0
        assert wbcache("check", log, "--origin", server.uri).status == 0
        assert wbcache("replay", log, server.uri).status == 0
    finally:
        server.destroy()
    same(origin.read_bytes(), end)


class Stream:
    def __init__(self, is_terminal):
        self.text = ""
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_bar_on_a_terminal(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = Stream(True)
    with Progress("destaging", 8 << 20, stream=stream) as progress:
        now[0] += 10
        progress.update(2 << 20)
        progress.advance(1)
    shown, cleared = stream.text.split("\x1b[K")[1:]
    assert shown.startswith("destaging [######..................]  25%  2.0 MiB of 8.0 MiB, 0:30 left")
    assert not cleared


def test_lines_elsewhere(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = Stream(False)
    with Progress("destaging", 100, str, stream) as progress:
        for _ in range(100):
            now[0] += 1
            progress.advance(1)
    assert stream.text.splitlines() == [
        "destaging: 30%  30 of 100, 1:10 left", "destaging: 60%  60 of 100, 0:40 left",
        "destaging: 90%  90 of 100, 0:10 left",
    ]  # fmt: skip


def test_seconds():
    assert [format_seconds(value) for value in (0.4, 75, 3675)] == ["0:00", "1:15", "1:01:15"]


def test_check_on_a_terminal(tmp_path):
    """The bar goes to stderr and is gone at the end."""
    log, _ = History("terminal", commits=20, largest=100).save(tmp_path)
    ours, theirs = pty.openpty()
    try:
        process = start("check", log, stdout=subprocess.PIPE, stderr=theirs)
        output = process.communicate()[0]
        assert process.returncode == 0
        assert b"is sound" in output
        os.write(theirs, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(ours, 100_000)
        assert shown.endswith(b"\r\x1b[Kend")
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("text", ["2026-11-22T12:24:33.123456Z", "2026-11-22T13:24:33.123456+01:00"])
def test_moments(text):
    assert moments.iso(moments.parse(text)) == "2026-11-22T12:24:33.123456Z"
    assert moments.words(moments.parse(text)) == "2026-11-22 12:24:33 UTC"


def test_a_moment_without_a_zone_is_local(monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    try:
        assert moments.iso(moments.parse("2026-11-22T12:00:00")) == "2026-11-22T09:00:00.000000Z"
        assert moments.iso(moments.parse("2026-11-22")) == "2026-11-21T21:00:00.000000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "now", "12:00", "2026-13-01", "0001-01-01T00:00:00+23:59"])
def test_what_is_no_moment(text):
    with pytest.raises(ConfigError):
        moments.parse(text)


def run_in_shell(line, *words):
    """Status and stderr of a shell line in which "$@" is the command."""
    command = ["/usr/bin/python3", "-m", "wbcache_core", *map(str, words)]
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", "bash", *command],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [["info"], ["dump"], ["--help"], ["env", "PYTHONUNBUFFERED=1", "dump"]], ids=" ".join
)
def test_output_that_cannot_be_written(tmp_path, words):
    log, _ = History("full", commits=20, largest=40).save(tmp_path)
    *prefix, command = words
    line = f'{" ".join(prefix)} "$@"'
    words = [command] if command == "--help" else [command, log]
    for stdout, reason in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        assert run_in_shell(f"{line} {stdout}", *words) == (2, f"wbcache: cannot write the output: {reason}\n")
    assert run_in_shell(f"{line} | true", *words)[0] in (0, 141)


def test_errors_that_nobody_can_see(tmp_path):
    """The status stays what it is."""
    for stderr in ("2>/dev/full", "2>&-", "2>&- <&-"):
        assert run_in_shell(f'"$@" {stderr}', "info", tmp_path / "none") == (2, "")
        assert run_in_shell(f'"$@" {stderr}', "info")[0] == 2


def test_names_that_are_not_utf8(tmp_path):
    log, _ = History("bytes", commits=2).save(tmp_path)
    odd = os.path.join(os.fsencode(tmp_path), b"log-\xff")
    os.rename(log, odd)
    command = [b"/usr/bin/python3", b"-m", b"wbcache_core", b"info", odd]
    strict = dict(os.environ, PYTHONIOENCODING="utf-8:strict")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, env=strict, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_file_uris(wbcache, tmp_path):
    history = History("uri", commits=6)
    folder = tmp_path / "a b%"
    folder.mkdir()
    log, origin = history.save(folder)
    log_uri, origin_uri = (f"file://{str(path).replace('%', '%25').replace(' ', '%20')}" for path in (log, origin))
    assert wbcache("info", log_uri).status == 0
    assert wbcache("tag", log_uri, "name").status == 0
    assert wbcache("replay", log_uri, origin_uri.replace("file://", "file://localhost")).status == 0
    same(origin.read_bytes(), history.model)
    for uri in ("file://elsewhere/x", "file:///x?y", "file:///", "file:///%00"):
        outcome = wbcache("info", uri)
        assert outcome.status == 2
        assert uri in outcome.stderr


def test_a_path_that_looks_like_a_uri(wbcache, tmp_path, monkeypatch):
    history = History("like a URI", commits=6)
    (tmp_path / "nbd:").mkdir()
    log, origin = history.save(tmp_path / "nbd:")
    monkeypatch.chdir(tmp_path)
    assert wbcache("replay", f"nbd://{log.name}", f"nbd://{origin.name}").status == 0
    same(origin.read_bytes(), history.model)
