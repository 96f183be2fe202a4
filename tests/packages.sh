#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Builds the Debian packages, installs, tries, upgrades and removes them; then installs with pip and tries that.
#
# Usage: packages.sh
#
# Installs and removes packages of the system it runs on, as root: meant for tests/fresh.sh, which makes a system for it.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt reads the packages as a user of its own.
chmod 755 "$work"
step() { echo "packages: $*"; }
give_up() { echo "packages: $*" >&2; exit 1; }
quietly() { "$@" >"$work/output.txt" 2>&1 || { tail -n 60 "$work/output.txt"; give_up "failed: $*"; }; }
export DEBIAN_FRONTEND=noninteractive

# Not the packages that serve a cache: those have to come with ours.
"$repository/examples/install-packages.sh" packages
[ -z "$(dpkg-query --show --showformat='${Package}' wbcache nbdkit-plugin-wbcache 2>/dev/null)" ] ||
    give_up "wbcache is installed here already"

step "build"
"$repository/packaging/build-deb" "$work/first"
"$repository/packaging/build-deb" --suffix +1 "$work/second"

step "lintian"
# Some versions of it leave files behind.
TMPDIR=$work lintian --allow-root --fail-on error,warning "$work"/first/*.changes

step "install"
quietly apt-get -q -y install --no-install-recommends "$work"/first/*.deb
nbdkit wbcache --dump-plugin | grep '^wbcache_version='
man_pages=$(gzip -t /usr/share/man/man1/wbcache.1.gz /usr/share/man/man1/nbdkit-wbcache-plugin.1.gz 2>&1) ||
    # A minimal system may leave out manual pages (path-exclude in dpkg's configuration).
    grep -rqs '^path-exclude=/usr/share/man' /etc/dpkg/dpkg.cfg.d || give_up "$man_pages"
[ "$(id -u wbcache)" -lt 1000 ] || give_up "wbcache is no system user"
for unit in wbcache@.service wbcache-network@.service wbcache-attach@.service wbcache-activated@.service wbcache-activated@.socket; do
    [ -f "/usr/lib/systemd/system/$unit" ] || give_up "$unit is not in the package"
done
[ -z "$(find /etc/systemd/system -name '*wbcache*')" ] || give_up "a unit was enabled"

step "autopkgtest"
mkdir "$work/tree"
cp -r "$repository/packaging/debian" "$repository/examples" "$work/tree/"
quietly autopkgtest --no-built-binaries "$work"/first/*.deb "$work/tree/" -- null
grep -m 1 -E '^quickstart +PASS' "$work/output.txt" || { tail -n 60 "$work/output.txt"; give_up "no test passed"; }

step "upgrade"
quietly apt-get -q -y install --no-install-recommends "$work"/second/*.deb
dpkg-query --show wbcache nbdkit-plugin-wbcache
[ "$(dpkg-query --show --showformat='${Version} ' wbcache nbdkit-plugin-wbcache | tr ' ' '\n' | grep -c '+1$')" -eq 2 ] ||
    give_up "not upgraded"
nbdkit wbcache --dump-plugin >/dev/null

step "remove"
quietly apt-get -q -y purge wbcache nbdkit-plugin-wbcache
# The system user stays, as Debian's packages do it: files may belong to it.
left=$(find / -xdev -name '*wbcache*' -not -path "$repository*" -not -path "$work*" -not -path '/proc/*' -not -path '/sys/*')
[ -z "$left" ] || give_up "files left: $left"

step "pip install"
# The sources are copied because setuptools works in their folder.
cp -r "$repository" "$work/sources"
for options in "" --system-site-packages; do
    venv=$work/venv$options
    # shellcheck disable=SC2086
    /usr/bin/python3 -m venv $options "$venv"
    quietly "$venv/bin/pip" install --disable-pip-version-check "$work/sources"
    plugin=$("$venv/bin/wbcache" plugin-path)
    [ "${plugin#"$venv/lib/python3."}" != "$plugin" ] || give_up "plugin-path: $plugin"
    quietly "$repository/examples/quickstart.sh" --plugin "$plugin"
    PATH=$venv/bin:$PATH quietly nbdkit --dump-plugin python "$plugin"
    step "pip install in an environment ${options:-that is alone}: the quickstart passed"
done
step "pip install without a network"
quietly /usr/bin/python3 -m venv --system-site-packages "$work/offline"
quietly "$work/offline/bin/pip" install --no-index --no-build-isolation "$work/sources"
"$work/offline/bin/wbcache" plugin-path
step "passed"
