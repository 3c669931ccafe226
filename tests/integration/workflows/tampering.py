"""What somebody does who has the keys to the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from workflows.history.digests import event_digest
from workflows.models import Event, Run


@contextmanager
def a_thief_with_the_keys_to_the_database(*tables: str) -> Iterator[None]:
    """Remove the triggers, as only the owner of the tables can."""
    with connection.cursor() as cursor:
        for table in tables or ("workflows_event",):
            if connection.vendor == "postgresql":
                # A table with checks still to come can't be altered.
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_append_only")
            else:
                cursor.execute(f"DROP TRIGGER {table}_no_update")
                cursor.execute(f"DROP TRIGGER {table}_no_delete")
    yield


def rewrite_history(run: Run, **changed: Any) -> None:
    """Change the run's second event and make every hash from there on, and the head, anew: no chain shows it."""
    previous = ""
    for event in Event.objects.filter(run=run).order_by("seq"):
        if event.seq == 2:
            event.data |= changed
        event.previous_hash = previous
        previous = event_digest(str(run.pk), event.seq, event.kind, event.at, event.data, previous)
        Event.objects.filter(pk=event.pk).update(
            data=event.data, previous_hash=event.previous_hash, hash=previous
        )
    Run.objects.filter(pk=run.pk).update(history_hash=previous)


def wipe_out(run: Run) -> None:
    """Delete a run and all that belongs to it."""
    for related in (run.steps, run.waits, run.signals, run.events):
        related.all().delete()
    Run.objects.filter(pk=run.pk)._raw_delete("default")
