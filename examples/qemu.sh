#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Starts a virtual machine whose disk is a wbcache volume, served on a Unix socket.
#
# Usage: qemu.sh SOCKET [ARGUMENT OF QEMU]...
#
#     nbdkit --unix /run/wbcache.sock python plugin/wbcache.py origin=/dev/sdX log=/dev/nvmeYnZ
#     examples/qemu.sh /run/wbcache.sock -m 2G -accel kvm
#
# What the settings do:
#     reconnect-delay=20  while the server is away (killed, updated) requests wait up to 20 seconds and are then sent again
#                         to the new one; without it the guest gets I/O errors at once
#     discard=unmap       the guest's trims reach the volume
#     num-queues          one connection carries all; the cache needs no more than one
# The guest's flushes become flushes of the volume. Its write cache has to stay on (write-cache=on, qemu's default for a
# disk that reports one): a guest that thinks that there is none sends no flush, and what it wrote is then safe from a
# crash of the server only after commit-interval.
#
# Tools take the same settings in their json: form:
#     qemu-img info 'json:{"driver":"nbd","server":{"type":"unix","path":"/run/wbcache.sock"},"reconnect-delay":20}'
#     qemu-io -f raw -c 'write -P 1 0 64k' -c flush 'nbd+unix:///?socket=/run/wbcache.sock'
set -euo pipefail

[ $# -ge 1 ] || { sed -n 's/^# Usage: /usage: /p' "$0" >&2; exit 2; }
socket=$1
shift
exec qemu-system-x86_64 \
    -blockdev "driver=nbd,node-name=disk0,server.type=unix,server.path=$socket,reconnect-delay=20,discard=unmap" \
    -device virtio-blk-pci,drive=disk0 \
    "$@"
