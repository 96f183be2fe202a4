#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# A full backup of a volume that is in use all the time, two incremental ones, and the result of restoring them.
#
# Usage: incremental-backup.sh
#
# Installs the packages it needs (with sudo unless root), works in a temporary folder and removes it.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
plugin=$repository/plugin/wbcache.py
folder=
server=
user=
clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$user" ]; then
        kill "$user" 2>/dev/null || true
        wait "$user" 2>/dev/null || true
    fi
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
    # The last backup has a tag, so what was written since is kept in the log: choose a log that is large enough, and
    # history-full=hold if writers should rather wait than lose the tag.
    nbdkit --foreground --unix "$socket" --pidfile "$folder/pid" \
        python "$plugin" "origin=$folder/disk.img" "log=$folder/disk.wblog" log-size=256M "control=$control" \
        history-full=hold destage-delay=0 2>"$folder/server.txt" &
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

# Writes, trims and zeroes here and there in the first quarter of the volume, until it is killed; says how often.
use_volume() {
    /usr/bin/python3 -m nbd --uri "nbd+unix:///?socket=$socket" --command "
import itertools, pathlib, random, time
choose = random.Random(1)
for count in itertools.count(1):
    offset, length = choose.randrange(8 << 20), choose.choice((512, 4096, 20000))
    choose.choice((h.trim, h.zero, *[lambda n, at: h.pwrite(choose.randbytes(n), at)] * 6))(length, offset)
    pathlib.Path('$folder/requests').write_text(str(count))
    time.sleep(0.01)
" &
    user=$!
}

# Returns when there have been so many more requests.
let_it_work() {
    local before now
    before=$(cat "$folder/requests" 2>/dev/null || echo 0)
    for _ in $(seq 600); do
        # It is empty for a moment while it is written.
        now=$(cat "$folder/requests" 2>/dev/null || true)
        [ "${now:-0}" -lt $((${before:-0} + $1)) ] || return 0
        sleep 0.1
    done
    echo "incremental-backup: the volume is not being used" >&2
    exit 1
}

# The export of what changed from tag $1 to tag $2, or of tag $1.
export_of() { echo "nbd+unix:///@$1?socket=$socket"; }

"$repository/examples/install-packages.sh" backup
folder=$(mktemp -d)
socket=$folder/nbd.sock

control=$folder/control
cd "$folder"

step "1. Sunday: a volume of 32 MiB that is in use; a full backup of the moment that gets the tag 'sunday'"
truncate -s 32M disk.img
start_server
/usr/bin/python3 -m nbd --uri "nbd+unix:///?socket=$socket" --command "h.pwrite(b'Sunday  ' * 2097152, 0)"
use_volume
let_it_work 100
wbcache tag "$control" sunday
nbdcopy "$(export_of sunday)" sunday.img
tell "sunday.img takes $(kib_on_disk sunday.img)"

step "2. Monday: what has changed since, on top of Sunday's backup; the volume stays in use"
let_it_work 100
wbcache tag "$control" monday
qemu-img convert -f raw -O qcow2 -o cluster_size=4k -B sunday.img -F raw "$(export_of sunday..monday)" monday.qcow2
wbcache untag "$control" sunday
tell "monday.qcow2 takes $(kib_on_disk monday.qcow2)"

step "3. Tuesday: the same again, on top of Monday's"
let_it_work 100
wbcache tag "$control" tuesday
wbcache diff "$control" monday tuesday | tail -n 1
qemu-img convert -f raw -O qcow2 -o cluster_size=4k -B monday.qcow2 -F qcow2 "$(export_of monday..tuesday)" tuesday.qcow2
wbcache untag "$control" monday
tell "tuesday.qcow2 takes $(kib_on_disk tuesday.qcow2)"

step "4. Restore Tuesday from the three backups, and compare it with a full copy of that moment"
qemu-img convert -O raw tuesday.qcow2 restored.img
nbdcopy "$(export_of tuesday)" tuesday.img
cmp restored.img tuesday.img
tell "cmp: all $(stat -c %s restored.img) bytes are those of the volume on Tuesday"
if cmp --quiet sunday.img tuesday.img; then
    echo "incremental-backup: nothing had changed" >&2
    exit 1
fi
let_it_work 1
tell "the volume is still in use: $(cat requests) requests so far"

printf '\nPassed.\n'
