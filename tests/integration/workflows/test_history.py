"""The history refuses to be changed, and shows it when it was changed all the same."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from pydantic import BaseModel

from tests.integration.workflows.tampering import a_thief_with_the_keys_to_the_database
from tests.sample.workflows import KeptFamily, Ledger, SampleInput
from workflows import Workflow, step, uuid7, verify_history
from workflows.engine.acts import note_act
from workflows.history import HistoryFault
from workflows.models import Act, ArchivedLeaves, ArchivedRun, Event, Payload, Run, Seal, Step

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]

Drive = Callable[[Run], Run]


class Numbers(BaseModel):
    ratio: float = 0.25


class Floats(Workflow[Numbers, Any]):
    """Numbers that PostgreSQL gives back in another form."""

    class Meta:
        name, version = "test.floats", 1

    @step
    def answer(self, input: Numbers) -> Any:
        return {"huge": 1.5e300, "whole": [1.0, 1e22, -0.0, 7], "tiny": 5e-324, "text": "a 1.5 and [2.0"}


class Large(Workflow[Numbers, str]):
    """An output that is kept beside its step."""

    class Meta:
        name, version = "test.large", 1

    @step
    def write(self, input: Numbers) -> str:
        return "x" * 100_000


@pytest.fixture
def run(drive: Drive) -> Run:
    drive(Ledger.start(SampleInput()))
    return drive(Ledger.start(SampleInput()))


def faults() -> list[tuple[str, int]]:
    return [(fault.run_id, fault.seq) for fault in verify_history()]


def only_problem() -> str:
    found: list[HistoryFault] = list(verify_history())
    assert len(found) == 1
    return found[0].problem


PROTECTED = [Event, Act, Seal, ArchivedRun, ArchivedLeaves]


@pytest.fixture
def records(run: Run) -> None:
    """A row in each table that the history consists of."""
    at = run.created_at
    note_act("a person", "look", f"run:{run.pk}", "to see")
    seal = Seal.objects.create(
        number=1,
        first_event=1,
        last_event=9,
        event_count=9,
        first_act=1,
        last_act=1,
        act_count=1,
        sealed_at=at,
    )
    ArchivedRun.objects.create(run_id=uuid7(), history_seq=1, finished_at=at, archived_at=at)
    ArchivedLeaves.objects.create(seal=seal, data=b"")


def carry_out(sql: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.case("PE12")
@pytest.mark.parametrize("model", PROTECTED)
def test_database_refuses_to_change_or_remove_what_the_history_consists_of(records: None, model: Any) -> None:
    table = model._meta.db_table
    column = "number" if model is Seal else "id"
    assert model.objects.exists()
    with pytest.raises(DatabaseError, match="append-only"):
        carry_out(f"UPDATE {table} SET {column} = {column} + 1")
    with pytest.raises(DatabaseError, match="append-only"):
        carry_out(f"DELETE FROM {table}")
    if connection.vendor == "postgresql":
        carry_out(
            "SET CONSTRAINTS ALL IMMEDIATE"
        )  # a table with checks still to come can't be emptied anyway
        with pytest.raises(DatabaseError, match="append-only"):
            carry_out(f"TRUNCATE {table} CASCADE")


def test_a_seal_is_anchored_once_and_nothing_else_of_it_changes(records: None) -> None:
    with pytest.raises(DatabaseError, match="append-only"):
        carry_out("UPDATE workflows_seal SET anchor = '{}', root = 'x'")
    Seal.objects.update(anchor={"block": 7})
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        Seal.objects.update(anchor={"block": 8})


def last(run: Run) -> int:
    return Event.objects.filter(run=run).count()


@pytest.mark.case("PE12")
@pytest.mark.parametrize(
    ("tamper", "seq"),
    [
        (lambda events: events.filter(seq=3).update(data={"step": "reserve#0", "attempt": 2}), 3),
        (lambda events: events.filter(seq=2).update(at="2020-01-01T00:00:00Z"), 2),
        (lambda events: events.filter(seq=3).delete(), 3),
        (lambda events: events.filter(seq__gte=last(events[0].run)).delete(), -1),
        (lambda events: (events.filter(seq=3).update(seq=99), events.filter(seq=4).update(seq=3)), 3),
        (lambda events: events.delete(), 1),
    ],
    ids=["altered", "moved in time", "removed", "cut off", "moved", "gone"],
)
def test_any_change_to_the_history_is_found_where_it_is(
    run: Run, tamper: Callable[..., object], seq: int
) -> None:
    assert list(verify_history()) == []
    expected = seq if seq > 0 else last(run)
    with a_thief_with_the_keys_to_the_database():
        tamper(Event.objects.filter(run=run))
    assert faults() == [(str(run.pk), expected)]


def test_an_event_that_was_put_in_is_found(run: Run) -> None:
    head = Event.objects.get(run=run, seq=last(run))
    head.pk, head.seq, head.previous_hash = None, head.seq + 1, head.hash
    head.save(force_insert=True)
    assert faults() == [(str(run.pk), last(run))]


def test_events_of_a_run_that_is_gone_are_found(run: Run) -> None:
    if connection.vendor == "postgresql":
        carry_out("SET CONSTRAINTS ALL IMMEDIATE")
        carry_out(f"ALTER TABLE workflows_event DROP CONSTRAINT {foreign_key('workflows_event')}")
    run.steps.all().delete()
    Run.objects.filter(pk=run.pk)._raw_delete("default")
    assert only_problem() == "belongs to a run that does not exist"
    with a_thief_with_the_keys_to_the_database():  # SQLite looks for such references when the test ends
        Event.objects.filter(run_id=run.pk).delete()


def foreign_key(table: str) -> str:
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, table)
    return next(name for name, constraint in found.items() if constraint["foreign_key"])


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (lambda run: run.steps.filter(name="book").update(output="another"), "the output of book#0 is not"),
        (lambda run: run.steps.filter(name="book").delete(), "the step book#0 is missing"),
        (
            lambda run: Step.objects.create(
                run=run, operation_id="gift#0", name="gift", seq=9, state="SUCCEEDED", output="surprise"
            ),
            "the step gift#0 has an output that no event speaks of",
        ),
        (lambda run: Run.objects.filter(pk=run.pk).update(input={"key": "x"}), "the run's input is not"),
        (lambda run: Run.objects.filter(pk=run.pk).update(output="more"), "the run's output is not"),
        (
            lambda run: Run.objects.filter(pk=run.pk).update(state="FAILED"),
            "the run is FAILED, and ended SUCC",
        ),
    ],
    ids=["output", "step removed", "step put in", "input", "run's output", "end"],
)
def test_rows_that_are_not_what_the_history_says_are_found(
    run: Run, tamper: Callable[[Run], object], problem: str
) -> None:
    assert list(verify_history()) == []
    tamper(run)
    assert only_problem().startswith(problem)


def test_outputs_of_branches_are_held_against_the_history_of_the_branches(drive_all: Drive) -> None:
    parent = drive_all(KeptFamily.start(SampleInput()))
    assert list(verify_history()) == []
    Step.objects.filter(run=parent, operation_id="letters#1").update(output="z")
    branch = Run.objects.get(parent=parent, branch="letters#1")
    assert [fault.run_id for fault in verify_history()] == [str(branch.pk)]


def test_large_outputs_are_held_against_the_history_too(drive: Drive) -> None:
    run = drive(Large.start(Numbers()))
    assert list(verify_history()) == []
    Payload.objects.filter(run=run).update(data="y" * 100_000)
    assert only_problem() == "the output of write#0 is not the one of the history"
    Payload.objects.filter(run=run).delete()
    assert only_problem() == "the output of write#0 is not the one of the history"


def test_numbers_that_the_database_writes_otherwise_raise_no_alarm(drive: Drive) -> None:
    drive(Floats.start(Numbers(ratio=1e30)))
    assert list(verify_history()) == []


def test_verifying_takes_no_more_queries_for_more_events(
    run: Run, drive: Drive, django_assert_max_num_queries: Any
) -> None:
    for _ in range(20):
        drive(Ledger.start(SampleInput()))
    with django_assert_max_num_queries(8):
        assert list(verify_history()) == []
