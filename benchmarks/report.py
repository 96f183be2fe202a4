# SPDX-License-Identifier: BSD-3-Clause
"""The table for people, and everything as JSON."""

import dataclasses
import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path


def number(value):
    """Three digits that matter."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(row):
    verdict = {None: "", True: "yes", False: "NO"}[row.reached]
    found = row.found
    spread = f"{number(found.low)} to {number(found.high)}"
    return row.what, f"{number(found.median)} {row.unit}", spread, str(row.target or ""), verdict


def table(outcomes):
    """Markdown: what, median, lowest to highest, target, whether it was reached."""
    lines = [("what", "median", "spread", "target", "reached"), ("---",) * 5]
    lines += [_cells(row) for outcome in outcomes.values() for row in outcome.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine():
    """What the figures were measured on."""
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    versions = {
        name: subprocess.run([name, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
        for name in ("nbdkit", "fio", "qemu-nbd")
    }
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **versions,
    }


def write_json(path: Path, command, threads, outcomes):
    """All rows and all values behind them."""
    document = {
        "command": command,
        "threads": threads,
        "machine": machine(),
        "measurements": {
            name: {
                "unit": outcome.unit,
                "values": outcome.values,
                "rows": [{**dataclasses.asdict(row), "reached": row.reached} for row in outcome.rows],
            }
            for name, outcome in outcomes.items()
        },
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
