#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Two hosts, as network namespaces of this machine, with a shared origin: the owner's host is lost, the standby takes
# over, and the former owner becomes its standby. docs/peers.md explains each step.
#
# Usage: two-hosts.sh
#
# Installs the packages it needs, goes on as root, for the namespaces, and removes what it made. Takes half a minute.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || exec sudo "${BASH_SOURCE[0]}" "$@"
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
plugin=(python "$repository/plugin/wbcache.py")
export PATH=/usr/bin:/bin:/usr/sbin:/sbin PYTHONDONTWRITEBYTECODE=1
"$repository/examples/install-packages.sh" two-hosts
scratch=$(mktemp -d)
# Each host has a /dev/shm of its own.
mkdir "$scratch/shm-a" "$scratch/shm-b"
a=wbcache-a-$$ b=wbcache-b-$$

clean_up() {
    status=$?
    trap - EXIT
    for pid in "$scratch"/*.pid; do
        if [ -s "$pid" ]; then kill -KILL "$(cat "$pid")" 2>/dev/null || true; fi
    done
    ip netns delete "$a" 2>/dev/null || true
    ip netns delete "$b" 2>/dev/null || true
    rm -rf "$scratch"
    exit $status
}
trap clean_up EXIT

say() { printf '\n== %s\n' "$*"; }
wbcache() { PYTHONPATH="$repository" /usr/bin/python3 -m wbcache_core "$@"; }
until_it_says() {
    for _ in $(seq 200); do
        if wbcache status "$1" 2>/dev/null | grep -q "$2"; then return; fi
        sleep 0.1
    done
    echo "two-hosts: no '$2' in the status of $1" >&2
    wbcache status "$1" >&2
    exit 1
}
# serve HOST NAME OPTION... -- PARAMETER...
serve() {
    local host=$1 name=$2 shm=$scratch/shm-${1#wbcache-}
    shift 2
    local options=()
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    shm=${shm%-*}
    WBCACHE_SHM=$shm ip netns exec "$host" nbdkit -P "$scratch/$name.pid" "${options[@]}" "${plugin[@]}" "$@"
}
write() { /usr/bin/nbdsh -u "$1" -c "h.pwrite(b'$2' * 4096, $3); h.flush()"; }
check() { /usr/bin/nbdsh -u "$1" -c "assert h.pread(4096, $3) == b'$2' * 4096; print('block at $3 has $2')"; }
stop() {
    local pid
    pid=$(cat "$scratch/$1.pid")
    kill "-$2" "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -f "$scratch/$1.pid" "$scratch/$1.sock"
}

say "Two hosts, a (10.77.0.1) and b (10.77.0.2), and an origin that both reach"
ip netns add "$a"
ip netns add "$b"
ip link add "wbc-a$$" netns "$a" type veth peer name "wbc-b$$" netns "$b"
ip -n "$a" address add 10.77.0.1/24 dev "wbc-a$$"
ip -n "$b" address add 10.77.0.2/24 dev "wbc-b$$"
for host in "$a" "$b"; do
    ip -n "$host" link set lo up
done
ip -n "$a" link set "wbc-a$$" up
ip -n "$b" link set "wbc-b$$" up
truncate -s 1G "$scratch/origin"

say "b is the standby, a the owner; nobody else is in their network, so they need no TLS"
serve "$b" b -p 10810 -- role=standby plain-tcp=allow log="$scratch/b.log" log-size=64M \
    control="$scratch/b.control"
serve "$a" a -U "$scratch/a.sock" -- origin="$scratch/origin" log="$scratch/a.log" log-size=64M \
    peer=nbd://10.77.0.2:10810 flush=peer fua=peer control="$scratch/a.control"
write "nbd+unix:///?socket=$scratch/a.sock" x 0
until_it_says "$scratch/a.control" up-to-date
wbcache status "$scratch/a.control" | grep ^peer
wbcache status "$scratch/b.control"

say "a is lost (kill -9); its flushed data is on b"
write "nbd+unix:///?socket=$scratch/a.sock" y 4096
stop a KILL

say "b takes over"
stop b TERM
serve "$b" b -U "$scratch/b.sock" -- origin="$scratch/origin" log="$scratch/b.log" force=take-over \
    peer=nbd://10.77.0.1:10810 flush=peer fua=peer control="$scratch/b.control"
check "nbd+unix:///?socket=$scratch/b.sock" x 0
check "nbd+unix:///?socket=$scratch/b.sock" y 4096

say "a is back, as the standby of b"
serve "$a" a -p 10810 -- role=standby plain-tcp=allow log="$scratch/a.log" control="$scratch/a.control"
write "nbd+unix:///?socket=$scratch/b.sock" z 8192
until_it_says "$scratch/b.control" up-to-date
wbcache status "$scratch/b.control" | grep ^peer

say "And back again, as planned: b stops, a takes over"
stop b TERM
stop a TERM
serve "$a" a -U "$scratch/a.sock" -- origin="$scratch/origin" log="$scratch/a.log" force=take-over \
    control="$scratch/a.control"
for one in "x 0" "y 4096" "z 8192"; do
    # shellcheck disable=SC2086
    check "nbd+unix:///?socket=$scratch/a.sock" $one
done
stop a TERM
say "Everything is there"
