# SPDX-License-Identifier: BSD-3-Clause
"""The pages of docs/ that show commands: they are run as they stand there (tests/support/pages.py)."""

import shutil
import socket
from pathlib import Path

import pytest

from tests.support import guest, mounts, pages
from tests.support.clients import REPOSITORY

DOCS = REPOSITORY / "docs"
WRITES = """
busy() { i=0; while :; do i=$((i + 1)); echo "$i" | dd of=/dev/$1 bs=4096 conv=sync,fsync 2>/dev/null ||
    say "a write failed"; done; }
has() { until [ -e /sys/block/$1/size ]; do sleep 0.1; done; say "$1 has $(cat /sys/block/$1/size) sectors"; }
has vda && busy vda &
has vdb &
has sda &
while :; do sleep 1; done
"""
"""A guest that writes to its first disk again and again, and says the sizes of others when they appear."""
LOCAL_RUN = f"""
mount -t tmpfs tmpfs /run
ln -s {REPOSITORY}/examples examples
"""
"""/run is the page's own."""

LIBVIRTD = """
# What the package libvirt-daemon-system adds to a machine, and a home for the daemon that ends with this shell.
cp /etc/passwd /etc/group .
grep -q ^kvm: group || echo kvm:x:64054: >>group
grep -q ^libvirt-qemu: group || echo libvirt-qemu:x:64055: >>group
grep -q ^libvirt-qemu: passwd ||
    echo "libvirt-qemu:x:64055:$(sed -n 's/^kvm:[^:]*:\\([0-9]*\\):.*/\\1/p' group):::/bin/false" >>passwd
mount --bind passwd /etc/passwd
mount --bind group /etc/group
for name in /etc/libvirt /var/lib /var/cache /var/log; do mount -t tmpfs tmpfs $name; done
chmod 755 .
cat >/etc/libvirt/qemu.conf <<'CONF'
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
CONF
libvirtd >libvirtd.log 2>&1 &
until virsh version >/dev/null 2>&1; do kill -0 $!; sleep 0.1; done
virsh define domain.xml
virsh start guest1
"""
DOMAIN = """<domain type='qemu'>
  <name>guest1</name>
  <memory unit='MiB'>256</memory>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{folder}/kernel</kernel>
    <initrd>{initramfs}</initrd>
    <cmdline>{guest.COMMAND_LINE}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='file'><source path='{folder}/serial.txt'/></serial>
  </devices>
</domain>
"""


@pytest.fixture
def follow(folder):
    """Run a small page of the test's own."""

    def run(*lines):
        page = folder / "page.md"
        page.write_text("\n".join(["A page.", "", "```console", *lines, "```", ""]))
        pages.follow(page, folder, instead=[("/dev/sdb", "/dev/loop7")])

    return run


def test_what_a_page_shows_is_compared(follow):
    follow(
        "$ echo 12 apples, \\", ">   3 /dev/sdb", "11 apples, 4 /dev/sdb", "$ seq 3; echo end", "1", "...", "end",
        "$ echo any; true",
    )  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        ("$ echo one", "two"),
        ("$ echo one", "one", "two"),
        ("$ echo one; echo two", "one"),
        ("$ true", "$ false"),
        ("$ true", "$ exit 0"),
        ("$ echo 1 a", "1 b"),
    ],
)
def test_a_page_that_is_wrong_is_refused(follow, lines):
    with pytest.raises(AssertionError, match=r"page\.md:[45]: "):
        follow(*lines)


def test_every_page_with_commands_is_followed():
    found = {page.name for page in DOCS.glob("*.md") if "\n```console\n" in page.read_text()}
    source = Path(__file__).read_text()
    assert {name for name in found if f'DOCS / "{name}"' in source} == found


def guest_options(folder, script, modules):
    """A bash array `guest`, the rest of a guest's command line."""
    kernel, initramfs = guest.boot_files(folder, script, modules)
    return (
        f"guest=(-machine pc,accel=tcg -m 256 -nodefaults -display none -serial file:serial.txt "
        f"-kernel {kernel} -initrd {initramfs} -append '{guest.COMMAND_LINE}')\n"
    )


def test_qemu(folder):
    modules = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod")
    first = LOCAL_RUN + guest_options(folder, WRITES, modules)
    pages.follow(DOCS / "qemu.md", folder, first=first, limit_s=240)


def test_first_guest(folder, tmp_path):
    """Loop devices are the disks."""
    slow, fast = tmp_path / "slow.img", tmp_path / "fast.img"
    for path, size in ((slow, 64 << 20), (fast, 512 << 20)):
        with open(path, "wb") as image:
            image.truncate(size)
    with mounts.loop_device(slow) as slow_disk, mounts.loop_device(fast, "--partscan") as fast_disk:
        first = LOCAL_RUN + guest_options(folder, WRITES, ("virtio_pci", "virtio_blk"))
        disks = [("/dev/sdb", slow_disk), ("/dev/nvme0n1", fast_disk)]
        pages.follow(DOCS / "first-guest.md", folder, instead=disks, first=first, limit_s=240)


def test_libvirt(folder):
    kernel, initramfs = guest.boot_files(folder, WRITES, ("virtio_pci", "virtio_blk"))
    shutil.copy(kernel, folder / "kernel")
    domain = DOMAIN.format(folder=folder, initramfs=initramfs, guest=guest)
    (folder / "domain.xml").write_text(domain)
    pages.follow(DOCS / "libvirt.md", folder, first=LOCAL_RUN + LIBVIRTD, limit_s=240)


def test_nbdfuse(folder):
    pages.follow(DOCS / "nbdfuse.md", folder, first=LOCAL_RUN)


def test_remote_origins(folder):
    """Ceph and S3 are in tests/ceph.sh."""
    section = "Reads are kept by nbdkit's cache filter"
    pages.follow(DOCS / "remote-origins.md", folder, sections=[section], limit_s=240)


def test_peers(folder):
    """One machine is both hosts."""
    (folder / "keys").mkdir()
    with socket.socket() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        port = endpoint.getsockname()[1]
    first = f"ln -s {REPOSITORY}/plugin plugin; truncate -s 64M disk.img"
    instead = [("/etc/wbcache", f"{folder}/keys"), ("b.example", "localhost"), ("--port 10810", f"--port {port}")]
    instead += [(":10810", f":{port}")]
    pages.follow(DOCS / "peers.md", folder, instead, first)
