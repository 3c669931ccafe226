"""Filling the tables with finished runs, fast: inside the database, past the engine. To be imported when Django is set up.

The rows are shaped as the engine leaves them, but the hashes are none: `verify_audit` would say so.
"""

from django.db import connection

from benchmarks.workflows import Finished, Keyed
from workflows.states import RunState, WaitingFor

RUNS_PER_INSERT = 100_000
EVENTS_PER_RUN = 4  # run_started, two steps, run_finished
SLEEPERS = 1000

# A version 7 identifier of the instant, which grows with it as those of the engine do; and what looks like a SHA-256.
ID = """(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000' || '8'
    || substr(md5(n::text), 1, 15))::uuid"""
DIGEST = "md5({0}) || md5({0} || 'b')"

RUNS = f"""
    WITH instant AS (
        SELECT n, now() - interval '30 days' + n * interval '1 second' AS at FROM generate_series(%(first)s, %(last)s) AS n
    ), made AS (
        SELECT n, at, {ID} AS id, {DIGEST.format("n::text")} AS digest FROM instant
    ), run AS (
        INSERT INTO workflows_run (id, epoch, lease_owner, workflow, version, fingerprint, queue, priority, position,
            operation, attempt, operation_at, state, waiting_for, control, asked, compensating, input, input_hash, output,
            scope, idempotency_key, correlation_id, object_key, branch, recoveries, history_seq, history_hash, legal_hold,
            created_at, finished_at)
        SELECT id, 1, 'worker-1:1234:0123abcd', %(workflow)s, 1, %(fingerprint)s, 'workflows', 0, 1,
            'step_1#0', 1, at, 'SUCCEEDED', '', '', false, false, '{{"order": 7}}', digest, '{{"number": 1}}',
            '', 'order-' || n, md5(n::text), %(key)s || n %% 1000, '', 0, {EVENTS_PER_RUN}, digest, false, at, at
        FROM made
    ), step AS (
        INSERT INTO workflows_step (run_id, operation_id, name, seq, index, state, attempt, attempts_forgiven, uncertain,
            borrowed, output, large, started_at, finished_at)
        SELECT id, 'step_' || number || '#0', 'step_' || number, number << 20, 0, 'SUCCEEDED', 1, 0, false,
            false, '{{"number": 1}}', false, at, at
        FROM made CROSS JOIN generate_series(0, 1) AS number
    ), wait AS (
        INSERT INTO workflows_wait (run_id, operation_id, attempt, index, "join", kind, reference, state)
        SELECT id, 'step_0#0', 1, 0, 'alone', 'run', id::text, 'DONE' FROM made WHERE n %% 10 = 0
    ), letter AS (
        INSERT INTO workflows_deadletter (id, run_id, workflow, operation_id, reason, error, fingerprint, state, alerted_at,
            resolved_at, resolved_by, resolution, note)
        SELECT id, id, %(workflow)s, 'step_0#0', 'retries_exhausted', '{{}}', digest, 'RESOLVED', at, at, 'somebody', 'replay', ''
        FROM made WHERE n %% 100 = 0
    )
    INSERT INTO workflows_event (run_id, seq, kind, at, data, previous_hash, hash)
    SELECT id, seq, (ARRAY['run_started', 'step_succeeded', 'step_succeeded', 'run_finished'])[seq], at,
        jsonb_build_object('step', 'step_1#0', 'attempt', 1, 'output', digest), digest, {DIGEST.format("digest || seq")}
    FROM made CROSS JOIN generate_series(1, {EVENTS_PER_RUN}) AS seq"""

# Live runs: those that sleep wake up long after the measurement, those that are due wait for a worker.
LIVE = f"""
    INSERT INTO workflows_run (id, epoch, lease_owner, workflow, version, fingerprint, queue, priority, position, operation,
        attempt, operation_at, state, waiting_for, control, asked, compensating, input, input_hash, scope, correlation_id,
        object_key, branch, wake_at, recoveries, history_seq, history_hash, legal_hold, created_at)
    SELECT {ID}, 1, '', %(workflow)s, 1, %(fingerprint)s, %(queue)s, 0, 1, 'step_1#0', 1, at, %(state)s, %(waiting_for)s, '',
        false, false, '{{}}', '', '', md5(n::text), '', '', at + %(wakes_after)s::interval, 0, 1, '', false, at
    FROM generate_series(1, %(count)s) AS n
        CROSS JOIN LATERAL (SELECT now() - interval '1 hour' + n * interval '1 ms' AS at) AS instant"""

# Else the sweep would begin to seal a backlog of millions in the middle of a measurement.
SEALS = """
    INSERT INTO workflows_seal (number, first_event, last_event, event_count, first_act, last_act, act_count, root,
        previous_hash, hash, sealed_at)
    SELECT row_number() OVER (ORDER BY min(id)), min(id), max(id), count(*), 1, 0, 0, md5('root'), '', md5('hash'), now()
    FROM workflows_event GROUP BY id / 100000"""

TABLES = ("run", "step", "event", "wait", "deadletter", "seal")


def fill(runs: int) -> None:
    """Insert so many finished runs with their steps and events, and runs that sleep; then do what autovacuum would."""
    parameters = {**_columns(), "key": (Keyed.definition.key or "").partition("{")[0]}
    with connection.cursor() as cursor:
        # Without foreign keys looked up row by row.
        cursor.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        for first in range(0, runs, RUNS_PER_INSERT):
            last = min(first + RUNS_PER_INSERT, runs) - 1
            cursor.execute(RUNS, {**parameters, "first": first, "last": last})
        add_live(SLEEPERS, state=RunState.WAITING, waiting_for=WaitingFor.SLEEP, wakes_after="30 days")
        cursor.execute(SEALS)
        cursor.execute("RESET session_replication_role; RESET synchronous_commit")
        for table in TABLES:
            cursor.execute(f"VACUUM ANALYZE workflows_{table}")
        cursor.execute("CHECKPOINT")


def add_live(count: int, **parameters: str) -> None:
    """Insert so many live runs of one kind."""
    with connection.cursor() as cursor:
        cursor.execute(LIVE, {**_columns(), **parameters, "count": count})


def _columns() -> dict[str, str]:
    definition = Finished.definition
    return {
        "workflow": definition.name,
        "fingerprint": definition.fingerprint,
        "queue": definition.queue,
    }
