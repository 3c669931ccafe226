"""How many runs of a queue, a workflow or a key go on at once, how often one is taken up, and whose turn it is first."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from pydantic import BaseModel

from tests.sample.objects import Released
from tests.threads import at_once
from workflows import Workflow, clock, pause_scope, resume_scope, set_limit, step
from workflows.doorbell import send
from workflows.engine.claiming import claim_run
from workflows.engine.drive import advance
from workflows.engine.limits import most_urgent, next_in_line
from workflows.models import Limit, Run, Turn
from workflows.states import RunState

pytestmark = [pytest.mark.sqlite_too, pytest.mark.usefixtures("fresh_db", "quiet")]
BY = {"actor": "ops", "reason": "the bank is slow"}


class Nothing(BaseModel):
    pass


class Call(Workflow[Nothing, int]):
    class Meta:
        name, queue = "limits.call", "bank"

    @step
    def call(self) -> int:
        return 1


class Other(Workflow[Nothing, int]):
    class Meta:
        name, queue = "limits.other", "bank"

    @step
    def call(self) -> int:
        return 1


@pytest.fixture
def still() -> Iterator[None]:
    """A clock that goes on by `clock.advance` alone."""
    clock.stop()
    yield
    clock.reset()


def claimed_at_once(runs: list[Run]) -> list[Run]:
    """Have a worker for each of the runs claim it at the same moment; return the runs that were claimed."""
    connections.close_all()
    claims = at_once(len(runs), lambda number: claim_run(runs[number].pk))
    return [run for run, claim in zip(runs, claims, strict=True) if claim is not None]


@pytest.mark.parametrize("scope", ["queue:bank", "workflow:limits.call"])
def test_workers_that_claim_at_once_take_no_more_places_than_there_are(scope: str) -> None:
    set_limit(scope, concurrency=3, **BY)
    runs = [Call.start(Nothing()) for _ in range(8)]
    assert len(claimed_at_once(runs)) == 3
    assert Run.objects.filter(state=RunState.RUNNING).count() == 3


@pytest.mark.parametrize("scope", ["queue:bank", "workflow:limits.call"])
def test_workers_that_claim_at_once_take_no_more_turns_than_there_are(scope: str, still: None) -> None:
    set_limit(scope, rate=3, per_seconds=60, **BY)
    runs = [Call.start(Nothing()) for _ in range(8)]
    first = claimed_at_once(runs)
    assert (len(first), Turn.objects.filter(scope=scope).count()) == (3, 3)
    rest = [run for run in runs if run not in first]
    clock.advance(timedelta(seconds=59.9))
    assert claimed_at_once(rest) == []
    clock.advance(timedelta(seconds=0.2))
    assert len(claimed_at_once(rest)) == 3, "each is due when the window has a turn again"


def test_rate_of_a_key_spaces_its_calls_and_no_other(still: None) -> None:
    set_limit("key:released:a", rate=1, per_seconds=60, **BY)
    one, two = (Released("a").append(value).start() for value in "12")
    other = Released("b").append("x").start()
    for run in (one, other, two):
        advance(run.pk)
    assert (Released("a").read(), Released("b").read()) == (["1"], ["x"])
    clock.advance(timedelta(seconds=61))
    advance(two.pk)
    assert Released("a").read() == ["1", "2"]


def test_every_limit_that_a_run_is_under_counts() -> None:
    set_limit("queue:bank", concurrency=5, **BY)
    set_limit("workflow:limits.call", concurrency=2, **BY)
    runs = [kind.start(Nothing()) for kind in (Call, Call, Call, Call, Other, Other, Other, Other)]
    taken = [run.workflow for run in runs if claim_run(run.pk)]
    assert taken == ["limits.call"] * 2 + ["limits.other"] * 3


def test_run_that_ends_leaves_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[Run] = []
    monkeypatch.setattr("workflows.doorbell.send", rung.append)
    set_limit("workflow:limits.call", concurrency=1, **BY)
    first, second = Call.start(Nothing()), Call.start(Nothing())
    held = claim_run(first.pk)
    assert held is not None
    assert claim_run(second.pk) is None
    Run.objects.filter(pk=first.pk).update(lease_until=None, state=RunState.READY)
    rung.clear()
    advance(first.pk)
    assert rung == [second]
    advance(second.pk)
    assert Run.objects.filter(state=RunState.SUCCEEDED).count() == 2


def test_limit_that_is_taken_away_or_impossible() -> None:
    for nonsense in ({"concurrency": 0}, {"rate": 0}, {"rate": 1, "per_seconds": 0}):
        with pytest.raises(ValueError, match="pause the scope"):
            set_limit("queue:bank", **nonsense, **BY)  # type: ignore[arg-type]
    set_limit("queue:bank", concurrency=1, **BY)
    runs = [Call.start(Nothing()) for _ in range(2)]
    assert [bool(claim_run(run.pk)) for run in runs] == [True, False]
    assert set_limit("queue:bank", **BY) is None
    assert not Limit.objects.exists()
    assert claim_run(runs[1].pk)


def test_paused_workflow_stands_still_and_others_of_its_queue_go_on() -> None:
    pause_scope("workflow:limits.call", **BY)
    runs = [Call.start(Nothing()), Other.start(Nothing())]
    assert [bool(claim_run(run.pk)) for run in runs] == [False, True]
    resume_scope("workflow:limits.call", **BY)
    assert claim_run(runs[0].pk)


def test_most_urgent_are_those_of_the_highest_priority_and_then_those_that_waited_longest() -> None:
    runs = [Call.start(Nothing(), priority=priority) for priority in (None, 2, 9, None, 2)]
    for number, run in enumerate(runs):
        Run.objects.filter(pk=run.pk).update(wake_at=run.created_at - timedelta(minutes=1, seconds=-number))
    due = Run.objects.all()
    wanted = [runs[number] for number in (2, 1, 4, 0, 3)]
    for count in range(1, 6):
        assert most_urgent(due, count) == wanted[:count]
    set_limit("queue:bank", concurrency=1, **BY)
    assert next_in_line(["queue:bank"]) == runs[2]


@pytest.mark.parametrize(("priority", "told"), [(None, 9), (2, 7), (9, 0)])
def test_message_has_the_priority_of_its_run(
    monkeypatch: pytest.MonkeyPatch, priority: int | None, told: int
) -> None:
    """To the Redis transport 0 is the most urgent."""
    run = Call.start(Nothing(), priority=priority)
    sent: list[Any] = []
    monkeypatch.setattr("workflows.doorbell.carrier", None)
    monkeypatch.setattr("celery.canvas.Signature.apply_async", lambda self: sent.append(dict(self.options)))
    send(run)
    assert [(options["queue"], options["priority"]) for options in sent] == [("bank", told)]
