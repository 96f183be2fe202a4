# SPDX-License-Identifier: BSD-3-Clause
"""The systemd units, as far as that can be seen without a systemd that runs: tests/service.sh shows the rest."""

import configparser
import re
import shutil
import subprocess

import pytest

from tests.support.clients import REPOSITORY

FOLDER = REPOSITORY / "examples" / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*@.*"))
SERVICES = [name for name in UNITS if name.endswith(".service")]
CACHES = [name for name in SERVICES if "attach" not in name]
ALONE = {"PrivateNetwork=yes", "IPAddressDeny=any", "RestrictAddressFamilies=AF_UNIX"}
WITH_NETWORK = {"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"}
NOT_IN_ALL = ("Type=", "PIDFile=", "ExecStart=", "ExecStartPost=")


def directives(unit):
    """Of its section [Service], those of several lines as one."""
    text = (FOLDER / unit).read_text().replace("\\\n", " ")
    service = text.split("[Service]\n")[1].split("\n[")[0]
    return [re.sub(" +", " ", line) for line in service.splitlines() if line and not line.startswith("#")]


def analyze(*words):
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_it(unit, tmp_path):
    for name in UNITS:
        shutil.copy(FOLDER / name, tmp_path)
    done = analyze("verify", "--man=no", "--recursive-errors=no", tmp_path / unit.replace("@", "@disk0"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_is_low(unit):
    """Below 2.0 on systemd's scale of 0 to 10."""
    done = analyze("security", "--no-pager", "--offline=true", "--threshold=20", FOLDER / unit)
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("unit", CACHES)
def test_caches_differ_only_in_what_they_have_to(unit):
    def common(name):
        network = ALONE | WITH_NETWORK
        return [line for line in directives(name) if line not in network and not line.startswith(NOT_IN_ALL)]

    assert common(unit) == common("wbcache@.service")


def test_only_the_unit_for_network_origins_has_a_network():
    for unit in CACHES:
        found = (ALONE | WITH_NETWORK) & set(directives(unit))
        assert found == (WITH_NETWORK if unit == "wbcache-network@.service" else ALONE)


@pytest.mark.parametrize("unit", CACHES)
def test_units_of_one_name_exclude_each_other(unit):
    """They share a folder, which the first one to fail would remove."""
    others = {name.replace("@", "@%i") for name in CACHES} - {unit.replace("@", "@%i")}
    (line,) = (line for line in (FOLDER / unit).read_text().splitlines() if line.startswith("Conflicts="))
    assert set(line.removeprefix("Conflicts=").split()) == others


@pytest.mark.parametrize("unit", CACHES)
def test_a_killed_server_is_started_again_and_finds_its_ring(unit):
    text, found = (FOLDER / unit).read_text(), directives(unit)
    assert "Restart=always" in found and "TimeoutStartSec=infinity" in found
    assert "StartLimitIntervalSec=0" in text.split("[Service]")[0]
    # The boot cannot be told without /proc/sys, and then the ring is of no use.
    assert not [line for line in found if line.startswith(("ProcSubset=", "RemoveIPC=", "DynamicUser="))]
    # systemd's own would stop the service when the worker is killed.
    assert "OOMPolicy=continue" in found


@pytest.mark.parametrize("unit", UNITS)
def test_a_restart_of_the_cache_stops_nothing_else(unit):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string((FOLDER / unit).read_text().replace("\\\n", " "))
    binding = {"Requires", "BindsTo", "PartOf"} & set(parser["Unit"])
    needed = {parser["Unit"][name] for name in binding}
    assert needed <= {"wbcache-activated@%i.socket"}


def test_the_socket_is_not_lost_on_the_way():
    """nbdkit does not pass it on to the nbdkit that a plugin starts which is a script, as the packages' is."""
    (start,) = (line for line in directives("wbcache-activated@.service") if line.startswith("ExecStart="))
    words = start.split()
    assert words[:2] == ["ExecStart=/usr/bin/nbdkit", "python"] and words[2].endswith("/wbcache_plugin/wbcache.py")


@pytest.mark.parametrize("example", sorted(path.name for path in FOLDER.glob("*.conf")))
def test_an_example_has_what_the_units_read(example):
    assigned = {line.split("=")[0] for line in (FOLDER / example).read_text().splitlines() if line[:1].isupper()}
    assert {"ORIGIN", "LOG", "PARAMETERS"} <= assigned <= {"ORIGIN", "LOG", "PARAMETERS", "DEVICE"}


def test_the_package_has_all_of_them():
    packaging = REPOSITORY / "packaging" / "debian"
    installed = (packaging / "wbcache.install").read_text()
    for name in ("*.service", "*.socket"):
        assert f"examples/systemd/{name} usr/lib/systemd/system\n" in installed
    assert "examples/systemd/*.conf\n" in (packaging / "wbcache.examples").read_text()


def test_one_way_to_mount_is_described_and_tried():
    entry = "nofail,_netdev,x-systemd.requires=wbcache-attach@disk0.service,x-systemd.device-timeout=infinity 0 2\n"
    for path in ("examples/systemd/wbcache-attach@.service", "docs/service.md", "tests/service/etc/fstab"):
        assert entry in (REPOSITORY / path).read_text()


def wait(devices, tmp_path, limit_s=20):
    """Runs what the unit runs before the server, as systemd does: $$ is $, and each ${NAME} one word."""
    (line,) = (line for line in directives("wbcache@.service") if line.startswith("ExecStartPre="))
    script = re.search("'(.*)'", line).group(1).replace("$$", "$").replace("/dev/", f"{tmp_path}/")
    return subprocess.Popen(
        ["/bin/sh", "-c", script.replace("left=160", f"left={limit_s * 2}").replace("-lt 160", f"-lt {limit_s * 2}"),
         "wait", *devices], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_late_device_is_waited_for(tmp_path):
    process = wait([tmp_path / "origin", "nbd://not/a/device"], tmp_path)
    assert process.stdout.readline() == f"<5>waiting for {tmp_path}/origin\n"
    assert process.poll() is None
    (tmp_path / "origin").touch()
    assert process.communicate(timeout=30)[0] == "" and process.returncode == 0


def test_but_not_for_ever(tmp_path):
    process = wait([tmp_path / "origin", tmp_path / "log"], tmp_path, limit_s=1)
    told = [f"<5>waiting for {tmp_path}/{name}" for name in ("origin", "log")]
    assert process.communicate(timeout=30)[0].splitlines() == told
