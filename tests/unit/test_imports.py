# SPDX-License-Identifier: BSD-3-Clause
"""Which module may import which: one way, down the layers. And how long a file may be."""

import ast
import graphlib
import itertools
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CORE = REPOSITORY / "wbcache_core"
MODULES = {path.stem: path for path in sorted(CORE.glob("*.py"))}

# From the top down. A module imports from its own layer and those below; one that is not named here, from any.
LAYERS = (
    "control_commands",
    "control_server rates cache checker offline_devices",
    "control_socket live_status",
    "volume destager recovery pair_recovery log_survey snapshot history",
    "carrier",
    "bad_blocks committer origin_writer extents volume_reader throttle tags",
    "pins log_window",
    "log_writer log_reader number_line superblock_store pairing fingerprint destage_batch moments",
    "covered_log frame_compressor",
    "record_index generations",
    "timeline",
    "origin_mark origin_identity",
    "ring_buffer location_map segment_table pending_segment frames config block_device nbd_device nbd_connection",
    "segment_format superblock_format origin_facts nbd_times device_name",
    "nbd_uri",
    "thread_state shutdown_watcher control_client",
    "kernel_aio connected_device discard_support optional_requests clock image_claim",
    "qemu_locks image_users",
    "background units memory_limit",
    "errors",
)
LONGEST_FILE_LINES = 500


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
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith("wbcache_core.")}
    return names & MODULES.keys()


GRAPH = {name: core_imports_of(path) for name, path in MODULES.items()}
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer.split()}


def test_there_is_no_cycle():
    assert set(graphlib.TopologicalSorter(GRAPH).static_order()) >= MODULES.keys()


def test_each_layer_names_modules_that_exist():
    assert LAYER_OF.keys() <= MODULES.keys()


@pytest.mark.parametrize("name", LAYER_OF)
def test_imports_go_down(name):
    above = {imported for imported in GRAPH[name] if LAYER_OF.get(imported, -1) < LAYER_OF[name]}
    assert not above, f"{name} imports from above: {sorted(above)}"


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


WITH_FILES = {"block_device", "origin_identity", "origin_mark"}
"""Devices, and the marks of origins, which are attributes and files beside them."""


@pytest.mark.parametrize("name", sorted(reachable("cache") - WITH_FILES))
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
