# SPDX-License-Identifier: BSD-3-Clause
"""Workloads that each stress one thing, by name."""

from tests.crash.workload import CUT, LOG_AT_TIMES, STOP, STOP_UNDER_LOAD, Scenario
from wbcache_core.units import KIB

_LARGE = {"largest": 60, "requests": 50, "flush_share": 0.1, "pages": 250}
_SOON_FULL = {"low_watermark": "5", "high_watermark": "20", "compress": "off"}
_NEARLY_A_LAP = 3400 * KIB

SCENARIOS = {
    "one client": Scenario(),
    "concurrent clients": Scenario(clients=4, requests=25, pages=130, odd_sectors=3),
    "sub-page writes": Scenario(pages=6, odd_sectors=1, requests=80, pause=0.003, flush_share=0.05),
    "few flushes": Scenario(requests=90, flush_share=0.02, fua_share=0, pause=0.002, settings={"compress": "off"}),
    "compressed": Scenario(clients=2, requests=40, settings={"compress": "zstd"}),
    "log wraps": Scenario(**_LARGE, age=_NEARLY_A_LAP, settings={"compress": "off"}),
    "compressed log wraps": Scenario(**_LARGE, age=_NEARLY_A_LAP, settings={"compress": "zstd"}),
    "small segments wrap": Scenario(
        clients=2, requests=60, pages=100, age=_NEARLY_A_LAP + 400 * KIB, settings={"commit_size": "8K"}
    ),
    "log is full": Scenario(
        clients=2,
        requests=60,
        pages=250,
        largest=120,
        area_pages=125,
        pause=0.001,
        flush_share=0.05,
        origin_latency=0.2,
        settings={"compress": "off", "destage_delay": "1h", "low_watermark": "90", "high_watermark": "95"},
    ),
    "slow log": Scenario(
        clients=2,
        requests=130,
        pages=200,
        largest=24,
        pause=0.0003,
        flush_share=0.005,
        fua_share=0,
        log_latency=0.2,
        endings=(CUT, STOP),
        settings={"ring_size": "4M", "commit_size": "2M"},
    ),
    "write-through": Scenario(clients=2, requests=25, settings={"ack": "origin"}),
    "acknowledged by the log": Scenario(clients=3, requests=25, settings={"ack": "log"}),
    "flush reaches the origin": Scenario(clients=2, requests=30, settings={"flush": "origin", "fua": "origin"}),
    "clean stops": Scenario(clients=2, requests=25, endings=(STOP,)),
    "stops under load": Scenario(clients=3, requests=30, endings=(STOP_UNDER_LOAD, CUT)),
    "drains": Scenario(
        clients=2, requests=30, endings=(STOP, STOP_UNDER_LOAD), settings={"on_exit": "destage", "destage_delay": "1h"}
    ),
    "origin fails at times": Scenario(
        clients=2, requests=40, failing=("origin",), endings=(CUT, CUT, STOP), settings={"destage_delay": "50ms"}
    ),
    "bad sectors": Scenario(
        clients=2, requests=60, bad_pages=12, pages=64, endings=(CUT, CUT, STOP), settings={"destage_delay": "20ms"}
    ),
    "bad sectors and a full log": Scenario(
        **_LARGE,
        age=_NEARLY_A_LAP,
        bad_pages=24,
        endings=(CUT, STOP),
        settings={**_SOON_FULL, "destage_delay": "20ms"},
    ),
    "bad sectors are given up": Scenario(
        clients=2,
        requests=60,
        bad_pages=12,
        pages=64,
        gives_up=True,
        endings=(CUT, CUT, STOP),
        settings={"destage_delay": "20ms"},
    ),
    "past moments and what is given up": Scenario(
        clients=2,
        requests=60,
        bad_pages=12,
        pages=64,
        gives_up=True,
        readers=1,
        has_tagger=True,
        endings=(CUT, STOP),
        settings={"history": "100ms", "destage_delay": "20ms"},
    ),
    "bad sectors and past moments": Scenario(
        clients=2,
        requests=60,
        bad_pages=12,
        pages=64,
        readers=2,
        has_tagger=True,
        endings=(CUT, STOP),
        settings={"history": "100ms", "destage_delay": "20ms"},
    ),
    "log fails": Scenario(clients=2, requests=40, failing=("log",), flush_share=0.25),
    "log fails at times": Scenario(
        clients=2,
        requests=60,
        failing=(LOG_AT_TIMES,),
        endings=(CUT, CUT, STOP),
        flush_share=0.2,
        has_tagger=True,
        settings={"destage_delay": "50ms"},
    ),
    "log fails at times and wraps": Scenario(
        **_LARGE, age=_NEARLY_A_LAP, failing=(LOG_AT_TIMES,), bad_pages=6, endings=(CUT, STOP, STOP_UNDER_LOAD)
    ),
    "past moments": Scenario(
        clients=2, requests=30, readers=2, has_tagger=True, endings=(CUT, STOP), settings={"history": "1h"}
    ),
    "past moments give way": Scenario(
        **_LARGE, age=_NEARLY_A_LAP, readers=2, has_tagger=True, settings={"history": "1M", **_SOON_FULL}
    ),
    "past moments are held": Scenario(
        **_LARGE, readers=2, has_tagger=True, settings={"history_full": "hold", **_SOON_FULL}
    ),
    "the origin comes first": Scenario(
        clients=2, requests=30, readers=1, has_tagger=True, settings={"history": "1h", "fua": "origin"}
    ),
    "connections are lost": Scenario(
        clients=2,
        requests=100,
        pages=16,
        area_pages=8,
        pause=0.03,
        is_remote=True,
        origin_latency=0.004,
        endings=(CUT, CUT, STOP),
        settings={"destage_delay": "20ms", "destage_depth": "4"},
    ),
    "connections are lost, and flushes reach the origin": Scenario(
        clients=2,
        requests=100,
        pages=16,
        area_pages=8,
        pause=0.03,
        is_remote=True,
        origin_latency=0.004,
        endings=(CUT, STOP),
        settings={"destage_delay": "20ms", "destage_depth": "4", "flush": "origin", "fua": "origin"},
    ),
    "the process dies": Scenario(clients=2, requests=25, memory_stays=True),
    "the process dies, one client": Scenario(
        memory_stays=True, requests=50, pause=0.003, flush_share=0.04, settings={"commit_interval": "50ms"}
    ),
    "the process dies, and the ring wraps": Scenario(
        **_LARGE, clients=2, memory_stays=True, endings=(CUT, STOP), settings={"ring_size": "1M", "compress": "off"}
    ),
    "the process dies, and the log fails at times": Scenario(
        clients=2,
        requests=40,
        memory_stays=True,
        failing=(LOG_AT_TIMES,),
        endings=(CUT, CUT, STOP),
        flush_share=0.2,
        settings={"destage_delay": "50ms"},
    ),
    "slow origin": Scenario(clients=2, requests=40, origin_latency=0.05, settings={"destage_depth": "8"}),
}
