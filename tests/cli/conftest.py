# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the tests of the command wbcache."""

import json
import logging
from typing import NamedTuple

import pytest

from wbcache_core.tools.main import main


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)

    @property
    def json_lines(self):
        return [json.loads(line) for line in self.stdout.splitlines()]


@pytest.fixture
def wbcache(capsys):
    """Runs the command in this process: wbcache("info", path) -> Outcome."""
    log = logging.getLogger("wbcache")
    before = log.handlers[:], log.level, log.propagate

    def run(*words):
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return Outcome(status, *capsys.readouterr())

    yield run
    log.handlers[:], log.level, log.propagate = before
