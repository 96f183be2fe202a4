#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs the quickstart, the packages' test and all tests on a system on which nothing is installed: a minimal Debian or Ubuntu made by debootstrap
# in a temporary folder, with a clean clone of this repository's last commit. Removes all of it again.
#
# Usage: fresh.sh [--only PART] SUITE [MIRROR]     SUITE: bookworm, trixie, or noble (Ubuntu 24.04)
#
# PART is quickstart, packages (tests/packages.sh), tests, or ceph (tests/ceph.sh), which is not among them unless named.
# Needs root (asks sudo) and about 3 GB below ${TMPDIR:-/var/tmp}. The mirror is the one this machine's apt uses, for another
# distribution than this machine's the distribution's own.
set -euo pipefail

say() { echo "fresh: $*"; }

# The Debian mirror of this machine. apt reads its own configuration, which has several formats.
mirror_of_this_machine() {
    local id=debian codename=
    eval "$(sed -n 's/^ID=/id=/p; s/^VERSION_CODENAME=/codename=/p' /etc/os-release)"
    [ "$id" != debian ] || apt-get indextargets --no-release-info --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" \
        "Identifier: Packages" | awk -v codename="$codename" '
            !found && $2 == "main" && ($1 == codename || $1 ~ /^(old)*stable$|^testing$|^sid$/) { print $3; found = 1 }'
}

# Runs in its own mount and process namespaces: what it mounts is not seen outside, and both end with this function.
inside() {
    local work=$1 suite=$2 mirror=$3 only=$4 root=$1/root failed=0 leftover name
    local environment=(HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin)
    [ -n "${http_proxy:-}" ] || eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
    export http_proxy=${http_proxy:-}
    for name in http_proxy https_proxy no_proxy; do
        [ -z "${!name:-}" ] || environment+=("$name=${!name}")
    done

    # The namespace began with copies of all mounts, and a copy keeps busy what its owner unmounts meanwhile.
    findmnt --list --noheadings --output TARGET | { grep -E '^(/tmp|/var/tmp|/mnt|/media)/' || true; } |
        while read -r name; do umount --lazy "$name" 2>/dev/null || true; done

    say "debootstrap of $suite from $mirror"
    # A debootstrap that is older than the suite has no script for it, but all suites of Ubuntu share one.
    local options=(--variant=minbase --include=ca-certificates) script=()
    [ "$suite" != noble ] || options+=("--components=main,universe")
    [ -e "/usr/share/debootstrap/scripts/$suite" ] || script=(/usr/share/debootstrap/scripts/gutsy)
    debootstrap "${options[@]}" "$suite" "$root" "$mirror" "${script[@]}" >"$work/debootstrap.txt" 2>&1 ||
        { tail -n 20 "$work/debootstrap.txt"; say "debootstrap failed"; return 1; }
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    apt-config dump Acquire | { grep -E '^Acquire::(http|https|Retries|ForceIPv|Check-)' || true; } \
        >"$root/etc/apt/apt.conf.d/90network"
    # pip has a list of certificates of its own; on this machine a proxy may have one that is not on it.
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
        cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/of-the-machine.crt"
        environment+=(PIP_CERT=/etc/ssl/certs/of-the-machine.crt)
    fi
    mv "$work/clone" "$root/root/wbcache"
    # A mount point, so that tests can make namespaces in which its mounts are private.
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"

    in_root() { env -i "${environment[@]}" chroot "$root" "$@" </dev/null; }
    timed() {
        local name=$1 started=$SECONDS result=passed
        shift
        say "$name"
        in_root "$@" || { result="FAILED with status $?"; failed=1; }
        results+=("$name on $suite: $result after $((SECONDS - started)) s")
    }
    local results=()
    wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }
    # The packages before all else: what they need has to come with them.
    ! wanted packages || timed packages /root/wbcache/tests/packages.sh
    [ "$only" != ceph ] || timed ceph /root/wbcache/tests/ceph.sh
    ! wanted quickstart || timed quickstart /root/wbcache/examples/quickstart.sh
    leftover=$(ls -A "$root/tmp")
    [ -z "$leftover" ] || { results+=("files left in /tmp: $leftover"); failed=1; }
    ! wanted tests || timed tests /root/wbcache/tests/run.sh
    leftover=$(ps -e -o comm= | grep -E '^(nbdkit|nbdfuse|qemu-|fio|python)' || true)
    [ -z "$leftover" ] || { results+=("processes left: $leftover"); failed=1; }
    printf 'fresh: %s\n' "${results[@]}"
    return "$failed"
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
    exit
fi
[ "$(id -u)" -eq 0 ] || exec sudo "${BASH_SOURCE[0]}" "$@"
only=
if [ "${1:-}" = --only ]; then
    only=${2:-}
    case "$only" in
        quickstart | packages | tests | ceph) shift 2 ;;
        *) say "no part '$only': quickstart, packages, tests or ceph" >&2; exit 2 ;;
    esac
fi
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: fresh.sh [--only PART] SUITE [MIRROR]" >&2
    exit 2
fi

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$repository/examples/install-packages.sh" fresh
suite=$1
case "$suite" in
    bookworm | trixie)
        mirror=${2:-$(mirror_of_this_machine)}
        mirror=${mirror:-http://deb.debian.org/debian}
        ;;
    noble) mirror=${2:-http://archive.ubuntu.com/ubuntu} ;;
    *) say "no suite '$suite': bookworm, trixie or noble" >&2; exit 2 ;;
esac

work=
namespace=
clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$namespace" ]; then
        # The first process of the namespace takes all others with it, and unshare waits for it.
        first=$(pgrep --parent "$namespace" || true)
        kill -KILL "${first:-$namespace}" || true
        wait "$namespace" || true
    fi
    if [ -n "$work" ] && findmnt --list --noheadings --output TARGET | grep -qF "$work/"; then
        say "something is mounted below $work, left there" >&2
        exit 1
    fi
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

work=$(mktemp -d "${TMPDIR:-/var/tmp}/wbcache-fresh.XXXXXXXX")
# The repository may belong to another user than root, to which git would object.
printf '[safe]\n\tdirectory = *\n' >"$work/gitconfig"
GIT_CONFIG_GLOBAL=$work/gitconfig git clone --quiet --no-hardlinks "$repository" "$work/clone"
say "commit $(git -C "$work/clone" log -1 --format='%h %s')"
# In the background, since bash runs no trap while a program in the foreground runs.
unshare --mount --propagation slave --pid --fork --kill-child --mount-proc "$BASH" "${BASH_SOURCE[0]}" --inside "$work" "$suite" "$mirror" "$only" &
namespace=$!
wait "$namespace" && status=0 || status=$?
namespace=
exit "$status"
