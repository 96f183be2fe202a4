# SPDX-License-Identifier: BSD-3-Clause
"""A Linux guest under qemu's software emulation: Debian's kernel, busybox, and a shell script as its only process.

The script says lines that begin with "guest: " and can wait for the host with `host`, which reads one line.
"""

import lzma
import queue
import subprocess
import threading
from pathlib import Path

import zstandard

from tests.support import clients

KERNELS = Path("/var/cache/wbcache-tests/kernel")
"""Where examples/install-packages.sh unpacks a kernel: installing it would change how this machine boots."""
COMMAND_LINE = "console=ttyS0 quiet panic=-1"
"""Of the guest's kernel."""
_BOOT_S = 120
_SAYS = "guest: "
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod $module; done
stty -echo
say() { echo "guest: $*"; }
host() { read -r answer; }
(set -e; . /script) || say "failed: $?"
poweroff -f
"""


class Guest:
    """One that runs; end() it. `disks` are qemu's options for them, `modules` the drivers that they need, `files` go
    to the guest's root folder: name -> bytes."""

    def __init__(self, folder, script, disks, modules, files=None):
        kernel, initramfs = boot_files(folder, script, modules, files)
        self._lines = queue.Queue()
        self._seen = []
        self._process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "256",
                "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
                "-kernel", str(kernel), "-initrd", str(initramfs), "-append", COMMAND_LINE, *map(str, disks),
            ],
            env=clients.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def said(self, limit_s=_BOOT_S):
        """The next line that the script says."""
        while True:
            try:
                line = self._lines.get(timeout=limit_s)
            except queue.Empty:
                line = None
            assert line is not None, "the guest is silent: " + "\n".join(self._seen[-50:])
            self._seen.append(line)
            if line.startswith(_SAYS):
                return line[len(_SAYS) :]

    def go_on(self):
        """What `host` waits for."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()


def boot_files(folder, script, modules, files=None):
    """Paths of a kernel and of a new initramfs in `folder` that runs the script; arguments as for a Guest."""
    version = _version()
    initramfs = folder / "initramfs"
    drivers = [_module(version, name) for name in modules]
    initramfs.write_bytes(_initramfs(folder / "root", script, files or {}, drivers))
    return KERNELS / "boot" / f"vmlinuz-{version}", initramfs


def _version():
    found = sorted(path.name for path in (KERNELS / "lib" / "modules").glob("*"))
    assert found, f"there is no kernel in {KERNELS}: examples/install-packages.sh test"
    return found[-1]


def _module(version, name):
    """Files of a driver and of those that it needs, in order; none if it is part of the kernel."""
    shown = clients.run("modprobe", "--show-depends", "--dirname", KERNELS, "--set-version", version, name)
    words = [line.split() for line in shown.splitlines()]
    return [Path(word[1]) for word in words if word[0] == "insmod"]


def _content(path):
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(content).read()
    return content


def _initramfs(root, script, files, modules):
    for name in ("bin", "modules"):
        (root / name).mkdir(parents=True)
    in_order = dict.fromkeys(path for needed in modules for path in needed)
    for number, path in enumerate(in_order):
        (root / "modules" / f"{number:02}-{path.name.partition('.')[0]}.ko").write_bytes(_content(path))
    (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "init").write_text(_INIT)
    (root / "script").write_text(script)
    for name, content in files.items():
        (root / name).write_bytes(content)
    for name in ("init", "bin/busybox"):
        (root / name).chmod(0o755)
    found = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True)
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=found.stdout, capture_output=True, check=True
    )
    return packed.stdout
