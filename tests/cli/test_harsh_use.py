# SPDX-License-Identifier: BSD-3-Clause
"""Every sub-command under conditions that nobody plans for: output that goes nowhere, odd names, no room, no folder."""

import os
import subprocess

import pytest

from tests.cli.history import History
from tests.support.clients import REPOSITORY
from tests.support.faulty_devices import small_file_system
from tests.support.matching import same

COMMANDS = {
    "info": "info LOG",
    "check": "check LOG --origin ORIGIN",
    "dump": "dump LOG",
    "diff": "diff LOG 1 last-flush --origin ORIGIN",
    "diff --raw": "diff LOG 1 last-flush --origin ORIGIN --raw NEW",
    "replay": "replay LOG ORIGIN",
    "replay --to": "replay LOG ORIGIN --to NEW",
    "salvage": "salvage LOG ORIGIN",
    "salvage --yes": "salvage LOG ORIGIN --yes",
    "rewind": "rewind LOG 5 --origin ORIGIN",
    "picture": "picture LOG NEW.png",
    "tag": "tag LOG name",
    "untag": "untag LOG none",
    "resolve": "resolve LOG last-flush",
    "history": "history LOG",
    "status": "status NONE",
    "give-up": "give-up NONE 0 4096",
    "plugin-path": "plugin-path",
}
MAKES = ("diff --raw", "replay --to", "picture")


@pytest.fixture
def history(tmp_path):
    return History("harsh use", commits=8)


@pytest.fixture
def names(history, tmp_path):
    log, origin = history.save(tmp_path)
    return {
        "LOG": log, "ORIGIN": origin, "NEW": tmp_path / "new", "NEW.png": tmp_path / "new.png",
        "NONE": tmp_path / "none",
    }  # fmt: skip


def words_of(command, names):
    return [names.get(word, word) for word in COMMANDS[command].split()]


def run_in_shell(line, words):
    """Status, stdout and stderr of a shell line in which "$@" is the command."""
    command = ["/usr/bin/python3", "-m", "wbcache_core", *map(str, words)]
    done = subprocess.run(
        ["bash", "-c", line, "bash", *command], capture_output=True, text=True, errors="replace", check=False,
        timeout=60, env=dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1"),
    )  # fmt: skip
    for sign in ("Traceback", "Exception", "Errno"):
        assert sign not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_goes_nowhere(command, names):
    """Nothing needs stdin; a stdout that is full has a status of its own."""
    status, said, _ = run_in_shell('"$@" <&-', words_of(command, names))
    fails = command in ("untag", "status", "give-up")
    assert status == (2 if fails else 0)
    for new in ("NEW", "NEW.png"):
        names[new].unlink(missing_ok=True)
    if command == "tag":
        run_in_shell('"$@"', ["untag", names["LOG"], "name"])
    if said:
        full = 2, "", "wbcache: cannot write the output: No space left on device\n"
        assert run_in_shell('"$@" >/dev/full <&-', words_of(command, names)) == full


def test_what_is_wrong_with_the_words_when_nobody_reads_it():
    """As an error in anything else: the status stays what it is."""
    assert run_in_shell('"$@" 2> >(exec 0<&-; sleep 0.5)', ["info"])[0] == 2
    script = 'exec 3> >(exec <&-); wait $!; sleep 0.1; "$@" 2>&3'
    assert run_in_shell(script, ["info"])[0] == 2
    assert run_in_shell(script, ["info", "/none"])[0] == 2


@pytest.mark.parametrize(
    "line",
    [
        "info @", "check @", "check LOG --origin @", "dump @", "diff LOG 1 2 --origin @", "diff LOG 1 2 --raw @",
        "replay @ ORIGIN", "replay LOG @", "replay LOG ORIGIN --to @", "salvage LOG @", "rewind LOG 5 --origin @",
        "picture LOG @", "tag @ name", "untag @ name", "resolve @ 1", "history @", "status @", "give-up @ 0 4096",
    ],
)  # fmt: skip
def test_an_empty_name_is_refused(wbcache, names, line):
    """As an unset variable in a script makes it: it is not as if nothing had been said."""
    before = {name: names[name].read_bytes() for name in ("LOG", "ORIGIN")}
    words = ["" if word == "@" else names.get(word, word) for word in line.split()]
    outcome = wbcache(*words)
    assert outcome.status == 2
    assert "empty" in outcome.stderr
    assert not outcome.stdout
    assert before == {name: names[name].read_bytes() for name in before}


@pytest.mark.parametrize("command", ["diff --raw", "replay --to"])
def test_a_new_file_is_not_called_dash(wbcache, names, tmp_path, monkeypatch, command):
    """It would be one of that name, and not standard output."""
    monkeypatch.chdir(tmp_path)
    outcome = wbcache(*words_of(command, names | {"NEW": "-"}))
    assert outcome.status == 2
    assert "./-" in outcome.stderr
    assert wbcache(*words_of(command, names | {"NEW": "./-"})).status == 0
    assert (tmp_path / "-").exists()


@pytest.mark.parametrize("option", ["info", "--origin"])
def test_a_file_without_a_size(wbcache, names, option):
    """A regular file, says stat()."""
    words = ["info", "/proc/self/mem"] if option == "info" else ["check", names["LOG"], "--origin", "/proc/self/mem"]
    outcome = wbcache(*words)
    assert outcome.status == 2
    assert "'/proc/self/mem'" in outcome.stderr
    assert "Invalid argument" in outcome.stderr


def test_names_do_not_reach_the_terminal_as_commands(wbcache, tmp_path):
    """Neither in a refusal nor in what info shows of a log."""
    odd = tmp_path / "a\x1b[31m\rb\x07\x7f\x9b"
    outcome = wbcache("info", odd)
    assert outcome.status == 2
    assert r"a\x1b[31m\rb\x07\x7f\x9b" in outcome.stderr
    odd.mkdir()
    log, origin = History("odd", commits=3).save(odd)
    shown = wbcache("info", log)
    assert shown.status == 0
    checked = wbcache("check", log, "--origin", origin)
    assert checked.status == 0
    for text in (outcome.stderr, shown.stdout, checked.stdout):
        assert not {one for one in text if not one.isprintable()} - {"\n", "\t"}


@pytest.mark.parametrize("words", ["info log", "replay log origin", "check log --origin nbd+unix:///?socket=s"])
def test_the_working_directory_is_gone(tmp_path, words):
    gone = tmp_path / "gone"
    gone.mkdir()
    status, _, said = run_in_shell(f'cd "{gone}"; rmdir "{gone}"; "$@"', words.split())
    assert status == 2
    assert "log'" in said or "origin" in said
    assert "absolute path" in said or "check the path" in said


@pytest.mark.parametrize("command", MAKES)
def test_a_full_disk_leaves_no_part_of_a_new_file(wbcache, names, tmp_path, command):
    with small_file_system(tmp_path, "1M") as small:
        small.fill_up()
        before = sorted(small.path.iterdir())
        new = {"NEW": small.path / "new", "NEW.png": small.path / "new.png"}
        outcome = wbcache(*words_of(command, names | new))
        assert outcome.status in (1, 2)
        assert "No space left on device" in outcome.stderr
        assert "salvage" not in outcome.stderr, "there is no damage"
        assert sorted(small.path.iterdir()) == before


@pytest.mark.parametrize("which", ["log", "origin"])
def test_a_full_disk_holds_replay_up_and_harms_nothing(wbcache, history, names, tmp_path, which):
    """Both files are sparse, on a file system that is full; with room the same command does it."""
    with small_file_system(tmp_path, "32M") as small:
        path = small.path / which
        content = history.log if which == "log" else bytes(len(history.origin))
        with open(path, "wb") as file:
            for start in range(0, len(content), 4096):
                if any(content[start : start + 4096]):
                    file.seek(start)
                    file.write(content[start : start + 4096])
            file.truncate(len(content))
        names[which.upper()] = path
        words = [*words_of("replay", names), "--force=origin-changed,origin-moved,other-log"]
        small.fill_up()
        outcome = wbcache(*words)
        assert outcome.status == 1
        assert "No space left on device" in outcome.stderr
        small.make_room()
        assert wbcache(*words).status == 0
        if which == "log":
            same(names["ORIGIN"].read_bytes(), bytes(history.model))
