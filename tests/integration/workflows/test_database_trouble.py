"""What the engine makes of a database that refuses, forgets, or loses its answers."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.db import OperationalError, connection, connections

from tests.sample.models import Effect
from tests.sample.workflows import Ledger, Outside, Saga, SampleInput, write
from tests.services import Services, switched_to
from tests.threads import at_once
from workflows import Child, Operation, Retry, Workflow, clock, kill_run, step, verify_history
from workflows.engine import claiming, control, draining, recording, session
from workflows.engine.claiming import claim_run
from workflows.engine.drive import advance
from workflows.models import Act, Run
from workflows.states import RunState


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)


def finish(run: Run, seconds: float = 20) -> Run:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        advance(run.pk)
        run.refresh_from_db()
        if run.finished_at or run.state == RunState.DEAD_LETTER:
            return run
        time.sleep(0.01)
    raise AssertionError(f"run {run.pk} is still {run.state}")


def effects(run: Run) -> Counter[str]:
    found = Effect.objects.filter(key__startswith=str(run.pk)).values_list("key", flat=True)
    return Counter(key.partition(":")[2] for key in found)


@pytest.mark.sqlite_too
@pytest.mark.case("E17")
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_commit_whose_answer_was_lost_is_found_to_have_succeeded(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The step's own transaction: the server has committed, and the client sees a broken connection."""
    run = Ledger.start(SampleInput())
    commits = iter(range(1, 100))
    original = type(connection._connections[connection._alias])._commit  # type: ignore[attr-defined]

    def commit(self: Any) -> None:
        original(self)
        if next(commits) == lost:
            raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(type(connection._connections[connection._alias]), "_commit", commit)  # type: ignore[attr-defined]
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert effects(run) == {"reserve#0": 1, "book#0": 1, "settle#0": 1}
    assert run.epoch == 1, "nobody had to take it over"
    assert list(verify_history()) == []


@pytest.mark.case("E17")
def test_record_whose_answer_was_lost_is_found_to_have_succeeded(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The record of a call to the outside: one statement, which commits by itself."""
    run = Outside.start(SampleInput(outside=str(tmp_path / "outside")))
    original, lost = session.checkpoint, iter([True, False, False, False])

    def checkpoint(*arguments: Any) -> list[Any]:
        found = original(*arguments)
        if next(lost):
            raise OperationalError("server closed the connection unexpectedly")
        return found

    monkeypatch.setattr(session, "checkpoint", checkpoint)
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert (tmp_path / "outside").read_text().split() == [f"{run.pk}:call#0"]
    assert run.events.filter(kind="step_succeeded").count() == 1
    assert list(verify_history()) == []


class Crossing(Workflow[SampleInput, str]):
    """Two of these lock two rows in opposite orders."""

    class Meta:
        name = "trouble.crossing"

    tries: Counter[str] = Counter()
    both_have_one = threading.Barrier(2)

    @step(effect="transactional", retry=Retry(attempts=1))
    def cross(self, input: SampleInput, operation: Operation) -> str:
        self.tries[input.key] += 1
        first, second = ("a", "b") if input.key == "forth" else ("b", "a")
        Effect.objects.filter(key=first).update(attempt=1)
        if self.tries[input.key] == 1:
            self.both_have_one.wait(10)
        Effect.objects.filter(key=second).update(attempt=1)
        return write(operation)


@pytest.mark.case("E18")
@pytest.mark.postgresql("SQLite has one writer, and no deadlocks")
def test_transaction_that_the_database_refuses_is_begun_again_from_scratch(fresh_db: str) -> None:
    Effect.objects.bulk_create([Effect(key=key, attempt=0) for key in ("a", "b")])
    runs = [Crossing.start(SampleInput(key=key)) for key in ("forth", "back")]
    connections.close_all()
    at_once(2, lambda number: advance(runs[number].pk))
    for run in runs:
        run.refresh_from_db()
        assert run.state == RunState.SUCCEEDED
        assert effects(run) == {"cross#0": 1}
        assert run.steps.get().attempt == 1, "a deadlock is the database's affair, not an attempt of the step"
    assert sum(Crossing.tries.values()) == 3, "no deadlock happened"


class Parent(Workflow[SampleInput, str]):
    class Meta:
        name = "trouble.parent"

    @step
    def child(self, input: SampleInput) -> Child[str]:
        return Ledger.child(input)


@pytest.mark.case("E18")
@pytest.mark.postgresql("SQLite has one writer, and no deadlocks")
def test_kill_that_the_database_refuses_is_begun_again(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who kills has the parent and wants its child, whose worker has the child and wants to tell the parent."""
    parent = Parent.start(SampleInput())
    advance(parent.pk)
    child = Run.objects.get(parent=parent)
    connections.close_all()
    both_have_one, tries = threading.Barrier(2), Counter[str]()

    def hold(who: str, original: Any) -> Any:
        def held(*arguments: Any, **options: Any) -> Any:
            tries[who] += 1
            if tries[who] == 1:
                both_have_one.wait(10)
            if who == "killer":  # so that it is the one who finds out, and is refused
                connection.cursor().execute("SET LOCAL deadlock_timeout = '50ms'")
            return original(*arguments, **options)

        return held

    monkeypatch.setattr(control, "note_act", hold("killer", control.note_act))
    monkeypatch.setattr(recording, "tell_parent", hold("worker", recording.tell_parent))
    acts = [lambda: kill_run(parent.pk, actor="alice", reason="enough"), lambda: advance(child.pk)]
    at_once(2, lambda number: acts[number]())
    parent.refresh_from_db()
    child.refresh_from_db()
    assert (parent.state, child.state) == (RunState.CANCELLED, RunState.SUCCEEDED)
    assert tries == {"killer": 2, "worker": 1}, "no deadlock happened"
    assert Act.objects.filter(action="kill").count() == 1
    assert list(verify_history()) == []


class Cut(Workflow[SampleInput, str]):
    """Its steps find the database away."""

    class Meta:
        name = "trouble.cut"

    away: ClassVar[set[str]] = set()

    def look_for_database(self, name: str) -> None:
        if name in self.away:
            connection.close()
            raise OperationalError("connection failed: the database system is starting up")

    @step(effect="transactional", retry=Retry(attempts=1))
    def write(self, operation: Operation) -> str:
        self.look_for_database("write")
        return write(operation)

    @step(retry=Retry(attempts=1))
    def call(self, write: str) -> str:
        self.look_for_database("call")
        return write


@pytest.mark.case("E17")
@pytest.mark.postgresql("SQLite is a file, and never away")
def test_database_that_is_away_for_longer_than_the_lease_is_no_failure_of_the_step(
    fresh_db: str, settings: Any
) -> None:
    settings.WORKFLOWS = {**settings.WORKFLOWS, "lease_seconds": 0.2}
    run = Cut.start(SampleInput())
    Cut.away.update(("write", "call"))
    for name in ("write", "call"):
        with pytest.raises(OperationalError, match="starting up"):
            while True:
                advance(run.pk)
        run.refresh_from_db()
        assert (run.state, run.operation) == (RunState.RUNNING, f"{name}#0")
        Cut.away.discard(name)
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert effects(run) == {"write#0": 1}
    assert list(verify_history()) == []


class Spoilt(Workflow[SampleInput, str]):
    """A step that goes on in a transaction that the database has given up."""

    class Meta:
        name = "trouble.spoilt"

    @step(effect="transactional", retry=Retry(attempts=2, first=0.01))
    def spoil(self, operation: Operation) -> str:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT nothing FROM nowhere")
        except Exception:  # noqa: BLE001 - the mistake that this workflow is about
            pass
        return write(operation)


@pytest.mark.sqlite_too
def test_step_that_spoils_its_transaction_ends_as_its_own_failure(fresh_db: str) -> None:
    run = finish(Spoilt.start(SampleInput()))
    if connection.vendor == "postgresql":
        assert run.state == RunState.DEAD_LETTER
        assert run.steps.get().attempt == 2
        assert effects(run) == {}


@pytest.mark.sqlite_too
@pytest.mark.case("E16")
def test_database_that_lost_its_last_commit_repeats_the_step_with_the_same_key(
    fresh_db: str, services: Services, tmp_path: Path
) -> None:
    """A failover to a replica that was behind: what the database no longer knows, the outside must recognise."""
    run = Outside.start(SampleInput(outside=str(tmp_path / "outside")))
    assert claim_run(run.pk) is not None
    connections.close_all()
    services.copy_database(fresh_db, "behind")  # the replica, before the commit
    Run.objects.filter(pk=run.pk).update(lease_until=run.created_at)
    finish(run)
    connections.close_all()
    with switched_to(services.database_name("behind")):
        Run.objects.filter(pk=run.pk).update(lease_until=run.created_at)
        finish(run)
        assert run.state == RunState.SUCCEEDED
        assert list(verify_history()) == []
    services.drop_database("behind")
    called = (tmp_path / "outside").read_text().split()
    assert called == [f"{run.pk}:call#0"] * 2


@pytest.mark.case("E29")
@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.postgresql("SQLite lives on this machine and has no other clock")
def test_clock_of_a_worker_changes_nothing(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    original = time.time
    monkeypatch.setattr(time, "time", lambda: original() + hours * 3600)
    monkeypatch.setattr(
        "django.utils.timezone.now", lambda: pytest.fail("somebody asked this machine's clock")
    )
    run = finish(Saga.start(SampleInput(fail="transient", times=2)))
    monkeypatch.undo()
    assert run.state == RunState.SUCCEEDED
    instants = [run.created_at, run.finished_at, *run.events.values_list("at", flat=True)]
    assert all(abs((clock.now() - at).total_seconds()) < 60 for at in instants if at)


@pytest.mark.sqlite_too
@pytest.mark.case("E52")
def test_worker_that_is_being_stopped_takes_nothing_up(fresh_db: str) -> None:
    run = Ledger.start(SampleInput())
    draining.begin()
    try:
        assert claim_run(run.pk) is None
        assert Run.objects.get(pk=run.pk).epoch == 0
    finally:
        draining.end()
    assert claim_run(run.pk) is not None
    assert Run.objects.get(pk=run.pk).lease_owner == claiming.OWNER, (
        "which is another one after each start of a process"
    )
