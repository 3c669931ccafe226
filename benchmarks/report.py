"""What was measured, as a table for a person and as JSON to keep."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contest import Contest
from benchmarks.figures import Figures, short, spoken
from benchmarks.stage import CONCURRENCY, POOL, Stage
from dalp.local.processes import ROOT
from dalp.local.servers import anvil_binary, postgres_bin, redis_binary

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("django", "celery", "kombu", "redis", "psycopg", "web3", "eth-account", "pydantic")


def describe_machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "processor": _first("/proc/cpuinfo", r"model name\s*:\s*(.+)"),
        "memory_gib": round(int(_first("/proc/meminfo", r"MemTotal:\s*(\d+)") or 0) / 2**20, 1),
        "system": platform.platform(),
        # Above 0 before anything was measured: the machine was not ours alone, and the figures are on the low side.
        "load_before": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> dict[str, str]:
    programs = {
        "postgresql": [postgres_bin() / "postgres", "--version"],
        "redis_server": [redis_binary(), "--version"],
        "anvil": [anvil_binary(), "--version"],
        "commit": ["git", "-C", ROOT, "describe", "--always", "--dirty"],
    }
    found = {name: _output(command) for name, command in programs.items()}
    return {"python": platform.python_version(), **found, **{name: version(name) for name in PACKAGES}}


def describe_setting(stage: Stage) -> dict[str, Any]:
    """Return what the figures depend on; the database's own settings are asked of it."""
    from django.db import connection

    asked = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers")
    with connection.cursor() as cursor:
        values = {}
        for name in asked:
            cursor.execute(f"SHOW {name}")
            values[name] = cursor.fetchone()[0]
    if "off" in (values["fsync"], values["synchronous_commit"]):
        raise RuntimeError(
            f"PostgreSQL does not wait for the disk ({values}): this would measure another thing"
        )
    return {"postgresql": values, "worker": {"pool": POOL, "processes": CONCURRENCY}}


def save(
    contests: Sequence[Contest | Figures],
    machine: dict[str, Any],
    setting: dict[str, Any],
    rounds: int,
    *,
    prefix: str = "",
) -> Path:
    now = datetime.now(UTC)
    found = {
        "date": now.isoformat(timespec="seconds"),
        "rounds": rounds,
        "machine": machine,
        "versions": describe_versions(),
        "setting": setting,
        "contests": [contest.as_json() for contest in contests],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{prefix}{now:%Y-%m-%dT%H%M%SZ}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    return path


def show(console: Console, contest: Contest | Figures) -> None:
    table = _table(contest) if isinstance(contest, Contest) else _table_of_figures(contest)
    console.print(table, contest.method, "", sep="\n", highlight=False)
    if isinstance(contest, Figures):
        for complaint in contest.complaints:
            console.print(f"[red]{complaint}[/]", highlight=False, soft_wrap=True)


def _table(contest: Contest) -> Table:
    table = _titled(contest.title)
    for heading in (f"{contest.unit}/s", "range", "ms each", "DALP is"):
        table.add_column(heading, justify="right", no_wrap=True)
    for peer in contest.peers:
        low, high = peer.range
        ratio = "" if peer is contest.ours else f"{contest.ratio(peer):.2f} × as fast"
        each = f"{1000 / peer.median:.2f}"
        table.add_row(peer.name, f"{peer.median:,.0f}", f"{low:,.0f} – {high:,.0f}", each, ratio)
    return table


def _table_of_figures(figures: Figures) -> Table:
    table, rows = _titled(figures.title), figures.medians
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for name in names:
        table.add_column(spoken(name), justify="right")  # a long heading takes several lines
    for title, row in rows.items():
        table.add_row(title, *(short(row[name]) if name in row else "" for name in names))
    return table


def _titled(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    return table


def _first(file: str, pattern: str) -> str:
    found = re.search(pattern, Path(file).read_text()) if Path(file).exists() else None
    return found[1].strip() if found else ""


def _output(command: Sequence[Any]) -> str:
    """Return the first line that a program prints, or "" where it is missing."""
    try:
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return next(iter(result.stdout.splitlines()), "")
