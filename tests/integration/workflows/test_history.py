"""The history refuses to be changed, and shows it when it was changed all the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import DatabaseError, connection, transaction

from tests.sample.workflows import Ledger, SampleInput
from workflows import verify_history
from workflows.models import Event, Run

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]


@pytest.fixture
def run(drive: Callable[[Run], Run]) -> Run:
    drive(Ledger.start(SampleInput()))
    return drive(Ledger.start(SampleInput()))


@contextmanager
def a_thief_with_the_keys_to_the_database() -> Iterator[None]:
    """Remove the triggers, as only the owner of the tables can."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SET CONSTRAINTS ALL IMMEDIATE"
            )  # a table with checks still to come can't be altered
            cursor.execute("ALTER TABLE workflows_event DISABLE TRIGGER workflows_event_append_only")
        else:
            cursor.execute("DROP TRIGGER workflows_event_no_update")
            cursor.execute("DROP TRIGGER workflows_event_no_delete")
    yield


@pytest.mark.case("PE12")
@pytest.mark.parametrize("act", [lambda rows: rows.update(kind="x"), lambda rows: rows.delete()])
def test_database_refuses_to_change_history(run: Run, act: Callable[..., object]) -> None:
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        act(Event.objects.filter(run=run))


@pytest.mark.parametrize(
    ("tamper", "seq"),
    [
        (lambda events: events.filter(seq=3).update(data={"step": "reserve#0", "attempt": 2}), 3),
        (lambda events: events.filter(seq=3).delete(), 3),
        (lambda events: events.filter(seq__gte=6).delete(), 6),
        (lambda events: (events.filter(seq=3).update(seq=99), events.filter(seq=4).update(seq=3)), 3),
    ],
    ids=["altered", "removed", "cut off", "moved"],
)
def test_any_change_to_the_history_is_found_where_it_is(
    run: Run, tamper: Callable[..., object], seq: int
) -> None:
    assert list(verify_history()) == []
    with a_thief_with_the_keys_to_the_database():
        tamper(Event.objects.filter(run=run))
    faults = list(verify_history())
    assert [(fault.run_id, fault.seq) for fault in faults] == [(str(run.pk), seq)]
