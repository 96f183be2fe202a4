# SPDX-License-Identifier: BSD-3-Clause
"""Servers that must refuse to start: the exit status, the words of the message, and that nothing was touched."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile

from tests.support import clients
from tests.support.nbdkit_server import PLUGIN, REPOSITORY

LIMIT_S = 20
_OWN_FILES = (".sock", ".pid", ".stderr")


def state_of(folder):
    """Content, size, mode and time of the last write of every file below folder, except what the servers put there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _OWN_FILES or path.is_socket() or not (path.is_file() or path.is_block_device()):
            continue
        status = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (digest, status.st_size, oct(status.st_mode), status.st_mtime_ns)
    return found


@contextlib.contextmanager
def unchanged(*folders):
    """Fail if a file in any of these folders changed, came or went during the `with`."""
    before = [state_of(folder) for folder in folders]
    yield
    assert [state_of(folder) for folder in folders] == before


def _run(words, prefix):
    """Exit status and stderr of a server in the foreground; nothing of it is left afterwards."""
    # With -U - nbdkit makes a folder of its own, and leaves it behind where it is refused.
    with tempfile.TemporaryDirectory(prefix="wbcache-") as sockets:
        os.chmod(sockets, 0o777)
        return _run_at(f"{sockets}/socket", words, prefix)


def _run_at(socket, words, prefix):
    command = [str(word) for word in (*prefix, "nbdkit", "-f", "-U", socket, *words)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(clients.environment(), PYTHONDONTWRITEBYTECODE="1"),
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"{' '.join(command)}: was not refused within {LIMIT_S} s\n{output}") from None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        raise AssertionError(f"{' '.join(command)}: left a process behind\n{output}")
    return process.returncode, f"{' '.join(command)}\n{output}"


def plugin_for_everybody(folder):
    """The path of a copy of the plugin that other users can read, wherever the repository is."""
    place = folder / "program"
    for part in ("plugin", "wbcache_core"):
        shutil.copytree(REPOSITORY / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    clients.run("chmod", "-R", "a+rX", place)
    return place / "plugin" / "wbcache.py"


def assert_refused(folder, words, says, *, options=(), prefix=(), plugin=PLUGIN):
    """Start the plugin with these key=value words: it is never served, ends with exit status 1 and a message that has
    all of `says`, and changes nothing in the folder. Returns the message."""
    with unchanged(folder):
        served = ["--run", f"touch {folder}/was-served"]
        status, output = _run([*options, *served, "python", plugin, *words], prefix)
    assert status == 1, output
    assert "Traceback" not in output, output
    assert "internal error" not in output, output
    message = output.partition("\n")[2]
    missing = [word for word in says if word not in message]
    assert not missing, f"not said: {missing}\n{output}"
    return message


def run_served(words, client, *, options=(), prefix=(), plugin=PLUGIN):
    """Output of a client that nbdkit runs with $uri; both must succeed."""
    status, output = _run([*options, "--run", client, "python", plugin, *words], prefix)
    assert status == 0, output
    return output.partition("\n")[2]
