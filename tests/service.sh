#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Shows the systemd units at work: builds the packages, installs them in a small Debian of the release of this machine, and
# starts that three times in qemu, with Debian's kernel and under software emulation. tests/service/guest.sh runs there.
#
# Usage: service.sh [--restarts N] [--keep FOLDER]
#
# The service is restarted, and killed, N times (2) under load. Takes some fifteen minutes, six of them in the last shutdown,
# and half a minute more for each restart; and more the first time, when it makes /var/cache/wbcache-tests/service-RELEASE.
# With --keep what the console said, and the disks, stay in FOLDER. Needs root (asks sudo).
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "service: $*"; }
give_up() { say "FAILED: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || exec sudo "${BASH_SOURCE[0]}" "$@"
restarts=2
if [ "${1:-}" = --restarts ] && [[ ${2:-} =~ ^[1-9][0-9]{0,2}$ ]]; then
    restarts=$2
    shift 2
fi
kept=
if [ "${1:-}" = --keep ] && [ $# -eq 2 ]; then
    mkdir -p "$2"
    kept=$(cd "$2" && pwd)
elif [ $# -gt 0 ]; then
    echo "usage: service.sh [--restarts N] [--keep FOLDER]" >&2
    exit 2
fi
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") || give_up "this needs Debian"

folder=
machine=
clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$machine" ]; then
        kill -KILL "$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    [ -z "$folder" ] || [ -n "$kept" ] || rm -rf "$folder"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$repository/examples/install-packages.sh" service
folder=${kept:-$(mktemp -d "${TMPDIR:-/var/tmp}/wbcache-service.XXXXXXXX")}
quietly() { "$@" >"$folder/output.txt" 2>&1 </dev/null || { tail -n 30 "$folder/output.txt" >&2; give_up "$*"; }; }

kernel=/var/cache/wbcache-tests/kernel
version=$(find "$kernel/lib/modules/" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -V | tail -n 1)

# The distribution without our packages, which is kept, and named after the list of packages in it.
list=$(grep -E '^packages\[(run|service-guest)\]=' "$repository/examples/install-packages.sh" | cksum | cut -d' ' -f1)
base=/var/cache/wbcache-tests/service-$suite-$list
if [ ! -e "$base" ]; then
    say "debootstrap of $suite (once)"
    rm -rf "$base.new" "${base%-*}"-*
    mirror=$(apt-get indextargets --no-release-info --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" "Identifier: Packages" |
        awk -v suite="$suite" '!found && $1 == suite && $2 == "main" { print $3; found = 1 }')
    quietly debootstrap --variant=minbase --include=ca-certificates,dbus,kmod,systemd,systemd-sysv,udev "$suite" "$base.new" \
        "${mirror:-http://deb.debian.org/debian}"
    cp --dereference /etc/resolv.conf "$base.new/etc/resolv.conf"
    apt-config dump Acquire | { grep -E '^Acquire::(http|https|Retries|ForceIPv|Check-)' || true; } \
        >"$base.new/etc/apt/apt.conf.d/90network"
    cp "$repository/examples/install-packages.sh" "$base.new/root/"
    quietly chroot "$base.new" /root/install-packages.sh service-guest
    quietly chroot "$base.new" apt-get clean
    mv "$base.new" "$base"
fi

say "packages"
quietly "$repository/packaging/build-deb" "$folder/packages"

say "disks"
root=$folder/root
rm -rf "$root"
cp -a "$base" "$root"
mkdir -p "$root/lib/modules" "$root/var/lib/test" "$root/var/log/journal" "$root/etc/wbcache" "$root/mnt/disk0" "$root/mnt/net0"
cp -a "$kernel/lib/modules/$version" "$root/lib/modules/"
cp "$folder"/packages/*.deb "$root/root/"
mapfile -t built < <(cd "$folder/packages" && printf "/root/%s\n" *.deb)
quietly chroot "$root" dpkg --install "${built[@]}"
rm "$root"/root/*.deb
cp -r "$repository/tests/service/etc/." "$root/etc/"
install -m 755 "$repository/tests/service/guest.sh" "$root/usr/local/sbin/service-test"
for image in slow remote; do
    truncate -s 96M "$root/var/lib/test/$image.img"
    # Smaller blocks, the default at this size, would be parts of pages, whose rest is read from the origin.
    mkfs.ext4 -q -b 4096 "$root/var/lib/test/$image.img"
done
quietly chroot "$root" install -d -o wbcache -g wbcache -m 700 /var/lib/wbcache
for image in plain.img sock0.img; do
    quietly chroot "$root" install -o wbcache -m 600 /dev/null "/var/lib/wbcache/$image"
done
truncate -s 32M "$root/var/lib/wbcache/plain.img"
truncate -s 8M "$root/var/lib/wbcache/sock0.img"
# It would hang up the console.
quietly chroot "$root" systemctl mask serial-getty@ttyS0
quietly chroot "$root" systemctl enable wbcache@disk0 wbcache-attach@disk0 wbcache-network@net0 wbcache-attach@net0 \
    wbcache-activated@sock0.socket late-device origin-server writer service-test
truncate -s 3G "$folder/root.img"
quietly mkfs.ext4 -q -d "$root" "$folder/root.img"
rm -rf "$root"
for log in 0 1; do
    rm -f "$folder/log$log.img"
    truncate -s 128M "$folder/log$log.img"
done

# Enough to reach the disk.
early=$folder/early
rm -rf "$early"
mkdir -p "$early/bin" "$early/modules" "$early/proc" "$early/sys" "$early/dev" "$early/root"
cp /bin/busybox "$early/bin/"
for module in virtio_pci virtio_blk ext4; do
    modprobe --show-depends --dirname "$kernel" --set-version "$version" "$module" | sed -n 's/^insmod //p'
done | awk '!seen[$1]++ { print $1 }' >"$folder/modules.txt"
number=10
while read -r module; do
    name=$(basename "$module")
    case $name in
        *.xz) xz --decompress --stdout "$module" >"$early/modules/$number-${name%.xz}" ;;
        *) cp "$module" "$early/modules/$number-$name" ;;
    esac
    number=$((number + 1))
done <"$folder/modules.txt"
cat >"$early/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
mount -o rw /dev/vda /root
umount /sys
mount --move /dev /root/dev
exec switch_root /root /lib/systemd/systemd
INIT
chmod 755 "$early/init"
(cd "$early" && find . | cpio --quiet -o -H newc) >"$folder/initramfs"

# boot PART SECONDS: until the machine is off, and at most so long after it said that it shuts down.
boot() {
    local part=$1 limit=$2 console=$folder/console-$1.txt told=0 lines ended=
    : >"$console"
    setpriv --pdeathsig KILL qemu-system-x86_64 -machine pc,accel=tcg -smp 2 -m 1024 -nodefaults -display none -no-reboot \
        -serial "file:$console" -kernel "$kernel/boot/vmlinuz-$version" -initrd "$folder/initramfs" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off systemd.show_status=0 systemd.journald.forward_to_console=0 \
            test.restarts=$restarts" \
        -drive "file=$folder/root.img,format=raw,if=none,id=root,cache=unsafe" -device virtio-blk-pci,drive=root \
        -drive "file=$folder/log0.img,format=raw,if=none,id=log0" -device virtio-blk-pci,drive=log0,serial=log0 \
        -drive "file=$folder/log1.img,format=raw,if=none,id=log1" -device virtio-blk-pci,drive=log1,serial=log1 &
    machine=$!
    for ((second = 0; second < 1800 + 60 * restarts; second++)); do
        lines=$(grep -a -c '^service: ' "$console" || true)
        [ "$lines" -le "$told" ] || grep -a '^service: ' "$console" | sed -n "$((told + 1)),${lines}p" | sed 's/^service: /  /; s/\r$//'
        told=$lines
        kill -0 "$machine" 2>/dev/null || break
        [ -n "$ended" ] || ! grep -a -q '^service: shutting down' "$console" || ended=$second
        [ -z "$ended" ] || [ $((second - ended)) -le "$limit" ] || break
        sleep 1
    done
    if kill -0 "$machine" 2>/dev/null; then
        tail -n 40 "$console"
        give_up "part $part: the machine is still on, ${ended:+$((second - ended)) s after it said that it shuts down}"
    fi
    wait "$machine" || give_up "qemu ended with status $?"
    machine=
    grep -a -q "^service: part $part passed" "$console" || { [ -z "$kept" ] || say "see $console"; give_up "part $part"; }
    say "part $part passed, and the machine was off after $((second - ${ended:-$second})) s"
}

say "part 1: devices and servers that are late, kills, restarts"
boot 1 120
say "part 2: what an orderly shutdown left; an origin that goes away"
boot 2 120
say "part 3: a start without an origin; a cache that goes away"
# umount has to be given up first, which systemd does step by step, each of 90 seconds.
boot 3 600
say "passed"
