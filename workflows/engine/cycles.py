"""Refusing to wait for a key whose holder waits, through however many others, for the one that asks.

A run waits for its children and branches; a child may wait in the inbox of a key, and so for the run that holds it.
Every wait that could close a circle is begun by a run that has a key, or by one that such a run waits for. These are
let through one at a time, each until it is committed: so the last one of a circle sees all the others.
"""

from typing import Any

from django.db import connection

from workflows.errors import PermanentError
from workflows.models import Run, VirtualObjectState
from workflows.states import WaitingFor

_ONE_AT_A_TIME = 0x0B1EC7C  # the number of an advisory lock; anything that no other one has


def require_no_cycle(waiting_id: Any, key: str) -> None:
    """Raise PermanentError (OBJECT_CYCLE) when the run must not wait for the key: nobody would ever go on.

    To be called in the transaction that begins the wait.
    """
    if not key:
        return
    waiting, keys = _those_who_wait(waiting_id)
    if not keys:
        return  # nobody can be waiting for what it holds
    _wait_for_the_others()
    holder = _find_blocked(key, waiting)
    if holder is not None:
        run = Run.objects.only("workflow").get(pk=holder)
        raise PermanentError(
            "OBJECT_CYCLE",
            f"waiting for {key} would never end: who holds it waits for run {run.pk} ({run.workflow}), which waits for this one",
        )


def _those_who_wait(run_id: Any) -> tuple[set[Any], set[str]]:
    """Return the run, its parent, and so on; and the keys that they have."""
    waiting, keys = set(), set()
    while run_id is not None:
        parent_id, key = Run.objects.values_list("parent_id", "object_key").get(pk=run_id)
        waiting.add(run_id)
        keys |= {key} - {""}
        run_id = parent_id
    return waiting, keys


def _wait_for_the_others() -> None:
    # Two that begin at the same moment would otherwise both find that nobody waits yet. SQLite has one writer anyway.
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ONE_AT_A_TIME])


def _find_blocked(key: str, waiting: set[Any]) -> Any:
    """Return the run among those that are waiting which the holder of the key waits for, or None when it waits for none."""
    keys, seen = {key}, set[Any]()
    while keys:
        runs = set(VirtualObjectState.objects.filter(key__in=keys).values_list("holder_id", flat=True))
        # Those that queued up again in the middle of their work may wait for others when they get the key.
        again = Run.objects.filter(object_key__in=keys, waiting_for=WaitingFor.KEY, attempt__gt=0)
        runs |= set(again.filter(finished_at__isnull=True).values_list("pk", flat=True))
        keys = set()
        while runs := runs - seen - {None}:
            if blocked := runs & waiting:
                return next(iter(blocked))
            seen |= runs
            below = Run.objects.filter(parent_id__in=runs, finished_at__isnull=True)
            found = list(below.values_list("pk", "waiting_for", "object_key"))
            runs = {pk for pk, _, _ in found}
            keys |= {wanted for _, why, wanted in found if why == WaitingFor.KEY}
    return None
