# SPDX-License-Identifier: BSD-3-Clause
"""A guest chooses write-back or write-through for its own disk, at run time, with `fua=origin`.

Where the disk's write cache is off, qemu sets FUA on each write. The guest has to tell the disk: Linux does for
`cache_type`, and not for `queue/write_cache`, which only makes it stop to flush.
"""

import pytest

from tests.nbdkit.test_live_drain import slow_origin
from tests.support import clients
from tests.support.control import ask
from tests.support.guest import Guest

PAGE = 4096
DELAY = "700ms"
"""Of each write to the origin: so long what was written stays only in the cache, whatever becomes due."""
DISKS = {
    "virtio": ("virtio-blk-pci,drive=disk", ("virtio_pci", "virtio_blk"), "/sys/block/vda/cache_type", "vda"),
    "scsi": (
        "scsi-hd,drive=disk", ("virtio_pci", "virtio_scsi", "sd_mod"), "/sys/block/sda/device/scsi_disk/*/cache_type",
        "sda",
    ),
}  # fmt: skip
SCRIPT = """
cache_type=$(echo CACHE_TYPE)
write() {{ dd if=/$1 of=/dev/{disk} bs=4096 seek=$2 conv=notrunc,fsync 2>/dev/null; say "wrote $1"; host; }}
say "$(cat $cache_type)"
write A 1
echo "write through" >$cache_type
say "$(cat $cache_type)"
write B 2
echo "write back" >$cache_type
say "$(cat $cache_type)"
write C 3
echo "write through" >/sys/block/{disk}/queue/write_cache
say "$(cat $cache_type)"
write D 4
say "done"
"""


@pytest.mark.parametrize("disk", DISKS)
def test_a_guest_switches_its_own_disk(pair, folder, disk):
    device, modules, cache_type, name = DISKS[disk]
    control = folder / "c"
    files = {letter: letter.encode() * PAGE for letter in "ABCD"}
    script = SCRIPT.replace("CACHE_TYPE", cache_type).format(disk=name)
    quiet = {"commit_interval": "1h", "destage_delay": "1h", "lifetime_s": 300}
    with slow_origin(pair, folder, DELAY), pair.serve(control=control, fua="origin", check=False, **quiet) as server:
        disks = ["-blockdev", f"driver=nbd,node-name=disk,server.type=unix,server.path={server.socket}"]
        if disk == "scsi":
            disks += ["-device", "virtio-scsi-pci"]
        guest = Guest(folder, script, [*disks, "-device", device], modules, files)

        def cursors_after(letter):
            assert guest.said() == f"wrote {letter}"
            found = ask(control, "status")["cursors"]
            guest.go_on()
            return found

        try:
            assert guest.said() == "write back"
            found = cursors_after("A")
            assert found["destaged"] < found["committed"] == found["head"], "fsync is a flush"
            assert guest.said() == "write through"
            found = cursors_after("B")
            assert found["destaged"] == found["head"], "each write is on the origin when it is done"
            assert guest.said() == "write back"
            found = cursors_after("C")
            assert found["destaged"] < found["committed"] == found["head"]
            assert guest.said() == "write back", "the disk knows nothing of it"
            found = cursors_after("D")
            assert found["committed"] < found["head"], "not even fsync makes it durable"
            assert guest.said() == "done"
        finally:
            guest.end()
        with clients.connection(server.uri) as handle:
            assert handle.pread(5 * PAGE, 0) == bytes(PAGE) + b"".join(files.values())
