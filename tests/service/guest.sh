#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# What tests/service.sh runs as a service of the guest, at each boot the next of its parts; the last thing that each does is to
# shut the machine down. The host reads the console: lines that begin with "service: ".
set -u

say() { echo "service: $*" >/dev/ttyS0; }
failed=0
complain() { failed=1; say "FAILED: $*"; }
check() {
    local what=$1
    shift
    if "$@"; then say "ok: $what"; else complain "$what"; fi
}
# eventually SECONDS WHAT COMMAND...
eventually() {
    local limit=$1 what=$2 begun=$SECONDS
    shift 2
    until "$@"; do
        [ $((SECONDS - begun)) -lt "$limit" ] || { complain "$what, after $limit s"; return; }
        sleep 0.5
    done
    say "ok: $what, after $((SECONDS - begun)) s"
}
property() { systemctl show --value --property "$2" "$1"; }
main_pid() { property "$1" MainPID; }
is_active() { systemctl is-active --quiet "$@"; }
is_mounted() { findmnt --mountpoint "$1" >/dev/null; }
# Line by line, so that an event of more than one line is seen.
messages() { journalctl --quiet --output cat "$@"; }
no_io_error() { ! dmesg | grep -E 'I/O error|EXT4-fs error|JBD2: .*error'; }
nobody_may_connect() { ! runuser --user nobody -- nbdinfo --size "$1" 2>/dev/null; }
group_may_connect() { runuser --user nobody --supp-group kvm -- nbdinfo --size "$1" >/dev/null; }
is_inactive() { ! is_active "$1"; }
has_restarts() { [ "$(property "$1" NRestarts)" -ge "$2" ]; }
restarted() { [ "$(main_pid "$1")" != "$2" ] && [ "$(main_pid "$1")" != 0 ] && is_active "$1"; }
socket_of() { echo "nbd+unix:///?socket=/run/wbcache/$1/nbd.sock"; }
client() { /usr/bin/python3 -m nbd --uri "$(socket_of "$1")" --command "$2"; }
shut_down() {
    [ "$failed" -eq 0 ] || journalctl --boot --no-pager --lines 400 --output short-monotonic >/dev/ttyS0
    [ "$failed" -ne 0 ] || say "part $1 passed"
    say "shutting down"
    systemctl poweroff
    exit
}

kill_and_restart_under_load() {
    local fio unit=wbcache@disk0 pid turn turns
    turns=$(grep -o 'test.restarts=[0-9]*' /proc/cmdline)
    turns=${turns#*=}
    fio --name=load --directory=/mnt/disk0 --size=24M --rw=randrw --bs=4k --ioengine=psync --fsync=64 --verify=crc32c \
        --verify_backlog=512 --verify_fatal=1 --time_based --runtime=$((45 * turns)) --output=/var/lib/test/fio.txt &
    fio=$!
    for ((turn = 1; turn <= turns; turn++)); do
        sleep 4
        pid=$(main_pid $unit)
        systemctl restart $unit || complain "restart $turn"
        check "restart $turn under load" restarted $unit "$pid"
        kill -0 "$fio" || complain "the load ended before restart $turn did"
        sleep 4
        pid=$(main_pid $unit)
        kill -KILL "$pid"
        eventually 300 "kill $turn under load: started again" restarted $unit "$pid"
    done
    wait "$fio" && say "ok: fio verified what it read" || { complain "fio"; tail -n 20 /var/lib/test/fio.txt >/dev/ttyS0; }
    check "no I/O error" no_io_error
    check "the mount is the one of the boot" is_active mnt-disk0.mount
}

ring_survives() {
    local pid
    systemctl start wbcache@plain || complain "start of plain"
    client plain "h.pwrite(b'unflushed' * 1000, 4096 * 7 + 3)"
    pid=$(main_pid wbcache@plain)
    check "the ring is in shared memory" compgen -G '/dev/shm/wbcache-*' >/dev/null
    kill -KILL "$pid"
    eventually 300 "plain was killed and started again" restarted wbcache@plain "$pid"
    check "what was not committed was taken over" \
        client plain "import sys; sys.exit(bytes(h.pread(9000, 4096 * 7 + 3)) != b'unflushed' * 1000)"
    pid=$(main_pid wbcache@plain)
    systemctl restart wbcache@plain
    check "and is there after a restart" \
        client plain "import sys; sys.exit(bytes(h.pread(9000, 4096 * 7 + 3)) != b'unflushed' * 1000)"
    check "a stop" systemctl stop wbcache@plain
    check "a stop leaves no error" test "$(property wbcache@plain Result)" = success
    check "wbcache info tells the state" grep -q '"state"' <<<"$(wbcache info --json /var/lib/wbcache/plain.wblog)"
}

worker_is_idle() { ps -eLo comm,cls | grep -q '^wbcache-worker *IDL'; }
worker_has_low_priority() {
    systemctl start wbcache@plain
    client plain "[h.pwrite(bytes([n]) * 65536, n * 65536) for n in range(200)]; h.flush()"
    eventually 300 "the process that writes to the origin is scheduled when idle" worker_is_idle
}

a_start_that_fails() {
    local starts
    systemctl start wbcache@bad 2>/dev/null && complain "a cache without an origin started"
    sleep 40
    starts=$(property wbcache@bad NRestarts)
    check "a start that fails is repeated, not too often: $starts times in 40 s" test "$starts" -ge 1 -a "$starts" -le 8
    check "and says why, as an error, in one line" \
        test "$(messages --unit wbcache@bad --priority err --identifier nbdkit | sort -u | grep -c "missing.img")" -eq 1
    install -o wbcache -m 600 /dev/null /var/lib/wbcache/missing.img
    truncate -s 8M /var/lib/wbcache/missing.img
    eventually 120 "it starts when the origin is there" is_active wbcache@bad
    systemctl stop wbcache@bad
}

size_of_sock0() { [ "$(timeout 200 nbdinfo --size 'nbd+unix:///?socket=/run/wbcache-sock0.sock')" = 8388608 ]; }
started_by_its_socket() {
    check "a server is started by its first client" size_of_sock0
    kill -KILL "$(main_pid wbcache-activated@sock0)"
    check "and again after a kill, while the client waits" size_of_sock0
}

part_1() {
    eventually 300 "the volume of a device that appeared 20 s late is mounted" is_mounted /mnt/disk0
    check "its cache waited and did not fail" test "$(property wbcache@disk0 NRestarts)" = 0
    check "and said so once" test "$(messages --unit wbcache@disk0 | grep -c '^waiting for /dev/disk/by-id/test-slow')" = 1
    eventually 300 "the volume of a server that appeared late is mounted" is_mounted /mnt/net0
    check "its cache was started again" test "$(property wbcache-network@net0 NRestarts)" -ge 1
    for unit in wbcache@disk0 wbcache-network@net0 wbcache-attach@disk0; do
        check "exposure of $unit below 3.0" systemd-analyze security --no-pager --threshold=30 "$unit.service" >/dev/null
    done
    check "others may not connect" nobody_may_connect "$(socket_of disk0)"
    check "members of the group may" group_may_connect "$(socket_of disk0)"
    check "wbcache status" wbcache status /run/wbcache/disk0/control >/dev/null
    check "nothing to complain about" test -z "$(messages --unit wbcache@disk0 --priority err)"
    kill_and_restart_under_load
    ring_survives
    worker_has_low_priority
    a_start_that_fails
    started_by_its_socket
    echo "not synced" >/mnt/disk0/last
    echo "not synced" >/mnt/net0/last
    shut_down 1
}

# The line number of a message in the journal of the previous boot.
line_of() { messages --boot -1 | grep -n -F "$1" | tail -n 1 | cut -d: -f1; }
in_order() {
    local last=0 line message
    for message; do
        line=$(line_of "$message")
        [ -n "$line" ] && [ "$line" -gt "$last" ] || { complain "not in order: '$message' in line '$line' after $last"; return 1; }
        last=$line
    done
}

part_2() {
    check "the writer ended, the volume was unmounted, detached, and then the cache was stopped" in_order \
        "writer.service: Deactivated" "mnt-disk0.mount: Deactivated" "wbcache-attach@disk0.service: Deactivated" "wbcache@disk0.service: Deactivated"
    check "likewise over the network" in_order \
        "mnt-net0.mount: Deactivated" "wbcache-attach@net0.service: Deactivated" "wbcache-network@net0.service: Deactivated"
    eventually 300 "disk0 is mounted at the second boot" is_mounted /mnt/disk0
    eventually 300 "net0 is mounted at the second boot" is_mounted /mnt/net0
    check "what was not synced is on disk0" grep -q "not synced" /mnt/disk0/last
    check "what was not synced is on net0" grep -q "not synced" /mnt/net0/last
    # Its blocks are known before the origin goes away, from which they could not be read then.
    dd if=/dev/zero of=/mnt/net0/dirty bs=1M count=8 conv=fsync status=none || complain "writing"
    systemctl disable --now --quiet origin-server
    check "the origin of net0 goes away" is_inactive origin-server
    dd if=/dev/urandom of=/mnt/net0/dirty bs=1M count=8 conv=notrunc,fsync status=none || complain "writing without an origin"
    sha256sum /mnt/net0/dirty >/var/lib/test/dirty.sum
    sync
    shut_down 2
}

part_3() {
    check "the shutdown without an origin unmounted in order" in_order \
        "mnt-net0.mount: Deactivated" "wbcache-attach@net0.service: Deactivated" "Stopped wbcache-network@net0.service"
    check "and the drain that was impossible is told" grep -q "not complete" <<<"$(messages --boot -1 --unit wbcache-network@net0)"
    eventually 300 "disk0 is mounted at the third boot" is_mounted /mnt/disk0
    eventually 300 "the cache of net0 fails to start" has_restarts wbcache-network@net0 2
    check "and is not mounted" test -z "$(findmnt --mountpoint /mnt/net0)"
    systemctl start origin-server
    eventually 300 "net0 is mounted when its origin is back" is_mounted /mnt/net0
    check "with what was written without the origin" sha256sum --check --quiet /var/lib/test/dirty.sum
    say "the cache of disk0 goes away for good"
    echo "x" >/mnt/disk0/lost
    sed -i 's/^ORIGIN=.*/ORIGIN=\/dev\/none/' /etc/wbcache/disk0.conf
    kill -KILL "$(main_pid wbcache@disk0)"
    shut_down 3
}

parts=/var/lib/test/parts
part=$(($(cat $parts 2>/dev/null || echo 0) + 1))
echo "$part" >$parts
sync
say "part $part, with $(systemctl --version | head -n 1) and Linux $(uname -r)"
"part_$part"
