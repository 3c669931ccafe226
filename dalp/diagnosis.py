"""What is wrong with this installation, and what to do about it. Read-only: safe to run at any time.

Each check returns findings and never raises: the one that finds the fault must not hide the others.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import redis
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from dalp import heartbeat

# Celery answers a ping at once or not at all.
WORKER_PING_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, whether it is well, what was seen, and what to do when it isn't."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-able data."""
        return asdict(self)


def check_database() -> list[Finding]:
    """Look whether the database answers and has every migration."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return [Finding("database", False, first_line(error), "Start the database, or correct DATABASE_URL.")]
    return [Finding("database", True, f"{connection.vendor} answers"), check_migrations()]


def check_migrations() -> Finding:
    """Look whether the tables are those that this code expects."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan[:5])
        return Finding(
            "migrations", False, f"{len(plan)} not applied: {names}", "Run `python manage.py migrate`."
        )
    return Finding("migrations", True, "all applied")


# Longer than any transaction of ours: PostgreSQL ends those that idle for 20 s, and statements after 30 s.
LONG_TRANSACTION_SECONDS = 60
DEAD_ROWS_PER_LIVE = 1.0
DEAD_ROWS_MIN = 20_000


def check_vacuum() -> list[Finding]:
    """Look for what keeps PostgreSQL from cleaning up behind the runs: their table grows, and every claim with it."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0), "
            "coalesce((array_agg(pid ORDER BY xact_start))[1], 0) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        age, pid = cursor.fetchone()
        cursor.execute(
            "SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE n_dead_tup > %s "
            "AND n_dead_tup > n_live_tup * %s ORDER BY n_dead_tup DESC LIMIT 3",
            [DEAD_ROWS_MIN, DEAD_ROWS_PER_LIVE],
        )
        bloated = cursor.fetchall()
    long_remedy = f"End it (SELECT pg_terminate_backend({pid})); run reports on a replica."
    return [
        Finding(
            "long transactions", age < LONG_TRANSACTION_SECONDS, f"the oldest is {age:.0f} s old", long_remedy
        ),
        Finding(
            "dead rows",
            not bloated,
            ", ".join(f"{table} has {count:,}" for table, count in bloated) or "few",
            "See to long transactions first; then VACUUM the table, and look at autovacuum.",
        ),
    ]


def check_unsealed() -> list[Finding]:
    """Look whether keyguard is sealed: then nothing is signed, whatever else works."""
    from keyguard.sealing import open_sealings

    sealing = open_sealings().filter(backend="").first()
    remedy = "Find out why, then: manage.py unseal. docs/keys.md says more."
    return [Finding("keys", sealing is None, str(sealing or "not sealed"), "" if sealing is None else remedy)]


def check_broker() -> list[Finding]:
    """Look whether Redis answers."""
    try:
        heartbeat.client().ping()
    except redis.RedisError as error:
        return [
            Finding("broker", False, first_line(error), "Start Redis, or correct REDIS_URL. No work is lost.")
        ]
    return [Finding("broker", True, "Redis answers")]


def check_beat() -> list[Finding]:
    """Look when the last sweep ran: without sweeps lost messages and due timers stay where they are."""
    remedy = "Start `celery -A dalp beat`, and a worker for the queue workflows."
    try:
        age = heartbeat.age_seconds()
    except redis.RedisError as error:
        return [Finding("beat", False, f"unknown: {first_line(error)}", "Start Redis first.")]
    if age is None:
        return [Finding("beat", False, "no sweep has run yet", remedy)]
    return [Finding("beat", age < heartbeat.LATE_SECONDS, f"last sweep {age:.0f} s ago", remedy)]


def check_workers() -> list[Finding]:
    """Ask the workers to answer, and look whether every queue is served."""
    from dalp.celery import app
    from signer import routing

    remedy = "Start `celery -A dalp worker`; without options it serves every queue."
    try:
        inspect = app.control.inspect(timeout=WORKER_PING_SECONDS)
        served = inspect.active_queues() or {}
    except Exception as error:  # noqa: BLE001, kombu, redis and socket errors have no common base
        return [Finding("workers", False, f"could not ask: {first_line(error)}", "Start Redis first.")]
    if not served:
        return [Finding("workers", False, "no worker answers", remedy)]
    names = {queue["name"] for queues in served.values() for queue in queues}
    wanted = {queue.name for queue in app.conf.task_queues or []} | set(routing.queues())
    unserved = sorted(wanted - names)
    if unserved:
        return [Finding("workers", False, f"nobody serves the queues {', '.join(unserved)}", remedy)]
    return [Finding("workers", True, f"{len(served)} answer: {', '.join(sorted(served))}")]


def check_dead_letters() -> list[Finding]:
    """Count the runs that wait for a person. Not a fault of the installation, so it never makes the doctor fail."""
    from workflows.models import DeadLetter
    from workflows.states import DeadLetterState

    count = DeadLetter.objects.filter(state=DeadLetterState.OPEN).count()
    remedy = "Decide about them under /admin/ or with POST /api/v1/dead-letters/{id}/replay."
    return [Finding("dead letters", True, f"{count} open", remedy if count else "")]


def first_line(error: Exception) -> str:
    """Return the first line of an error, without the addresses and passwords that later ones may hold."""
    from keyguard import scrub_secrets

    lines = str(error).strip().splitlines() or [""]
    return str(scrub_secrets(f"{type(error).__name__}: {lines[0][:200]}"))


def guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run one check; what it cannot handle is its finding."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001, the promise of this function
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return [Finding(name, False, f"could not look: {first_line(error)}", "See the findings above first.")]


def readiness() -> list[Finding]:
    """Return what a web or worker process needs in order to work."""
    from dalp.chain_diagnosis import check_nodes

    checks = (check_database, check_broker, check_beat, check_nodes, check_unsealed)
    return [finding for check in checks for finding in guarded(check)]


def diagnose() -> list[Finding]:
    """Return every finding about the installation."""
    from dalp.chain_diagnosis import check_chains, check_keys, check_lanes, check_money
    from dalp.index_diagnosis import check_event_index

    checks = (
        check_database,
        check_vacuum,
        check_broker,
        check_workers,
        check_beat,
        check_chains,
        check_lanes,
        check_event_index,
        check_money,
        check_keys,
        check_dead_letters,
    )
    return [finding for check in checks for finding in guarded(check)]
