#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs all tests after installing what they need. Arguments go to pytest; paths start at the repository: -k flush tests/nbdkit
# Some tests mount, so it goes on as root. The last line is pytest's, and so is the exit status.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || exec sudo --preserve-env=WBCACHE_TEST_SEED,WBCACHE_POWER_CUTS "${BASH_SOURCE[0]}" "$@"
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$repository/examples/install-packages.sh" test
cd "$repository"
# All tests at once take three processes on two CPUs; much of the time of each is spent waiting. A process gets the next
# file when it is done with one: the quick ones come last, so that none waits long for the others.
[ $# -gt 0 ] || set -- --numprocesses=3 --dist=loadfile
command -v chromium-headless-shell chromium >/dev/null || [[ $(. /etc/os-release; echo "$ID") != ubuntu ]] ||
    { echo "run: there is no browser, so tests that look at a page are left out" >&2; set -- "$@" -m "not browser"; }
# Interrupted after an hour, pytest still says where it was.
exec timeout --foreground --signal=INT --kill-after=1m 1h /usr/bin/python3 -m pytest "$@"
