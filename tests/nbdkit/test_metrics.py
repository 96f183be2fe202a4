# SPDX-License-Identifier: BSD-3-Clause
"""Metrics against the clients that produced them, and against a real Prometheus: rules, dashboard, scraping."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.support import clients
from tests.support.clients import REPOSITORY
from tests.support.control import wbcache
from tests.support.gated_origin import wait_until

MIB = 1 << 20
PAGE = 4096
EXAMPLES = REPOSITORY / "packaging" / "prometheus"
LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
START_S = 60


def free_port():
    with socket.socket() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        return endpoint.getsockname()[1]


def fetch(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return answer.read().decode()


def values(text):
    """(name, the labels but volume) -> value."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = LINE.fullmatch(line).groups()
            rest = ",".join(part for part in (labels or "").split(",") if not part.startswith("volume="))
            found[name, rest] = float(value)
    return found


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def server(pair, port, control):
    pair.make_origin(16 * MIB)
    with pair.serve(metrics=port, control=control, commit_interval="1h", destage_delay="1h") as server:
        yield server


def some_load(server):
    with clients.connection(server.uri) as handle:
        for number in range(20):
            handle.pwrite(b"w" * PAGE, number % 10 * PAGE)
        handle.pread(PAGE, 0)
        handle.pread(2 * PAGE, 8 * MIB)
        handle.trim(MIB, 4 * MIB)
        handle.zero(MIB, 5 * MIB)
        handle.flush()
        handle.flush()


def test_they_are_what_the_client_did(server, port, control):
    some_load(server)
    found = values(fetch(port))
    counts = {kind: f'type="{kind}"' for kind in ("read", "write", "clear")}
    counts = {kind: found["wbcache_requests_total", label] for kind, label in counts.items()}
    assert counts == {"read": 2, "write": 20, "clear": 2}
    assert found["wbcache_requests_total", 'type="flush"'] >= 2
    timed = [found["wbcache_request_duration_seconds_count", f'type="{kind}"'] for kind in ("read", "write")]
    assert timed == [2, 2], "those at block 0, 16, ..."
    assert found["wbcache_request_bytes_total", 'type="write"'] == 20 * PAGE
    assert found["wbcache_request_bytes_total", 'type="read"'] == 3 * PAGE
    assert found["wbcache_reads_total", 'source="ring"'] == 1
    assert found["wbcache_reads_total", 'source="origin"'] == 1
    assert found["wbcache_commit_duration_seconds_count", ""] >= 1
    assert found["wbcache_log_written_bytes_total", ""] >= 21 * PAGE
    assert found["wbcache_state", 'state="writable"'] == 1
    wait_until(lambda: values(fetch(port))["wbcache_dirty_data_bytes", ""] == 0)
    found = values(fetch(port))
    assert found["wbcache_origin_written_bytes_total", ""] >= 10 * PAGE
    assert found["wbcache_destaged_bytes_total", ""] >= 20 * PAGE
    assert found["wbcache_oldest_dirty_seconds", ""] == 0


def test_the_command_prints_the_same(server, port, control):
    some_load(server)
    with clients.connection(server.uri):
        status, said, errors = wbcache("metrics", control)
        assert (status, errors) == (0, "")
        stable = [name for name, kind in values(said) if "_bytes_total" in name or "request" in name]
        served = values(fetch(port))
        printed = values(said)
        assert stable and all(printed[key] == served[key] for key in printed if key[0] in stable)


def test_promtool_finds_nothing_to_complain_of(server, port):
    some_load(server)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=fetch(port), capture_output=True, text=True, env=clients.environment()
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_several_servers_in_one_file(pair, folder, server, control):
    other = type(pair)(folder / "other")
    other.folder.mkdir()
    other.make_origin(MIB)
    with other.serve(control=folder / "d"):
        status, said, _ = wbcache("metrics", control, folder / "d")
        assert status == 0
        assert len([line for line in said.splitlines() if line.startswith("wbcache_info{")]) == 2
        assert said.count("# HELP wbcache_dirty_data_bytes ") == 1


def test_a_client_that_says_nothing_or_nonsense(server, port):
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        rude = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        rude.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert "wbcache_info" in fetch(port)
        silent.settimeout(20)
        assert silent.recv(1) == b""
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(port, "/elsewhere")
    assert refused.value.code == 404
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for method, status in (("HEAD", 200), ("POST", 405), ("DELETE", 405)):
        connection.request(method, "/metrics")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, b"")
        connection.close()


def test_a_stop_does_not_wait_for_a_silent_client(pair, port):
    pair.make_origin(MIB)
    with pair.serve(metrics=port) as server, socket.create_connection(("127.0.0.1", port)):
        time.sleep(0.2)
        assert server.stop() < 8


@contextlib.contextmanager
def a_crowd(port, count=200):
    """Scrapers that say nothing, nonsense, half a request, or a whole one, and never hang up."""
    words = (b"", b"\x00\xff nonsense", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
    with contextlib.ExitStack() as stack:
        for number in range(count):
            # The kernel keeps a few waiting; the others stay half open.
            endpoint = stack.enter_context(socket.socket())
            endpoint.setblocking(False)
            endpoint.connect_ex(("127.0.0.1", port))
            with contextlib.suppress(OSError):
                endpoint.send(words[number % len(words)])
        yield


def test_a_crowd_of_scrapers_delays_neither_requests_nor_the_stop(pair, port):
    pair.make_origin(16 * MIB)
    with pair.serve(metrics=port) as server, a_crowd(port):
        started = time.monotonic()
        for _ in range(5):
            some_load(server)
        assert time.monotonic() - started < 20
        assert server.stop() < 20


def test_a_kill_in_the_middle_of_scrapes(pair, port):
    """The next server can listen there at once, and has what the one before had acknowledged."""
    pair.make_origin(16 * MIB)
    over = threading.Event()

    def scrape():
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                fetch(port)

    scrapers = [threading.Thread(target=scrape) for _ in range(3)]
    for scraper in scrapers:
        scraper.start()
    try:
        for number in range(1, 4):
            with pair.serve(metrics=port, ack="log", check=False) as server, a_crowd(port, 20):
                with clients.connection(server.uri) as handle:
                    handle.pwrite(bytes([number]) * PAGE, number * PAGE)
                server.kill()
    finally:
        over.set()
        for scraper in scrapers:
            scraper.join()
    with pair.serve(metrics=port) as server, clients.connection(server.uri) as handle:
        assert handle.pread(3 * PAGE, PAGE) == b"".join(bytes([number]) * PAGE for number in range(1, 4))
        assert "wbcache_info" in fetch(port)


def test_a_port_that_is_taken(pair, port):
    pair.make_origin(MIB)
    with socket.socket() as endpoint:
        endpoint.bind(("127.0.0.1", port))
        endpoint.listen()
        server = pair.start(metrics=port, wait=False)
        server.wait()
        text = server.stderr_text()
        assert server.status != 0 and f"metrics=127.0.0.1:{port}: cannot listen there: Address already in use" in text


def test_ipv6(pair, port):
    pair.make_origin(MIB)
    with pair.serve(metrics=f"[::1]:{port}"):
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=20) as answer:
            assert b"wbcache_info" in answer.read()


def test_the_rules_do_what_they_say():
    clients.run("promtool", "check", "rules", EXAMPLES / "alerts.yml")
    clients.run("promtool", "test", "rules", EXAMPLES / "alerts-test.yml")


@contextlib.contextmanager
def prometheus(folder, port):
    """A real one with the example configuration, which scrapes that port every second."""
    own = free_port()
    text = (EXAMPLES / "scrape.yml").read_text().replace("9700", str(port)).replace("15s", "1s")
    (folder / "alerts.yml").write_text((EXAMPLES / "alerts.yml").read_text())
    (folder / "prometheus.yml").write_text(f"global:\n  evaluation_interval: 1s\n{text}")
    clients.run("promtool", "check", "config", folder / "prometheus.yml")
    process = clients.start(
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{own}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{own}/api/v1"
    finally:
        process.terminate()
        process.wait()


def query(api, expression):
    url = f"{api}/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{expression}: {error.read().decode()}") from None
    except urllib.error.URLError:
        return []


def test_a_real_prometheus_and_every_query_of_the_dashboard(server, folder, port):
    panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    with prometheus(folder, port) as api:
        deadline = time.monotonic() + START_S
        rounds = 0
        while rounds < 4:
            assert time.monotonic() < deadline, "Prometheus has not scraped the server"
            some_load(server)
            time.sleep(1)
            rounds += bool(query(api, "up == 1"))
        wait_until(lambda: query(api, "rate(wbcache_request_bytes_total[1m]) > 0"))
        for title, expression in queries:
            text = expression.replace("$__rate_interval", "1m").replace("$volume", ".*")
            assert query(api, text), f"{title}: {text} finds nothing"
        assert not query(api, "ALERTS{alertstate='firing'}")
