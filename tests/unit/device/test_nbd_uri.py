# SPDX-License-Identifier: BSD-3-Clause
"""Relative paths inside an origin's URI."""

import os

import pytest

from wbcache_core.server.config import Config

HERE = os.getcwd()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("nbd+unix:///?socket=a.sock", f"nbd+unix:///?socket={HERE}/a.sock"),
        ("nbd+unix:///x?socket=a%20b", f"nbd+unix:///x?socket={HERE}/a%20b"),
        ("nbd+unix:///?socket=/a/../b", "nbd+unix:///?socket=/a/../b"),
        ("nbds://h/?tls-certificates=pki", f"nbds://h/?tls-certificates={HERE}/pki"),
        ("nbds+unix:///?tls-psk-file=k&socket=s", f"nbds+unix:///?tls-psk-file={HERE}/k&socket={HERE}/s"),
        ("nbd://host/socket=x", "nbd://host/socket=x"),
    ],
)
def test_paths_are_made_absolute(given, wanted):
    assert Config.from_pairs([("origin", given), ("log", "/l")]).origin == wanted
