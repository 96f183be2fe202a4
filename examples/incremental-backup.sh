#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# A full backup of a cached volume, two incremental ones, and the result of restoring them.
#
# Usage: incremental-backup.sh
#
# Installs the packages it needs (with sudo unless root), works in a temporary folder and removes it.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
plugin=$repository/plugin/wbcache.py
folder=
server=
clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    [ -z "$folder" ] || rm -rf "$folder"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step() { printf '\n%s\n' "$*"; }
tell() { printf '    %s\n' "$*"; }
kib_on_disk() { du -k "$1" | awk '{ printf "%d KiB", $1 }'; }
wbcache() { (cd "$repository" && exec /usr/bin/python3 -B -m wbcache_core "$@"); }

start_server() {
    rm -f "$socket" "$folder/pid"
    # history= keeps what was written since the last backup in the log: choose a log that is large enough.
    nbdkit --foreground --unix "$socket" --pidfile "$folder/pid" \
        python "$plugin" "origin=$folder/disk.img" "log=$folder/disk.wblog" log-size=64M history=1d 2>"$folder/server.txt" &
    server=$!
    for _ in $(seq 300); do
        [ ! -s "$folder/pid" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    echo "incremental-backup: the server did not start" >&2
    cat "$folder/server.txt" >&2
    exit 1
}

stop_server() {
    kill -TERM "$server"
    wait "$server" 2>/dev/null || true
    server=
}

# Runs a line of Python with h connected to the volume, as nbdsh does.
client() { /usr/bin/python3 -m nbd --uri "nbd+unix:///?socket=$socket" --command "$1"; }

newest_generation() {
    nbdinfo --list "nbd+unix:///?socket=$socket" | sed -n 's/.*description: newest: generation \([0-9]*\) .*/\1/p'
}

# An incremental backup: the changes from generation $1 to now in $2.raw, and where they belong in $2.list.
back_up_changes() {
    wbcache diff --raw "$folder/$2.raw" "$folder/disk.wblog" "$1" last-flush >"$folder/$2.list"
    tell "$(tail -n 1 "$folder/$2.list")"
    tell "$2.raw takes $(kib_on_disk "$folder/$2.raw")"
}

# Brings image $1 from the moment at which an incremental backup begins to the one at which it ends.
restore_changes() {
    while read -r kind offset length _; do
        case $kind in
            data)
                dd if="$2.raw" of="$1" bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes \
                    skip="$offset" seek="$offset" count="$length" conv=notrunc status=none
                ;;
            zero | hole) fallocate --punch-hole --offset "$offset" --length "$length" "$1" ;;
        esac
    done <"$2.list"
}

"$repository/examples/install-packages.sh" backup
folder=$(mktemp -d)
socket=$folder/nbd.sock

step "1. Sunday: a volume of 32 MiB with some data, served through the cache; a full backup of its newest moment"
truncate -s 32M "$folder/disk.img"
start_server
client "h.pwrite(b'Sunday  ' * 131072, 0); h.pwrite(b'Sunday  ' * 131072, 20 << 20); h.flush()"
sunday=$(newest_generation)
nbdcopy "nbd+unix:///@$sunday?socket=$socket" "$folder/sunday.img"
tell "sunday.img is generation $sunday and takes $(kib_on_disk "$folder/sunday.img")"

step "2. Monday: a little is written, a little trimmed; the server is stopped for the first incremental backup"
client "h.pwrite(b'Monday  ' * 5000, 300000); h.trim(256 << 10, 20 << 20); h.flush()"
monday=$(newest_generation)
stop_server
back_up_changes "$sunday" monday

step "3. Tuesday: the same again, starting from Monday's generation, $monday"
start_server
client "h.pwrite(b'Tuesday ' * 100, 21 << 20); h.zero(8192, 1 << 16); h.flush()"
stop_server
back_up_changes "$monday" tuesday

step "4. Restore: Sunday's full backup, Monday's changes, Tuesday's changes"
cp --sparse=always "$folder/sunday.img" "$folder/restored.img"
restore_changes "$folder/restored.img" "$folder/monday"
restore_changes "$folder/restored.img" "$folder/tuesday"
wbcache replay --to "$folder/volume.img" "$folder/disk.wblog" "$folder/disk.img" >/dev/null
cmp "$folder/restored.img" "$folder/volume.img"
tell "cmp: all $(stat -c %s "$folder/restored.img") bytes are those of the volume"
if cmp --quiet "$folder/sunday.img" "$folder/volume.img"; then
    echo "incremental-backup: nothing had changed" >&2
    exit 1
fi

printf '\nPassed.\n'
