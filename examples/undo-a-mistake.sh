#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# A file system in a cached volume loses its files to rm -rf, and gets them back from ten seconds ago.
#
# Usage: undo-a-mistake.sh
#
# It needs no preparation: the log of the cache still has the past. It mounts a file system, so it runs as root (with sudo).
# Installs the packages it needs, works in a temporary folder, takes half a minute and leaves nothing behind.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || exec sudo "${BASH_SOURCE[0]}" "$@"
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=
server=
fuse=
loop=

clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$folder" ]; then
        for mounted in "$folder/past" "$folder/files"; do
            if mountpoint -q "$mounted"; then umount "$mounted" || umount --lazy "$mounted"; fi
        done
    fi
    [ -z "$loop" ] || losetup --detach "$loop" || true
    if [ -n "$fuse" ]; then
        # A loop device lets go of its file a moment after it was detached.
        for _ in $(seq 50); do
            if fusermount3 -q -u "$folder/volume"; then break; fi
            sleep 0.1
        done
        kill "$fuse" 2>/dev/null || true
        wait "$fuse" 2>/dev/null || true
    fi
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    [ -z "$folder" ] || rm -rf --one-file-system "$folder"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step() { printf '\n%s\n' "$*"; }
tell() { printf '    %s\n' "$*"; }

# Waits until file $1 exists and is not empty; $2 is the process that creates it.
wait_for() {
    for _ in $(seq 300); do
        [ ! -s "$1" ] || return 0
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    echo "undo-a-mistake: no $1" >&2
    exit 1
}

"$repository/examples/install-packages.sh" undo
PATH=$PATH:/usr/sbin:/sbin
folder=$(mktemp -d)
socket=$folder/nbd.sock
mkdir "$folder/volume" "$folder/files" "$folder/past"

step "1. A volume behind the cache. history=1h: whatever is written can be undone for an hour"
truncate -s 128M "$folder/disk.img"
nbdkit --foreground --unix "$socket" --pidfile "$folder/server.pid" \
    python "$repository/plugin/wbcache.py" "origin=$folder/disk.img" log-size=256M history=1h "control=$folder/control" &
server=$!
wait_for "$folder/server.pid" "$server"

step "2. An ext4 file system on it, with files"
nbdfuse --pidfile "$folder/fuse.pid" "$folder/volume/disk" --unix "$socket" &
fuse=$!
wait_for "$folder/fuse.pid" "$fuse"
mkfs.ext4 -q "$folder/volume/disk"
loop=$(losetup --find --show "$folder/volume/disk")
mount "$loop" "$folder/files"
cp -r "$repository/docs" "$repository/wbcache_core" "$repository/examples" "$folder/files"
sync --file-system "$folder/files"
(cd "$folder/files" && find . -type f -exec sha256sum {} +) >"$folder/sums"
tell "$(wc -l <"$folder/sums") files, $(du -sk "$folder/files" | awk '{ print $1 }') KiB"

step "3. Eleven seconds later, the mistake: rm -rf"
sleep 11
rm -rf "${folder:?}/files"/*
sync --file-system "$folder/files"
tell "files left: $(find "$folder/files" -type f | wc -l)"

step "4. The volume as it was ten seconds ago is an export, beside the live one"
past=$(cd "$repository" && /usr/bin/python3 -B -m wbcache_core resolve "$folder/control" -10s)
tell "ten seconds ago: $past"
nbdcopy "nbd+unix:///$past?socket=$socket" "$folder/past.img"
mount -o loop "$folder/past.img" "$folder/past"
tell "files there: $(find "$folder/past" -type f | wc -l)"

step "5. They are copied back to the live file system, and compared with what was written first"
cp -r "$folder/past"/* "$folder/files"
sync --file-system "$folder/files"
(cd "$folder/files" && sha256sum --check --quiet "$folder/sums")
tell "all $(wc -l <"$folder/sums") files are there again, byte for byte"

printf '\nPassed.\n'
