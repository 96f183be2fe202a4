#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Cuts the power of simulated caches, with new seeds, until the time is over or a promise is broken.
# A failure prints the command that repeats it.
#
# Usage: soak.sh [--minutes N] [--seed SEED]     an hour unless said otherwise; SEED is the first one
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec /usr/bin/python3 -m tests.crash.soak "$@"
