# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache plugin-path`: where the plugin of this core is, for `nbdkit python "$(wbcache plugin-path)"`."""

from pathlib import Path

import wbcache_core
from wbcache_core.errors import ConfigError

_PLACES = ("wbcache_plugin/wbcache.py", "plugin/wbcache.py")
"""Places beside the core: as installed, and in the sources."""


def find_plugin() -> Path:
    """The absolute path of the plugin. Raises ConfigError if it is not beside the core."""
    home = Path(wbcache_core.__file__).resolve().parent.parent
    for place in _PLACES:
        if (home / place).is_file():
            return home / place
    places = " nor ".join(_PLACES)
    raise ConfigError(f"the plugin is not beside its core: neither {places} is in {home}; install wbcache again")


def run_plugin_path() -> int:
    print(find_plugin())
    return 0
