"""The keys of virtual objects: one run at a time per key, first come first served, nobody holds a lock in his hands.

Lock order: the holder's run, then the key, then the next run. Starting takes the key first and only then inserts its
run, which nobody else can have locked.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog
from django.db import connection
from django.db.models import QuerySet

from workflows.clock import sql_now
from workflows.doorbell import ring
from workflows.errors import FencedError
from workflows.leases import fence_is_off
from workflows.models import Run, VirtualObjectState
from workflows.statements import columns, fetch_rows, run_sql, update_row
from workflows.states import RunState, WaitingFor

if TYPE_CHECKING:
    from workflows.engine.objects import Written

log = structlog.get_logger()
FREE = {"holder": None, "held_since": None, "alerted_at": None}


def take_key(run: Run) -> bool:
    """Give the run its key if that is free; return whether it may begin. Otherwise it queues by being a waiting run.

    The one statement both takes a free key and locks a held one. Without that lock the holder could look for waiting
    runs just before this one is committed, free the key, and leave this run waiting for ever.
    """
    if not run.object_key:
        return True
    now, at = sql_now()
    holder = VirtualObjectState._meta.get_field("holder")
    mine = holder.get_db_prep_save(run.pk, connection)
    found = run_sql(_take_sql(now, connection.vendor), [run.object_key, mine, *at])
    return bool(found[0][0] == mine)


@lru_cache(maxsize=4)
def _take_sql(now: str, vendor: str) -> str:
    kind = "::uuid" if vendor == "postgresql" else ""
    return f"""
        INSERT INTO workflows_virtualobjectstate AS object (key, holder_id, held_since, version)
        VALUES (%s, %s{kind}, {now}, 0)
        ON CONFLICT (key) DO UPDATE SET holder_id = COALESCE(object.holder_id, EXCLUDED.holder_id),
            held_since = COALESCE(object.held_since, EXCLUDED.held_since)
        RETURNING holder_id"""  # noqa: S608 - our own names


def write_state(run: Run, written: "Written") -> None:
    """Write what the run's handler has made of its object. Raises FencedError when it isn't the run's to write."""
    _write(run, written, {})


def release_key(run: Run) -> None:
    """Hand the run's key to the one that has waited longest, in the transaction that ends the run."""
    heir = pass_key_on(run)
    if heir is not None:
        ring(heir)


def pass_key_on(run: Run, written: "Written | None" = None) -> Run | None:
    """Hand the run's key on, and return the one that has it now: the caller sees to it that somebody takes it up.

    written: what the run's handler has made of the object, to be written with it. Raises FencedError when that isn't
    the run's to write.
    """
    if not run.object_key:
        return None
    if written is not None:
        _write(run, written, FREE)
    elif update_row(VirtualObjectState, {"key": run.object_key, "holder": run.pk}, FREE) == 0:
        return None  # it never had it
    heir = _promote_next(run.object_key)
    if heir is not None:
        update_row(
            VirtualObjectState, {"key": run.object_key}, {"holder": heir.pk, "held_since": heir.wake_at}
        )
    return heir


def _write(run: Run, written: "Written", more: dict[str, Any]) -> None:
    # The version says that nobody has written since the handler was given the state; the holder, that it may.
    where = {"key": written.key, "holder": run.pk, "version": written.version}
    if fence_is_off():
        where = {"key": written.key}
    values = {"state": written.state, "version": written.version + 1, **more}
    if update_row(VirtualObjectState, where, values) == 0:
        log.warning("fenced", row=written.key, model="workflows.VirtualObjectState", run=str(run.pk))
        raise FencedError(f"run {run.pk} does not hold {written.key}, or another has written it meanwhile")


def _promote_next(key: str) -> Run | None:
    """Let the run go on that has waited longest for a key, and return it; None when nobody waits."""
    now, at = sql_now()
    while True:
        found = fetch_rows(Run, _promote_sql(now), [*at, key])
        if found:
            return found[0]
        if not inbox(key).exists():  # else the first one was stopped just now, and another is the first
            return None


@lru_cache(maxsize=4)
def _promote_sql(now: str) -> str:
    # What stands behind the subquery is looked at again when the row was locked by somebody who stopped the run: it must
    # not be woken. A paused run keeps its place, and its pause. One that queued up again in the middle of an operation
    # that has asked for what it needs goes on waiting for that: its code must not run a second time.
    return f"""
        UPDATE workflows_run SET wake_at = {now}, state = CASE WHEN state = 'WAITING' THEN 'READY' ELSE state END,
            waiting_for = CASE WHEN attempt > 0
                AND EXISTS (SELECT 1 FROM workflows_step AS step WHERE {_is_of("step")} AND step.state = 'WAITING')
                AND EXISTS (SELECT 1 FROM workflows_wait AS wait WHERE {_is_of("wait")})
                THEN 'command' ELSE '' END
        WHERE id = (SELECT id FROM workflows_run WHERE object_key = %s AND finished_at IS NULL
                AND waiting_for = 'key' AND state <> 'DEAD_LETTER' ORDER BY created_at, id LIMIT 1)
            AND finished_at IS NULL AND waiting_for = 'key' AND state <> 'DEAD_LETTER'
        RETURNING {columns(Run)}"""  # noqa: S608 - our own names


def _is_of(table: str) -> str:
    """Return the condition that a row belongs to the attempt at which the run is."""
    return (
        f"{table}.run_id = workflows_run.id AND {table}.operation_id = workflows_run.operation "
        f"AND {table}.attempt = workflows_run.attempt"
    )


def inbox(key: str) -> "QuerySet[Run]":
    """Return the runs that wait for a key, the next one first."""
    waiting = Run.objects.filter(object_key=key, finished_at__isnull=True, waiting_for=WaitingFor.KEY)
    return waiting.exclude(state=RunState.DEAD_LETTER).order_by("created_at", "id")
