#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Shows the cache at work on a file: fills it with a file system, kills the server, recovers, drains, compares.
#
# Usage: quickstart.sh [--plugin PLUGIN] [--keep DIR]
#
# PLUGIN is the path of a wbcache.py (by default the one in these sources), or wbcache for the one installed in nbdkit.
# Installs the packages it needs (with sudo unless root), works in a temporary folder and removes it.
# With --keep it works in DIR, which must be new or empty, and leaves the files there.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
plugin=(python "$repository/plugin/wbcache.py")
kept=
while [ $# -gt 0 ]; do
    case "$#:$1" in
        1:*) set -- usage; break ;;
        *:--keep) mkdir -p "$2"; kept=$(cd "$2" && pwd) ;;
        *:--plugin)
            case "$2" in
                */*) plugin=(python "$(realpath "$2")") ;;
                *) plugin=("$2") ;;
            esac ;;
        *) set -- usage; break ;;
    esac
    shift 2
done
[ $# -eq 0 ] || { echo "usage: quickstart.sh [--plugin PLUGIN] [--keep DIR]" >&2; exit 2; }
if [ -n "$kept" ] && [ -n "$(ls -A "$kept")" ]; then
    echo "quickstart: $kept is not empty" >&2
    exit 2
fi

scratch=
server=
clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    [ -z "$scratch" ] || rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step() { printf '\n%s\n' "$*"; }
tell() { printf '    %s\n' "$*"; }
mib_on_disk() { du -k "$1" | awk '{ printf "%.1f MiB", $1 / 1024 }'; }

give_up() {
    echo "quickstart: $1" >&2
    [ ! -s "$log_of_server" ] || tail -n 20 "$log_of_server" >&2
    exit 1
}

# Starts the server and returns when it accepts connections; further arguments are parameters of the plugin.
start_server() {
    log_of_server=$folder/server-$1.txt
    shift
    rm -f "$socket" "$scratch/pid"
    nbdkit --foreground --verbose --unix "$socket" --pidfile "$scratch/pid" \
        "${plugin[@]}" "origin=$folder/origin.img" "log=$folder/origin.wblog" "$@" 2>"$log_of_server" &
    server=$!
    for _ in $(seq 300); do
        [ ! -s "$scratch/pid" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    give_up "the server did not start"
}

# Sends signal $1 to the server, waits for its end and returns its exit status.
end_server() {
    local ended=0
    kill "-$1" "$server"
    wait "$server" 2>/dev/null || ended=$?
    server=
    return "$ended"
}

# Repeats the lines in which the plugin itself says what it did, at most the last three.
server_said() {
    sed -n 's/^.*\(wbcache: \)/\1/p' "$log_of_server" | grep -E "$1" >"$scratch/said" ||
        give_up "the server said nothing about: $1"
    tail -n 3 "$scratch/said" | while read -r line; do tell "server: $line"; done
}

# Counts the 4 KiB pages in which two files of one size differ.
pages_that_differ() {
    /usr/bin/python3 - "$1" "$2" <<'PYTHON'
import sys

with open(sys.argv[1], "rb") as first, open(sys.argv[2], "rb") as second:
    print(sum(page != second.read(4096) for page in iter(lambda: first.read(4096), b"")))
PYTHON
}

check_file_system() {
    e2fsck -fn "$1" >"$scratch/e2fsck.txt" 2>&1 || { cat "$scratch/e2fsck.txt" >&2; give_up "e2fsck found errors"; }
    tell "e2fsck: $(tail -n 1 "$scratch/e2fsck.txt" | sed 's/^.*: //')"
}

"$repository/examples/install-packages.sh" quickstart
# mkfs.ext4 and e2fsck are not on the PATH of an ordinary user.
PATH=$PATH:/usr/sbin:/sbin
scratch=$(mktemp -d)
folder=${kept:-$scratch}
socket=$scratch/nbd.sock
uri="nbd+unix:///?socket=$socket"
log_of_server=$folder/server.txt

step "1. A file system to store: real files from this machine in an ext4 image, in $folder"
mkdir "$scratch/files"
cd /
# Folders that an ordinary user cannot read are skipped.
{ find usr/lib/python3* usr/share -type f -readable -size -128k 2>/dev/null || true; } |
    sort | awk 'NR <= 4000' >"$scratch/list"
tar -cf - -T "$scratch/list" | tar -C "$scratch/files" -xf -
truncate -s 256M "$folder/image.ext4" "$folder/origin.img"
mkfs.ext4 -q -F -d "$scratch/files" "$folder/image.ext4"
rm -rf "$scratch/files"
tell "$(wc -l <"$scratch/list") files, $(mib_on_disk "$folder/image.ext4") of data in an image of 256 MiB"

step "2. Serve an empty origin of that size through the cache, and copy the image to it, with a flush at the end"
start_server 1 log-size=512M destage-delay=1h
nbdcopy --flush "$folder/image.ext4" "$uri"
tell "flushed: from now on no crash may lose a byte of it"

step "3. Kill the server with SIGKILL"
end_server KILL || true
tell "origin: $(mib_on_disk "$folder/origin.img"), log: $(mib_on_disk "$folder/origin.wblog")"
only_in_log=$(pages_that_differ "$folder/image.ext4" "$folder/origin.img")
tell "$only_in_log pages of 4 KiB are only in the log; the origin lacks them"

step "4. Start it again, read everything back and compare"
start_server 2 on-exit=destage
server_said 'recovered'
nbdcopy "$uri" "$folder/copy.ext4"
cmp "$folder/image.ext4" "$folder/copy.ext4" || give_up "the volume differs from what was written"
tell "cmp: all $(stat -c %s "$folder/copy.ext4") bytes are as written"
check_file_system "$folder/copy.ext4"

step "5. Stop it with SIGTERM and on-exit=destage: the log is drained to the origin"
end_server TERM || give_up "the server ended with status $?"
server_said 'destaged'
cmp "$folder/image.ext4" "$folder/origin.img" || give_up "the origin differs from what was written"
tell "cmp: the origin alone has all $(stat -c %s "$folder/origin.img") bytes"
check_file_system "$folder/origin.img"
[ -z "$kept" ] || tell "kept in $kept"

cat <<EXAMPLES

Passed. To serve one of your disks (it keeps its content; a blank log is formatted):
    nbdkit --unix /run/wbcache.sock ${plugin[*]} origin=/dev/sdX log=/dev/nvmeYnZ
To attach it to a virtual machine:
    qemu-system-x86_64 ... -blockdev driver=nbd,node-name=disk0,server.type=unix,server.path=/run/wbcache.sock \\
        -device virtio-blk-pci,drive=disk0
With reconnect-delay=20 for qemu, the guest survives a server that is killed and restarted.
EXAMPLES
