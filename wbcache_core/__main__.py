# SPDX-License-Identifier: BSD-3-Clause
"""`python3 -m wbcache_core` is the command wbcache; installed, the command starts here too."""

import sys

from wbcache_core.tools.main import main

if __name__ == "__main__":
    sys.exit(main())
