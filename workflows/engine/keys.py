"""The keys of virtual objects: one run at a time per key, first come first served, nobody holds a lock in his hands.

Lock order: the holder's run, then the key, then the next run. Starting takes the key first and only then inserts its
run, which nobody else can have locked.
"""

from django.db.models import Value
from django.db.models.functions import Coalesce

from workflows.clock import db_now
from workflows.doorbell import ring
from workflows.models import Run, VirtualObjectState
from workflows.states import RunState, WaitingFor


def take_key(run: Run) -> bool:
    """Give the run its key if that is free; return whether it may begin. Otherwise it queues by being a waiting run.

    The one UPDATE both takes a free key and locks a held one. Without that lock the holder could look for waiting runs
    just before this one is committed, free the key, and leave this run waiting for ever.
    """
    if not run.object_key:
        return True
    VirtualObjectState.objects.bulk_create([VirtualObjectState(key=run.object_key)], ignore_conflicts=True)
    rows = VirtualObjectState.objects.filter(key=run.object_key)
    mine = Value(run.pk, output_field=VirtualObjectState.holder.field.target_field)
    rows.update(holder_id=Coalesce("holder_id", mine), held_since=Coalesce("held_since", db_now()))
    return rows.filter(holder_id=run.pk).exists()


def release_key(run: Run) -> None:
    """Hand the ending run's key to the one that has waited longest, in the transaction that ends it."""
    if not run.object_key:
        return
    held = VirtualObjectState.objects.filter(key=run.object_key)
    if held.filter(holder=run).update(holder=None, held_since=None) == 0:
        return  # it never had it
    heir = inbox(run.object_key).first()
    if heir is None:
        return
    held.update(holder=heir, held_since=db_now())
    # A paused one keeps its place, and its pause.
    Run.objects.filter(pk=heir.pk).update(waiting_for=WaitingFor.NOTHING, wake_at=db_now())
    Run.objects.filter(pk=heir.pk, state=RunState.WAITING).update(state=RunState.READY)
    ring(heir)


def inbox(key: str):  # type: ignore[no-untyped-def]
    """Return the runs that wait for a key, the next one first."""
    waiting = Run.objects.filter(object_key=key, finished_at__isnull=True, waiting_for=WaitingFor.KEY)
    return waiting.exclude(state=RunState.DEAD_LETTER).order_by("created_at", "id")
