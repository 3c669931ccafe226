"""Virtual objects: one run at a time per key, first come first served, nobody holds a lock in his hands.

Lock order: the holder's run, then the key, then the next run. Starting takes the key first and only then inserts its
run, which nobody else can have locked.
"""

from django.db.models import Value
from django.db.models.functions import Coalesce

from workflows.doorbell import ring
from workflows.leases import db_now
from workflows.models import ObjectKey, Run
from workflows.states import RunState, WaitingFor


def take_key(run: Run) -> bool:
    """Give the run its key if that is free; return whether it may begin. Otherwise it queues by being a waiting run.

    The one UPDATE both takes a free key and locks a held one. Without that lock the holder could look for waiting runs
    just before this one is committed, free the key, and leave this run waiting for ever.
    """
    if not run.object_key:
        return True
    ObjectKey.objects.bulk_create([ObjectKey(key=run.object_key)], ignore_conflicts=True)
    rows = ObjectKey.objects.filter(key=run.object_key)
    rows.update(
        holder_id=Coalesce("holder_id", Value(run.pk, output_field=ObjectKey.holder.field.target_field))
    )
    return rows.filter(holder_id=run.pk).exists()


def release_key(run: Run) -> None:
    """Hand the ending run's key to the one that has waited longest, in the transaction that ends it."""
    if not run.object_key:
        return
    held = ObjectKey.objects.filter(key=run.object_key)
    if held.filter(holder=run).update(holder=None) == 0:
        return  # it never had it
    waiting = Run.objects.filter(
        object_key=run.object_key, state=RunState.WAITING, waiting_for=WaitingFor.KEY
    )
    heir = waiting.order_by("created_at", "id").first()
    if heir is None:
        return
    held.update(holder=heir)
    Run.objects.filter(pk=heir.pk).update(
        state=RunState.READY, waiting_for=WaitingFor.NOTHING, wake_at=db_now()
    )
    ring(heir)
