"""What a run does on its way: order, retries, waits, undo, dead letters, keys, idempotency."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import transaction

from dalp.local import servers
from tests.sample.models import Effect
from tests.sample.workflows import Ledger, Saga, SampleInput
from workflows import (
    IdempotencyConflictError,
    InvalidInputError,
    NotReplayableError,
    UnknownWorkflowError,
    clock,
    on_dead_letter,
    replay_dead_letter,
    start_workflow,
)
from workflows.alerts import send_alerts
from workflows.models import DeadLetter, Run, VirtualObjectState
from workflows.states import RunState
from workflows.sweeper import ring_due_runs, sweep

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
Drive = Callable[[Run], Run]


def states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


def kinds(run: Run) -> list[str]:
    return list(run.events.values_list("kind", flat=True))


def test_steps_run_in_order_and_the_last_output_is_the_runs(drive: Drive) -> None:
    run = drive(Saga.start(SampleInput()))
    assert run.state == RunState.SUCCEEDED
    assert states(run) == dict.fromkeys(["first#0", "second#0", "pause#0", "third#0"], "SUCCEEDED")
    assert run.output == f"{run.pk}:third#0"
    assert run.waits.get().state == "DONE"
    assert [e.seq for e in run.events.all()] == list(range(1, run.history_seq + 1))


def test_transient_failure_is_retried_by_the_steps_policy(drive: Drive) -> None:
    run = drive(Saga.start(SampleInput(fail="transient", times=2)))
    assert run.state == RunState.SUCCEEDED
    assert run.steps.get(name="third").attempt == 3
    assert kinds(run).count("step_retry_scheduled") == 2


def test_permanent_failure_undoes_the_completed_steps_in_reverse_order(drive: Drive) -> None:
    run = drive(Saga.start(SampleInput(fail="permanent")))
    assert run.state == RunState.COMPENSATED
    assert run.error == {"code": "REFUSED", "message": "the counterparty refused", "step": "third"}
    order = list(Effect.objects.order_by("id").values_list("key", flat=True))
    assert [key.partition(":")[2] for key in order] == [
        "first#0",
        "second#0",
        "second.undo#0",
        "first.undo#0",
    ]
    assert states(run)["first#0"] == states(run)["second#0"] == "UNDONE"
    assert run.steps.get(operation_id="first.undo#0").output == "REFUSED"


@pytest.mark.case("E38")
def test_failed_compensation_waits_for_a_person_and_keeps_the_order_of_the_rest(drive: Drive) -> None:
    run = drive(Saga.start(SampleInput(fail="undo")))
    assert run.state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.operation_id) == ("compensation_failed", "second.undo#0")
    assert run.steps.get(operation_id="second.undo#0").attempt == 2, "its own policy decides"
    assert "first.undo#0" not in states(run), "the undo of an earlier step must wait for this one"
    assert run.error["code"] == "REFUSED", "the failure that started the compensation stays in view"

    Run.objects.filter(pk=run.pk).update(input=SampleInput(fail="permanent").model_dump())
    replay_dead_letter(letter.pk, actor="ops", reason="the bank is back")
    assert drive(run).state == RunState.COMPENSATED
    assert states(run)["first.undo#0"] == "SUCCEEDED"


def test_exhausted_retries_become_a_dead_letter_that_can_be_replayed_once(drive: Drive) -> None:
    run = drive(Saga.start(SampleInput(fail="transient", times=3)))
    assert run.state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.error["code"]) == ("retries_exhausted", "NOT_YET")
    replay_dead_letter(letter.pk, actor="ops", reason="works again")
    with pytest.raises(NotReplayableError):
        replay_dead_letter(letter.pk, actor="ops", reason="clicked twice")
    assert drive(run).state == RunState.SUCCEEDED
    replayed = run.events.get(kind="dead_letter_replayed")
    assert replayed.data == {"step": "third#0", "actor": "ops", "reason": "works again"}


def test_dead_letter_is_alerted_until_the_alert_got_out(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.alerts._callbacks", [])
    heard: list[DeadLetter] = []
    on_dead_letter(heard.append)
    on_dead_letter(lambda letter: 1 / 0 if len(heard) == 1 else None)
    letter = drive(Saga.start(SampleInput(fail="transient", times=3))).dead_letters.get()
    assert send_alerts() == 0
    assert send_alerts() == 1
    assert send_alerts() == 0
    assert [each.pk for each in heard] == [letter.pk, letter.pk]


def test_one_run_at_a_time_per_key_in_the_order_of_their_starts(drive: Drive) -> None:
    runs = [Saga.start(SampleInput(key="gold", fail="permanent" if n == 1 else "")) for n in range(4)]
    assert [run.waiting_for for run in runs] == ["", "key", "key", "key"]
    assert drive(runs[2]).waiting_for == "key", "it may not overtake"
    ended = []
    for run in runs:
        ended.append(drive(run).state)
        holder = VirtualObjectState.objects.get(key="saga:gold").holder_id
        assert holder == (runs[len(ended)].pk if len(ended) < 4 else None)
    assert ended == ["SUCCEEDED", "COMPENSATED", "SUCCEEDED", "SUCCEEDED"]


@pytest.mark.case("E26")
def test_same_key_with_another_input_is_refused_and_names_the_first_run() -> None:
    first = Ledger.start(SampleInput(), idempotency_key="a")
    assert Ledger.start(SampleInput(), idempotency_key="a") == first
    with pytest.raises(IdempotencyConflictError, match=str(first.pk)):
        Ledger.start(SampleInput(key="other"), idempotency_key="a")
    assert Ledger.start(SampleInput(key="other"), idempotency_key="a", scope="somebody else") != first


@pytest.mark.case("E27")
def test_start_in_a_rolled_back_transaction_leaves_neither_run_nor_message(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Callable[..., object]
) -> None:
    sent: list[Run] = []
    monkeypatch.setattr("workflows.doorbell.send", sent.append)
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():  # type: ignore[attr-defined]
        Ledger.start(SampleInput())
        transaction.set_rollback(True)
    assert sent == []
    assert not Run.objects.exists()


def test_bad_input_names_the_field_and_stores_nothing() -> None:
    with pytest.raises(InvalidInputError) as caught:
        start_workflow("sample.ledger", {"times": "many"})
    assert [error["loc"] for error in caught.value.errors] == [("times",)]
    with pytest.raises(UnknownWorkflowError):
        start_workflow("sample.nothing", {})
    assert not Run.objects.exists()


@pytest.mark.case("E53")
def test_one_run_that_cannot_be_rung_does_not_stop_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Ledger.start(SampleInput()) for _ in range(5)]
    monkeypatch.setattr("workflows.sweeper.busy_queues", list)
    Run.objects.update(wake_at=Run.objects.first().created_at.replace(year=2020))  # type: ignore[union-attr]
    rung: list[uuid.UUID] = []

    def send(run: Run) -> None:
        if run.pk == runs[2].pk:
            raise ConnectionError("no broker for this one")
        rung.append(run.pk)

    monkeypatch.setattr("workflows.sweeper.send", send)
    assert ring_due_runs() == 4
    assert ring_due_runs() == 0, "those that were rung have their message"
    Run.objects.update(rung_at=None)
    assert ring_due_runs() == 4, "a sweeper that died before it noted them rings again, and does no harm"
    assert set(rung) == {run.pk for run in runs} - {runs[2].pk}
    monkeypatch.setattr("workflows.sweeper.ring_due_runs", lambda: 1 / 0)
    assert {"rung": -1, "alerted": 0}.items() <= sweep().items(), "a broken rule leaves the other rules alone"


@pytest.mark.parametrize("priority", ["", "\x06\x169"])
def test_runs_of_a_queue_that_still_has_messages_are_given_time(
    monkeypatch: pytest.MonkeyPatch, redis_server: servers.RedisServer, priority: str
) -> None:
    """Each has its message there; a second one for all of them would double what the workers are behind with."""
    run = Ledger.start(SampleInput())
    monkeypatch.setattr("workflows.sweeper.send", lambda run: None)
    redis_server.client().flushall()
    redis_server.client().rpush(f"{run.queue}{priority}", "a message")
    Run.objects.update(wake_at=clock.now() - timedelta(seconds=6))
    assert ring_due_runs() == 0
    redis_server.client().flushall()
    assert ring_due_runs() == 1, "they have lost theirs"
    redis_server.client().rpush(f"{run.queue}{priority}", "a message")
    Run.objects.update(wake_at=clock.now() - timedelta(seconds=11), rung_at=None)
    assert ring_due_runs() == 1, "one of them may be lost"
    redis_server.client().flushall()
