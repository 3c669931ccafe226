"""Taking a run over: one statement, in which the database alone decides who gets it."""

import os
import uuid
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from workflows.clock import db_now, learn, sql_now
from workflows.definition import Definition, definitions, find_definition
from workflows.engine import draining, limits, migration
from workflows.leases import Claim
from workflows.models import Limit, Run
from workflows.statements import columns, fetch_rows
from workflows.states import CLAIMABLE, RESUMING, TERMINAL

# This process, and since when: a worker that was restarted is another one.
OWNER = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def claim_run(run_id: Any) -> Claim[Run] | None:
    """Claim the run if its wake-up instant has come, nobody else holds it and nothing holds it back; or return None.

    Counts the attempt at its operation, before any of its code runs.
    """
    if draining.is_draining():
        return None
    run = claim_row(run_id, [definition.fingerprint for definition in definitions()])
    if run is None:
        run = _claim_otherwise(run_id)
    return None if run is None else as_claim(run)


def as_claim(run: Run) -> Claim[Run]:
    assert run.operation_at is not None
    learn(run.operation_at)
    return Claim(run, run.epoch, settings.WORKFLOWS["lease_seconds"], run.operation_at)


def _claim_otherwise(run_id: Any) -> Run | None:
    """Claim a run that the plain statement left alone for a reason other than that it is nobody's turn."""
    run = Run.objects.filter(pk=run_id).exclude(state__in=sorted(TERMINAL)).first()
    if run is None:
        return None
    definition = find_definition(run.workflow)
    if definition is None or not _serves(definition, run):
        return None
    if run.fingerprint == definition.fingerprint:
        return _claim_this(run)
    with transaction.atomic():
        claimed = _claim_this(run)
        if claimed is not None and claimed.history_seq != run.history_seq:
            # It went on after it was looked at: what suited it there need not suit it here.
            transaction.set_rollback(True)
            return None
        return claimed


def left_to_others(run_id: Any) -> Run | None:
    """Return the run if it could be claimed now, but for this process's code, which may not carry it on."""
    known = [definition.fingerprint for definition in definitions()]
    free = Run.objects.filter(
        pk=run_id, lease_until__isnull=True, wake_at__lte=db_now(), state__in=sorted(CLAIMABLE)
    )
    run = free.exclude(fingerprint__in=known).first()
    definition = None if run is None else find_definition(run.workflow)
    return None if run is None or (definition and _serves(definition, run)) else run


def _claim_this(run: Run) -> Run | None:
    if Limit.objects.filter(scope__in=limits.scopes_of(run)).exists():
        return limits.claim_within(run, lambda: claim_row(run.pk, [run.fingerprint], limited=True))
    return claim_row(run.pk, [run.fingerprint])


def _serves(definition: Definition, run: Run) -> bool:
    """Tell whether this process's code may carry the run on. If not, it is left for a worker whose code may."""
    if run.fingerprint == definition.fingerprint:
        return True
    if (
        migration.is_newer(run.fingerprint, definition)
        and not Run.objects.filter(migration.overdue(), pk=run.pk).exists()
    ):
        return False  # an old worker beside new ones; where these don't come, the deploy was taken back
    return migration.obstacle(run, definition) is None


def claim_row(run_id: Any, fingerprints: list[str], *, limited: bool = False) -> Run | None:
    """Carry the statement out; limited: what limits the run has been looked at already."""
    now, at = sql_now()
    known = [fingerprints] if connection.vendor == "postgresql" else fingerprints
    parameters = [
        _owner(), *at, settings.WORKFLOWS["lease_seconds"], *at,  # set
        _identifier(run_id), *at, *at, *known,  # where
    ]  # fmt: skip
    found = fetch_rows(Run, _claim_sql(now, len(fingerprints), limited, connection.vendor), parameters)
    return found[0] if found else None


def _owner() -> str:
    # A forked child inherits the module, and is not the process that imported it.
    return OWNER if f":{os.getpid()}:" in OWNER else _renew_owner()


def _renew_owner() -> str:
    global OWNER  # noqa: PLW0603 - one per process
    OWNER = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    return OWNER


def _identifier(run_id: Any) -> Any:
    identifier = run_id if isinstance(run_id, uuid.UUID) else uuid.UUID(str(run_id))
    return identifier if connection.vendor == "postgresql" else identifier.hex


@lru_cache(maxsize=16)
def _claim_sql(now: str, fingerprints: int, limited: bool, vendor: str) -> str:
    resuming = ", ".join(f"'{word}'" for word in sorted(RESUMING))
    claimable = ", ".join(f"'{state}'" for state in sorted(CLAIMABLE))
    if vendor == "postgresql":
        lease, known = f"{now} + %s * interval '1 second'", "fingerprint = ANY(%s)"
    else:
        lease = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s, '+' || %s || ' seconds')"
        known = f"fingerprint IN ({', '.join(['%s'] * fingerprints)})"
    held_back = (
        ""
        if limited
        else """AND NOT EXISTS (SELECT 1 FROM workflows_limit WHERE scope IN
            ('queue:' || queue, 'workflow:' || workflow, 'key:' || object_key))"""
    )
    return f"""
        UPDATE workflows_run SET epoch = epoch + 1, lease_owner = %s, lease_until = {lease}, rung_at = NULL,
            state = CASE WHEN compensating THEN 'COMPENSATING' ELSE 'RUNNING' END,
            -- A lease that was still set has expired in somebody's hands.
            recoveries = CASE WHEN lease_until IS NULL THEN recoveries ELSE recoveries + 1 END,
            attempt = CASE WHEN waiting_for IN ({resuming}) THEN attempt ELSE attempt + 1 END,
            operation_at = {now}
        -- IS TRUE keeps the planner from the index of all that is due: there is one row of this id.
        WHERE id = %s AND (wake_at <= {now}) IS TRUE AND (lease_until IS NULL OR lease_until < {now})
            AND state IN ({claimable}) AND {known} {held_back}
        RETURNING {columns(Run)}"""  # noqa: S608 - our own names
