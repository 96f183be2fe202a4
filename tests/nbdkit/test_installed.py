# SPDX-License-Identifier: BSD-3-Clause
"""What pip installs, and that the plugin finds its core and its modules from there, however nbdkit is started.

Nothing here needs a network or a package that the machine lacks.
"""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.support.clients import REPOSITORY

PYTHON = "/usr/bin/python3"
SOURCES = ("LICENSE", "README.md", "plugin", "pyproject.toml", "setup.cfg", "wbcache_core")
EMBEDDED = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def run(*words, **environment):
    outcome = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd="/",
        env=dict(os.environ, LC_ALL="C", PYTHONDONTWRITEBYTECODE="1", PIP_DISABLE_PIP_VERSION_CHECK="1", **environment),
    )  # fmt: skip
    outcome.everything = outcome.stdout + outcome.stderr
    return outcome


def succeed(*words, **environment):
    outcome = run(*words, **environment)
    assert outcome.returncode == 0, outcome.everything
    return outcome.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # In a copy: setuptools works in the folder of the sources.
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy)
    succeed(PYTHON, "-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", folder, copy)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel, environment, *options):
    succeed(PYTHON, "-m", "venv", "--without-pip", *options, environment)
    pip = (PYTHON, "-m", "pip", "--python", environment / "bin" / "python")
    succeed(*pip, "install", "--no-index", "--no-deps", wheel)
    return environment


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """An environment that does not see the system's packages."""
    return install(wheel, tmp_path_factory.mktemp("alone") / "venv")


@pytest.fixture
def installed(wheel, tmp_path):
    """Unpacks the wheel into a folder of the given name below tmp_path, and returns that folder."""

    def unpack(place):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / place)
        return tmp_path / place

    return unpack


def plugin_in(folder):
    return folder / "wbcache_plugin" / "wbcache.py"


def dump(plugin, **environment):
    return run("nbdkit", "--dump-plugin", "python", plugin, **environment)


def starts(plugin, **environment):
    return "wbcache_version=" in succeed("nbdkit", "--dump-plugin", "python", plugin, **environment)


def test_the_wheel_has_the_core_the_plugin_and_nothing_else(wheel):
    core = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "wbcache_core").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == core | {"wbcache_plugin/wbcache.py"}
        ours = (REPOSITORY / "plugin" / "wbcache.py").read_bytes()
        assert archive.read("wbcache_plugin/wbcache.py") == ours


def test_plugin_path_in_the_sources():
    shown = succeed(PYTHON, "-m", "wbcache_core", "plugin-path", PYTHONPATH=str(REPOSITORY))
    assert shown == f"{REPOSITORY / 'plugin' / 'wbcache.py'}\n"


def test_from_an_environment_with_the_packages_of_the_system(wheel, tmp_path):
    environment = install(wheel, tmp_path / "venv", "--system-site-packages")
    plugin = succeed(environment / "bin" / "wbcache", "plugin-path").rstrip("\n")
    assert plugin == str(plugin_in(environment / "lib" / EMBEDDED / "site-packages"))
    assert starts(plugin)
    assert starts(plugin, PATH=f"{environment / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize("activated", [False, True])
def test_from_an_environment_without_them(alone, activated):
    """Activated, it is the embedded Python's own: then the system's folders are not on its path."""
    path = f"{alone / 'bin'}:{os.environ['PATH']}" if activated else os.environ["PATH"]
    assert starts(plugin_in(alone / "lib" / EMBEDDED / "site-packages"), PATH=path)


def test_a_clone_in_a_shell_with_an_activated_environment(alone):
    assert starts(REPOSITORY / "plugin" / "wbcache.py", PATH=f"{alone / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize("place", [f"lib/{EMBEDDED}/site-packages", "any/folder"])
def test_what_lies_beside_it_does_not_hide_the_standard_library(installed, place):
    folder = installed(place)
    (folder / "socket.py").write_text("raise ImportError('the wrong one')\n")
    assert starts(plugin_in(folder))


def test_modules_for_another_python_are_passed_over(installed):
    folder = installed("lib/python3.99/site-packages")
    (folder / "xxhash.py").write_text("raise ImportError('for another Python')\n")
    assert starts(plugin_in(folder))


def test_modules_for_the_same_python_come_first(installed):
    folder = installed(f"lib/{EMBEDDED}/site-packages")
    (folder / "xxhash.py").write_text("raise ImportError('found')\n")
    outcome = dump(plugin_in(folder))
    assert outcome.returncode == 1


def test_a_module_that_is_missing_is_named(installed):
    folder = installed(f"lib/{EMBEDDED}/site-packages")
    for name in ("xxhash", "zstandard"):
        (folder / f"{name}.py").write_text("raise ImportError('missing')\n")
    outcome = dump(plugin_in(folder))
    assert outcome.returncode == 1
    assert "wbcache: cannot load Python modules: xxhash, zstandard." in outcome.stderr
    assert "apt install python3-xxhash python3-zstandard\n" in outcome.stderr
    assert "Traceback" not in outcome.everything


def test_a_plugin_without_its_core(tmp_path):
    plugin = plugin_in(tmp_path)
    plugin.parent.mkdir()
    shutil.copy(REPOSITORY / "plugin" / "wbcache.py", plugin)
    outcome = dump(plugin)
    assert outcome.returncode == 1
    assert f"does not find its core, wbcache_core, in {tmp_path}" in outcome.stderr
    assert "Traceback" not in outcome.everything
