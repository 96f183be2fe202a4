# SPDX-License-Identifier: BSD-3-Clause
"""What the packages say about the command and the version, against the command and the version."""

import argparse
import shutil
import subprocess

import pytest

from tests.support.clients import REPOSITORY
from wbcache_core import __version__
from wbcache_core.tools.main import build_parser

PACKAGING = REPOSITORY / "packaging"
PARSER = build_parser()
(COMMANDS,) = (action.choices for action in PARSER._actions if isinstance(action, argparse._SubParsersAction))


def completions(*words):
    """What bash offers in place of the last word."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _wbcache; '
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    command = ["bash", "--norc", "-euc", script, "bash", PACKAGING / "completion" / "wbcache", "wbcache", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split()


def long_options(parser):
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


def test_every_command_is_completed():
    assert set(completions("")) == set(COMMANDS) | long_options(PARSER)
    assert completions("--verbose", "inf") == ["info"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_completed(command):
    assert set(completions(command, "-")) == long_options(COMMANDS[command])


def test_files_are_left_to_bash():
    assert completions("check", "/dev/nv") == []
    assert completions("-v", "replay", "log", "--t") == ["--to"]


def test_the_debian_package_has_the_version_of_the_core():
    first_line = (PACKAGING / "debian" / "changelog").read_text().splitlines()[0]
    assert first_line.startswith(f"wbcache ({__version__}) ")


def test_the_help_in_nbdkit_names_parameters_that_exist():
    script = (PACKAGING / "nbdkit-wbcache-plugin").read_text()
    help_text = script.split("<<'HELP'", 1)[1].split("HELP", 1)[0]
    names = [line.split("=")[0] for line in help_text.splitlines() if "=" in line.split(" ")[0]]
    assert {"origin", "log"} <= set(names)
    manual = (REPOSITORY / "docs" / "nbdkit-wbcache-plugin.1").read_text().replace("\\-", "-")
    assert not [name for name in names if f"{name}=" not in manual]


@pytest.mark.parametrize(
    ("words", "status"), [((), 7), (("dist",), 7), (("--suffix", "+1"), 7), (("-x",), 2), (("--suffix",), 2)]
)
def test_build_deb_takes_a_folder_or_none(tmp_path, words, status):
    """Up to where it installs what it needs, which ends it here with 7."""
    for folder in ("packaging", "examples"):
        (tmp_path / folder).mkdir()
    shutil.copy(PACKAGING / "build-deb", tmp_path / "packaging")
    installing = tmp_path / "examples" / "install-packages.sh"
    installing.write_text("#!/bin/sh\nexit 7\n")
    installing.chmod(0o755)
    command = [tmp_path / "packaging" / "build-deb", *words]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, cwd=tmp_path, timeout=30).returncode == status
