# SPDX-License-Identifier: BSD-3-Clause
"""`python3 -m wbcache_core` is the command wbcache."""

import sys

from wbcache_core.command_line import main

sys.exit(main())
