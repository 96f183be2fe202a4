#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Mounts the file system of a wbcache volume on this machine, without the kernel's nbd driver, until Ctrl-C.
#
# Usage: nbdfuse-mount.sh SOCKET FOLDER [OPTION OF MOUNT]...
#
#     nbdkit --unix /run/wbcache.sock python plugin/wbcache.py origin=disk.img
#     sudo examples/nbdfuse-mount.sh /run/wbcache.sock /mnt -o discard
#
# nbdfuse (package libnbd-bin) shows the volume as a file, a loop device makes a block device of the file. A sync or fsync
# on the file system reaches the cache as a flush. If the kernel has the nbd driver, a shorter way is
#     modprobe nbd; nbd-client -unix /run/wbcache.sock /dev/nbd0; mount /dev/nbd0 /mnt
#
# The server has to run for as long as this is mounted: nbdfuse does not reconnect. When it has gone this script unmounts, and
# ends. docs/nbdfuse.md has all of it as commands, which a test runs.
set -euo pipefail

[ $# -ge 2 ] || { sed -n 's/^# Usage: /usage: /p' "$0" >&2; exit 2; }
socket=$1
folder=$2
shift 2

work=$(mktemp -d)
fuse=
loop=
clean_up() {
    status=$?
    trap - EXIT
    if mountpoint -q "$folder"; then
        # Once nbdfuse has gone, whoever still uses the file system can only get errors.
        umount "$folder" || { ! kill -0 "$fuse" 2>/dev/null && umount --lazy "$folder"; }
    fi
    [ -z "$loop" ] || losetup --detach "$loop"
    if [ -n "$fuse" ]; then
        # A loop device lets go of its file a moment after it was detached.
        for _ in $(seq 50); do
            if fusermount3 -q -u "$work/volume"; then break; fi
            sleep 0.1
        done
        wait "$fuse" || true
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 0' INT TERM HUP

mkdir "$work/volume"
# In its own session, so that Ctrl-C does not end it before the file system is unmounted.
setsid nbdfuse --pidfile "$work/pid" "$work/volume/disk" --unix "$socket" &
fuse=$!
while [ ! -s "$work/pid" ]; do kill -0 "$fuse"; sleep 0.1; done
loop=$(losetup --find --show "$work/volume/disk")
mount "$@" "$loop" "$folder"
echo "mounted $loop on $folder; Ctrl-C unmounts it"
wait "$fuse"
