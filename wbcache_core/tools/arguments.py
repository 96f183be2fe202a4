# SPDX-License-Identifier: BSD-3-Clause
"""What the parsers of all commands share."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from wbcache_core.errors import ConfigError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def argument(parse: Callable[[str], object]) -> Callable[[str], object]:
    """One of our parsers with argparse's way of refusing."""

    def convert(text: str) -> object:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
