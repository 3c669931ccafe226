"""How PostgreSQL carries out what the engine asks all the time, beside many finished runs. To be imported when Django is set up.

Not a list of queries that may grow old: the engine is put to work in this process, and the server explains every statement
that it really carries out, prepared ones and those of triggers and foreign keys included (auto_explain).
"""

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection

from benchmarks.figures import Figures, Rows
from benchmarks.fill import add_live
from benchmarks.stage import Stage
from benchmarks.starts import call_off
from benchmarks.workflows import Account, Branching, Keyed, Nothing, Parent, Signalled, Unattended, Undone
from workflows import pause_scope, resume_scope, send_signal, set_limit
from workflows.engine import children
from workflows.engine.claiming import claim_run
from workflows.engine.drive import advance
from workflows.engine.keys import inbox
from workflows.models import Run
from workflows.states import RunState, WaitingFor
from workflows.sweeper import rules

# Often enough for the server to have gone over to the plans that it keeps for prepared statements; the last time counts.
TIMES = 8
LARGE_ROWS = 5_000
# Due runs that have come since the statistics were made, as in a burst.
BURST = 2000
# Of 8 kB, in one statement. The sweep may look through all that is due; what concerns one run may not.
PAGES_MAX, PAGES_OF_SWEEP_MAX = 100, 5000
INBOX = 50
SWEEP = "sweep: "
BY: dict[str, Any] = {"actor": "benchmark", "reason": "to see"}
SETTINGS = {
    "log_min_duration": "0", "log_analyze": "on", "log_buffers": "on", "log_nested_statements": "on",
    "log_format": "json", "log_level": "notice",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node of a plan that reads or changes a table."""

    kind: str
    table: str
    index: str
    removed: int

    @classmethod
    def all_of(cls, plan: dict[str, Any]) -> "Iterator[Node]":
        if "Relation Name" in plan or "Index Name" in plan:
            removed = plan.get("Rows Removed by Filter", 0)
            yield cls(plan["Node Type"], plan.get("Relation Name", ""), plan.get("Index Name", ""), removed)
        for child in plan.get("Plans", []):
            yield from cls.all_of(child)


@dataclass(frozen=True)
class Statement:
    """One statement as the server carried it out."""

    sql: str
    ms: float
    pages: int  # of the buffer cache or the disk
    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, explained: dict[str, Any]) -> "Statement":
        plan = explained["Plan"]
        pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        sql = " ".join(explained["Query Text"].split())
        return cls(sql, plan["Actual Total Time"], pages, tuple(Node.all_of(plan)))

    def complaint(self, large: set[str], pages_max: int) -> str:
        """Return what is wrong with it, or ""."""
        scanned = [node.table for node in self.nodes if node.kind == "Seq Scan" and node.table in large]
        if scanned:
            return f"reads all of {', '.join(scanned)}"
        return f"reads {self.pages} pages" if self.pages > pages_max else ""

    def as_json(self) -> dict[str, Any]:
        nodes = [vars(node) for node in self.nodes]
        return {"sql": self.sql[:300], "ms": self.ms, "pages": self.pages, "nodes": nodes}


class Explainer:
    """Collects, under a name for what was done, the statements that it took."""

    def __init__(self) -> None:
        self.found: dict[str, list[Statement]] = {}
        self._name = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._name, self.found[name] = name, []
        yield
        self._name = ""

    def listen(self) -> None:
        """Have the server explain what this process's connection asks of it, until that is closed."""
        with connection.cursor() as cursor:
            cursor.execute("LOAD 'auto_explain'")
            for setting, value in SETTINGS.items():
                cursor.execute(f"SET auto_explain.{setting} = {value}")
        connection.connection.add_notice_handler(self._take)

    def _take(self, notice: Any) -> None:
        _, _, plan = notice.message_primary.partition("plan:\n")
        if plan and self._name:
            self.found[self._name].append(Statement.of(json.loads(plan)))


def figures(stage: Stage, size: int) -> Figures:
    explain = Explainer()

    def measure() -> Rows:
        with stage.quiet(), tempfile.TemporaryDirectory() as directory:
            settings.DALP_ARCHIVE_DIR, settings.WORKFLOWS["seal_seconds"] = directory, 0
            add_live(BURST, state=RunState.READY, waiting_for=WaitingFor.NOTHING, wakes_after="0")
            explain.listen()
            for _ in range(TIMES):
                live_once(explain)
                sweep_once(explain)
            large = large_tables()
            connection.close()
        found.details["plans"] = {
            name: [each.as_json() for each in statements] for name, statements in explain.found.items()
        }
        found.complaints = list(complaints_of(explain, large).values())
        return {name: _row(statements, large) for name, statements in explain.found.items()}

    found = Figures(
        title=f"Plans beside {size:,} finished runs",
        method=(
            "What the engine and each rule of the sweep ask of the database, as the server carried it out (auto_explain with ANALYZE and "
            f"BUFFERS), the last of {TIMES} times: prepared statements have the plan that the server keeps for them. Pages of 8 kB, from "
            f"cache or disk, of the statement that read most. No statement may read all of a table of more than {LARGE_ROWS:,} "
            f"rows, or more than {PAGES_MAX} pages, one of the sweep {PAGES_OF_SWEEP_MAX:,}; {BURST} runs are due that the table's statistics "
            "don't know yet. The JSON has every statement with its plan's nodes. One round."
        ),
        settle=stage.settle,
        measure=measure,
        rounds_max=1,
    )
    return found


def complaints_of(explain: Explainer, large: set[str]) -> dict[str, str]:
    """Return what is wrong with each statement that something is wrong with, once, by its text."""
    found: dict[str, str] = {}
    for name, statements in explain.found.items():
        for each in statements:
            complaint = each.complaint(large, _pages_max(name))
            if complaint:
                found.setdefault(each.sql, f"{name}: {complaint}: {each.sql[:160]} ... {each.sql[-160:]}")
    return found


def _pages_max(name: str) -> int:
    return PAGES_OF_SWEEP_MAX if name.startswith(SWEEP) else PAGES_MAX


def _row(statements: list[Statement], large: set[str]) -> dict[str, float]:
    scans = [node for each in statements for node in each.nodes if node.table in large or not node.table]
    return {
        "statements": len(statements),
        "ms_in_all": sum(each.ms for each in statements),
        "slowest_ms": max((each.ms for each in statements), default=0),
        "most_pages": max((each.pages for each in statements), default=0),
        "index_scans": sum("Index" in node.kind for node in scans),
        "seq_scans_of_large": sum(node.kind == "Seq Scan" for node in scans),
    }


def large_tables() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples > %s", [LARGE_ROWS])
        return {name for (name,) in cursor.fetchall()}


def live_once(explain: Explainer) -> None:
    """Have runs of every kind live their lives."""
    key = uuid.uuid4().hex
    with explain("start with a key"):
        run = Unattended.start(Nothing(), idempotency_key=key)
    with explain("start with the same key again"):
        Unattended.start(Nothing(), idempotency_key=key)
    with explain("claim"):
        claim_run(run.pk)
    run = Unattended.start(Nothing())
    with explain("3 steps, claim to end"):
        advance(run.pk)
    run = Undone.start(Nothing())
    with explain("a failure and an undo"):
        advance(run.pk)
    run = Signalled.start(Nothing())
    with explain("a wait and a signal"):
        advance(run.pk)
        send_signal(run.pk, "go", 1)
        advance(run.pk)
    run = Branching.start(Nothing())
    with explain("3 branches and their join"):
        advance(run.pk)
        for branch in Run.objects.filter(parent=run):
            advance(branch.pk)
        advance(run.pk)
    run = Parent.start(Nothing())
    with explain("a child"):
        advance(run.pk)
        advance(Run.objects.get(parent=run).pk)
        advance(run.pk)
    live_within_limit(explain)
    live_by_key(explain, uuid.uuid4().hex)
    call_off(Unattended.definition.name)


def live_by_key(explain: Explainer, account: str) -> None:
    runs = [Keyed.start(Account(account=account)) for _ in range(INBOX)]
    with explain(f"start behind {INBOX} of a key"):
        Keyed.start(Account(account=account))
    with explain("inbox of a key"):
        list(inbox(runs[0].object_key))
    with explain("end, and the key passed on"):
        advance(runs[0].pk)
    call_off(Keyed.definition.name)


def live_within_limit(explain: Explainer) -> None:
    """Have a run claimed whose workflow is limited, and leave its place to the next."""
    name = Unattended.definition.name
    run = Unattended.start(Nothing())
    set_limit(f"workflow:{name}", concurrency=5, **BY)
    with explain("3 steps within a limit"):
        advance(run.pk)
    set_limit(f"workflow:{name}", **BY)


def sweep_once(explain: Explainer) -> None:
    """Apply each rule of the sweep, while a queue is paused."""
    pause_scope("queue:elsewhere", **BY)
    wanted: dict[str, Callable[[], int]] = {**rules(), "lost": children.find_waiting_for_lost}
    for name, rule in wanted.items():
        with explain(SWEEP + name):
            rule()
    resume_scope("queue:elsewhere", **BY)
