#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Two hosts, as network namespaces of this machine, with a shared origin: the owner's host is lost, the standby takes
# over while it runs, the former owner becomes its standby, and takes over again. docs/peers.md explains each step.
#
# Usage: two-hosts.sh
#
# Installs the packages it needs, goes on as root, for the namespaces, and removes what it made. Takes a minute.
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
# serve HOST: nbdkit with the volume, reached at its address; the other parameters follow.
serve() {
    local name=$1 host address peer
    shift
    if [ "$name" = a ]; then host=$a address=10.77.0.1 peer=10.77.0.2; else host=$b address=10.77.0.2 peer=10.77.0.1; fi
    WBCACHE_SHM=$scratch/shm-$name ip netns exec "$host" nbdkit -P "$scratch/$name.pid" -i "$address" -p 10810 \
        "${plugin[@]}" origin="$scratch/origin" log="$scratch/$name.log" log-size=64M control="$scratch/$name.control" \
        peer="nbd://$peer:10810" peer-timeout=2s flush=peer fua=peer "$@"
}
# client HOST CODE: a client on that host, of the server there.
client() {
    local host=$a address=10.77.0.1
    if [ "$1" = b ]; then host=$b address=10.77.0.2; fi
    ip netns exec "$host" /usr/bin/nbdsh -u "nbd://$address:10810" -c "$2"
}
write() { client "$1" "h.pwrite(b'$2' * 4096, $3); h.flush()"; }
check() { client "$1" "assert h.pread(4096, $3) == b'$2' * 4096; print('block at $3 has $2')"; }
stop() {
    local pid
    pid=$(cat "$scratch/$1.pid")
    kill "-$2" "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -f "$scratch/$1.pid"
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
serve b role=standby plain-tcp=allow
serve a
write a x 0
until_it_says "$scratch/a.control" up-to-date
until_it_says "$scratch/b.control" "has everything"
wbcache status "$scratch/b.control"
wbcache nodes "$scratch/a.control" "$scratch/b.control"

say "The link fails; a goes on for a moment with what nobody flushes; then it is lost (kill -9)"
write a y 4096
ip -n "$a" link set "wbc-a$$" down
client a "h.pwrite(b'w' * 4096, 12288)"
sleep 2
stop a KILL
ip -n "$a" link set "wbc-a$$" up

say "b takes over: everything that was flushed is there"
# For a moment b takes the owner for alive.
for _ in $(seq 100); do
    if wbcache promote "$scratch/b.control"; then break; fi
    sleep 0.5
done
check b x 0
check b y 4096

say "a is back, as the standby of b; what it has more than b is looked at, and given up"
serve a role=standby plain-tcp=allow
until_it_says "$scratch/b.control" "wbcache rejoin"
# Exit status 1: there is something to be decided.
wbcache rejoin "$scratch/a.control" || [ $? -eq 1 ]
wbcache rejoin "$scratch/a.control" --discard-tail
wbcache dump "$scratch"/a.log.tail-* | tail -n 3
write b z 8192
until_it_says "$scratch/b.control" up-to-date
until_it_says "$scratch/a.control" "has everything"
wbcache nodes "$scratch/b.control" "$scratch/a.control"

say "And back again, as planned: b stops, a takes over, and b is the standby"
stop b TERM
wbcache promote "$scratch/a.control"
serve b role=standby plain-tcp=allow
write a v 16384
until_it_says "$scratch/a.control" up-to-date
for one in "x 0" "y 4096" "z 8192" "v 16384"; do
    # shellcheck disable=SC2086
    check a $one
done
stop a TERM
stop b TERM
say "Everything is there"
