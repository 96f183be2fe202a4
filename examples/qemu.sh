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
#     reconnect-delay=20  while the server is away, requests wait up to 20 seconds and are then sent to the new one; without
#                         it the guest gets I/O errors at once. A server that was killed and started again has lost
#                         nothing that was acknowledged (docs/durability.md has the conditions).
#     discard=unmap       the guest's trims reach the volume
# A flush of the guest becomes a flush of the volume, which makes everything durable that the guest wrote before.
#
# docs/qemu.md says more: restarts of the server, hot plug, cache modes, Proxmox VE.
#
# Tools take the same settings in their json: form:
#     qemu-img info 'json:{"driver":"nbd","server":{"type":"unix","path":"/run/wbcache.sock"},"reconnect-delay":20}'
#     qemu-io -f raw -c 'write -P 1 0 64k' -c flush 'nbd+unix:///?socket=/run/wbcache.sock'
#
# Tried with qemu 7.2 in software emulation, besides the two commands above: query-block shows the attached node; a boot
# sector that writes a sector and reads it back in a loop ran from the volume, without an error, across SIGKILL and restart
# of the server, and across SIGTERM and restart while the guest was paused.
set -euo pipefail

[ $# -ge 1 ] || { sed -n 's/^# Usage: /usage: /p' "$0" >&2; exit 2; }
socket=$1
shift
exec qemu-system-x86_64 \
    -blockdev "driver=nbd,node-name=disk0,server.type=unix,server.path=$socket,reconnect-delay=20,discard=unmap" \
    -device virtio-blk-pci,drive=disk0 \
    "$@"
