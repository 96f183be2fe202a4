# SPDX-License-Identifier: BSD-3-Clause
"""Runs the commands of a page of docs/ as they stand there, and compares what they print with what the page shows.

In a page, a block fenced by ```console has lines that begin with "$ " (a command; "> " continues it) and what the
command prints. All blocks of a page run in one shell, in order, up to the first command that fails. In what is shown,
numbers and spaces stand for any numbers and spaces, and "..." for anything: for part of a line, or alone for any lines.
A command under which nothing is shown may print anything. ```console not-run marks a block that needs what this
machine cannot have; the page says why.

The shell has mount and process namespaces of its own: mounts and processes end with it, whatever happens. Loop devices
on files of its folder are detached.
"""

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field

from tests.support import clients
from tests.support.clients import REPOSITORY

_MARK = "\x01"
_RUN_AS_INSTALLED = {
    "wbcache": f"""export PYTHONPATH="{REPOSITORY}" PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -m wbcache_core "$@"
""",
    # `nbdkit wbcache` is what the package installs; the plugin of the sources is the same program.
    "nbdkit": f"""words=()
for word; do
    [ "$word" = wbcache ] && words+=(python "{REPOSITORY}/plugin/wbcache.py") || words+=("$word")
done
export PYTHONDONTWRITEBYTECODE=1
exec "{shutil.which("nbdkit")}" "${{words[@]}}"
""",
}
"""Commands of the page -> what runs them from the sources."""
_DETACH = """losetup --list --noheadings --output NAME,BACK-FILE | while read -r device path; do
    [[ $path != "$PWD"/* ]] || losetup --detach "$device"
done"""


@dataclass
class Command:
    line: int
    """Of the page, where it begins."""
    text: str
    shown: list[str] = field(default_factory=list)


def commands(page, sections=None):
    """All that a page has the reader type, in order; or only what is under these headings of the second level."""
    found = []
    is_inside = False
    section = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("## "):
            section = line[3:]
        if sections and section not in sections:
            continue
        if line.startswith("```"):
            is_inside = not is_inside and line == "```console"
        elif not is_inside:
            continue
        elif line.startswith("$ "):
            found.append(Command(number, line[2:]))
        elif found and line.startswith("> ") and not found[-1].shown:
            found[-1].text += "\n" + line[2:]
        else:
            assert found, f"{page}:{number}: output before the first command"
            found[-1].shown.append(line)
    assert found, f"{page} has no commands"
    return found


def follow(page, folder, instead=(), first="", limit_s=120, sections=None):
    """Run a page's commands, or those of some sections, in `folder`. `instead` has (what the page says, what this
    machine has) in order; `first` is a script that prepares what the page takes for granted. AssertionError with the
    page's line and the output."""
    found = commands(page, sections)
    programs = folder / "bin"
    programs.mkdir()
    for name, script in _RUN_AS_INSTALLED.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}")
        (programs / name).chmod(0o755)
    script = folder / "page.sh"
    script.write_text(_script(found, instead, first, programs))
    output_path = folder / "page.out"
    with open(output_path, "wb") as output:
        # A file, not a pipe: a daemon that a command starts may keep it open.
        shell = clients.start(
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "--norc", script,
            cwd=folder, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            shell.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # unshare's own child is the first process of the namespace: the others end with it.
            shell.send_signal(signal.SIGKILL)
            shell.wait()
    text = output_path.read_text(errors="replace")
    for said, here in reversed(instead):
        text = text.replace(here, said)
    outputs = dict(re.findall(rf"{_MARK}(\d+)\n(.*?)\n?{_MARK}done\n", text, re.DOTALL))
    for number, command in enumerate(found):
        where = f"{page.name}:{command.line}: {command.text}"
        assert str(number) in outputs, f"{where}\nfailed, or did not end within {limit_s} s:\n{text[-4000:]}"
        printed = [line.rstrip() for line in outputs[str(number)].splitlines()]
        assert _matches(command.shown, printed), f"{where}\nprinted:\n{outputs[str(number)]}"


def _script(found, instead, first, programs):
    lines = [f'export PATH="{programs}:$PATH" TMPDIR="$PWD"', f"trap '{_DETACH}' EXIT", "set -u -o pipefail"]
    lines += ["set -e", first, "set +e"]
    for number, command in enumerate(found):
        text = command.text
        for said, here in instead:
            text = text.replace(said, here)
        lines += [f"printf '{_MARK}%s\\n' {number}", text, "[ $? -eq 0 ] || exit 1", f"printf '\\n{_MARK}done\\n'"]
    return "\n".join(lines) + "\n"


def _matches(shown, printed):
    if not shown:
        return True
    pattern = "".join(".*\n(?:.*\n)*?" if line.strip() == "..." else _pattern(line) for line in shown)
    # A "..." line stands for no lines, too.
    pattern = pattern.replace(".*\n(?:.*\n)*?", "(?:.*\n)*?")
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed if line or "" in shown)) is not None


def _pattern(line):
    parts = re.split(r"(\.\.\.|\d[\d.,]*|\s+)", line.rstrip())
    return "".join(_part(part) for part in parts) + "\n"


def _part(part):
    if part == "...":
        return ".*"
    if part[:1].isdigit():
        return r"\d[\d.,]*"
    return r"\s+" if part.isspace() else re.escape(part)
