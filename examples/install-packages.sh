#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Installs the packages that a task needs and this machine lacks. Works on Debian 12, Debian 13 and Ubuntu 24.04.
#
# Usage: install-packages.sh TASK...
#   run         serve a cache
#   quickstart  examples/quickstart.sh
#   backup      examples/incremental-backup.sh
#   undo        examples/undo-a-mistake.sh
#   two-hosts   examples/two-hosts.sh
#   picture     wbcache picture
#   ceph        tests/ceph.sh
#   test        tests/run.sh
#   bench       benchmarks/run
#   check       .ci/run
#   pip         pip install .
#   deb         packaging/build-deb
#   packages    tests/packages.sh
#   fresh       tests/fresh.sh
#   service     tests/service.sh, and service-guest in the system that it makes
#
# This is the one place that names packages. All messages go to stderr.
set -euo pipefail

declare -A packages
packages[run]="python3 python3-sortedcontainers python3-xxhash python3-zstandard nbdkit nbdkit-plugin-python"
packages[quickstart]="${packages[run]} libnbd-bin e2fsprogs"
packages[test]="${packages[quickstart]} python3-hypothesis python3-libnbd python3-pip python3-pytest
    python3-setuptools python3-venv python3-wheel
    python3-pytest-timeout python3-pytest-xdist busybox-static cpio fdisk fio fuse3 gnutls-bin iproute2 kmod libvirt-clients
    libvirt-daemon libvirt-daemon-driver-qemu mount nftables procps python3-matplotlib
    prometheus python3-prometheus-client python3-rich qemu-system-x86 qemu-utils systemd util-linux xfsprogs"
# Ubuntu has browsers only as snaps; tests/run.sh leaves out what needs one there.
[[ $(. /etc/os-release; echo "$ID") = ubuntu ]] || packages[test]+=" chromium-headless-shell"
packages[bench]="${packages[run]} fio libnbd-bin python3-libnbd python3-matplotlib qemu-utils util-linux"
packages[backup]="${packages[run]} libnbd-bin python3-libnbd qemu-utils"
packages[undo]="${packages[run]} libnbd-bin e2fsprogs fuse3 mount util-linux"
packages[two-hosts]="${packages[run]} iproute2 libnbd-bin procps python3-libnbd"
packages[ceph]="${packages[run]} ceph-common ceph-mon ceph-osd libnbd-bin procps python3-boto3 python3-libnbd
    qemu-block-extra qemu-utils radosgw util-linux"
packages[picture]="${packages[run]} python3-matplotlib"
packages[check]="${packages[run]} python3-venv shellcheck"
packages[pip]="python3-pip python3-venv"
packages[deb]="build-essential debhelper dh-python dpkg-dev pybuild-plugin-pyproject python3-all python3-setuptools"
packages[packages]="${packages[deb]} autopkgtest lintian python3-pip python3-venv python3-wheel"
packages[service]="${packages[deb]} busybox-static cpio debian-archive-keyring debootstrap e2fsprogs kmod qemu-system-x86
    util-linux xz-utils"
packages[service-guest]="${packages[run]} e2fsprogs fio libnbd-bin procps python3-libnbd qemu-utils util-linux"
packages[fresh]="debian-archive-keyring debootstrap git mount procps util-linux"

say() { echo "install-packages: $*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

[ $# -gt 0 ] || { say "name a task: ${!packages[*]}"; exit 2; }
wanted=()
for task in "$@"; do
    [ -n "${packages[$task]:-}" ] || { say "no task '$task', only: ${!packages[*]}"; exit 2; }
    read -r -d '' -a names <<<"${packages[$task]}" || true
    wanted+=("${names[@]}")
done

command -v dpkg-query >/dev/null || { say "neither Debian nor Ubuntu; needed here: ${wanted[*]}"; exit 1; }
declare -A missing=()
for name in "${wanted[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null) || true
    [ "$state" = installed ] || missing[$name]=1
done
# Tests start a guest. Its kernel is only unpacked, because to install it would change how this machine boots.
kernel=/var/cache/wbcache-tests/kernel
unpack_kernel() {
    local folder=$1 image version name
    # shellcheck source=/dev/null
    case $(. /etc/os-release; echo "$ID") in
        ubuntu) image=linux-image-virtual ;;
        *) image=linux-image-cloud-$(dpkg --print-architecture) ;;
    esac
    version=$(apt-cache depends "$image" | sed -n 's/.*Depends: linux-image-//p' | head -n 1)
    mkdir -p "$folder/new"
    cd "$folder"
    for name in "linux-image-$version" "linux-modules-$version"; do
        # Debian has the modules in the package of the image.
        [[ -z $(apt-cache show "$name" 2>/dev/null) ]] || apt-get -q download "$name"
    done
    for name in *.deb; do dpkg-deb --extract "$name" new; done
    [ -e new/lib ] || ln -s usr/lib new/lib
    depmod --basedir new "$version"
    rm -rf "$kernel"
    mkdir -p "$(dirname "$kernel")"
    mv new "$kernel"
}
needs_kernel() {
    [[ " $tasks " =~ " test "|" service " && ! -e $kernel ]]
}
tasks="$*"

[ ${#missing[@]} -gt 0 ] || needs_kernel || exit 0

names="${!missing[*]}"
say "installing ${names:-a kernel for the guests of tests}"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
# What apt prints is shown only when it fails. A mirror that fails in update may not be one that is needed.
updated=$(as_root "${apt[@]}" update 2>&1 </dev/null) || say "apt-get update failed: $updated"
[ ${#missing[@]} -eq 0 ] || installed=$(as_root "${apt[@]}" install --no-install-recommends "${!missing[@]}" 2>&1 </dev/null) ||
    { say "apt-get install failed: $installed"; exit 1; }
if needs_kernel; then
    work=$(mktemp -d)
    unpacked=$(as_root bash -ec "kernel=$kernel; $(declare -f unpack_kernel); unpack_kernel $work" 2>&1) ||
        { say "no kernel for the guests of tests: $unpacked"; exit 1; }
    as_root rm -rf "$work"
fi
