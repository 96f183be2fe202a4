# SPDX-License-Identifier: BSD-3-Clause
"""Which folder may import from which: one way, up this list. And how long a file may be."""

import ast
import graphlib
import itertools
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CORE = REPOSITORY / "wbcache_core"

# A module imports from its own folder and from those above it. The modules of the core itself come first.
FOLDERS = (
    "", "device", "format", "memory", "log", "pairing", "shipping", "flow", "worker", "volume", "server",
    "nbdkit_process", "tools",
)
LONGEST_FILE_LINES = 500


def name_of(path):
    """`log.writer` of wbcache_core/log/writer.py; a folder's __init__ has the name of the folder."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(CORE.rglob("*.py"))}
FILES = {name: path for name, path in MODULES.items() if name != "__main__"}


def folder_of(name):
    """The folder that a module is in; empty for those of the core itself."""
    first = name.split(".")[0]
    return first if (CORE / first).is_dir() else ""


def imports_of(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def core_imports_of(path):
    names = {name.removeprefix("wbcache_core.") for name in imports_of(path) if name.startswith("wbcache_core.")}
    return names & MODULES.keys() - {name for name, module in MODULES.items() if module.name == "__init__.py"}


GRAPH = {name: core_imports_of(path) for name, path in MODULES.items()}


def test_there_is_no_cycle():
    assert set(graphlib.TopologicalSorter(GRAPH).static_order()) >= MODULES.keys()


def test_every_folder_has_its_rank():
    found = {path.name for path in CORE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert found == set(FOLDERS) - {""}


@pytest.mark.parametrize("name", FILES)
def test_imports_go_one_way(name):
    rank = FOLDERS.index(folder_of(name))
    wrong = {imported for imported in GRAPH[name] if FOLDERS.index(folder_of(imported)) > rank}
    assert not wrong, f"{name} imports from a folder further down the list: {sorted(wrong)}"


@pytest.mark.parametrize("name", MODULES)
def test_the_core_knows_nothing_of_nbdkit_the_plugin_and_the_tests(name):
    roots = {imported.split(".")[0] for imported in imports_of(MODULES[name])}
    assert not roots & {"nbdkit", "plugin", "tests", "wbcache"}


def reachable(name):
    """A module and all that it imports, directly or not."""
    found, todo = set(), [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += GRAPH[name]
    return found


MARKS = {"pairing.identity", "pairing.mark"}
"""The marks of origins are attributes and files beside them."""
MEMORY = {"worker.shared_page"}
"""Memory that two processes share has a descriptor too."""


@pytest.mark.parametrize(
    "name", sorted(name for name in reachable("server.cache") - MARKS - MEMORY if folder_of(name) != "device")
)
def test_in_the_server_only_devices_and_marks_touch_files(name):
    touching = re.compile(r"p?(open|read|write|truncate|fallocate|sync)|p(read|write)v|f(data)?sync|ftruncate|flock")
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "fcntl"):
            assert not touching.fullmatch(node.attr), f"{name} line {node.lineno}: {node.value.id}.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", f"{name} line {node.lineno}: open"


def test_files_are_short():
    folders = ("wbcache_core", "plugin", "tests", "benchmarks")
    files = itertools.chain.from_iterable((REPOSITORY / folder).rglob("*.py") for folder in folders)
    lengths = {path.relative_to(REPOSITORY): len(path.read_text().splitlines()) for path in files}
    assert not {str(path): length for path, length in lengths.items() if length >= LONGEST_FILE_LINES}
