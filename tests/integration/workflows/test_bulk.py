"""One decision about many dead letters: the list is frozen, the pace is kept, and every item has its true outcome."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.workflows.stopped import Script, stop_many
from workflows import (
    NotPossibleError,
    count_items,
    discard_dead_letter,
    start_bulk,
    stop_bulk,
    verify_history,
)
from workflows.engine import bulk
from workflows.engine.bulk import work_off_bulk
from workflows.history import output_digest
from workflows.models import Act, BulkJob, DeadLetter, Run
from workflows.sweeper import sweep

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db, pytest.mark.usefixtures("script")]
BY = {"actor": "ops", "reason": "the bank is back"}
FAST = 1_000_000


def start(action: str = "replay", *, per_second: int = FAST, **more: Any) -> BulkJob:
    letters = more.pop("letters", DeadLetter.objects.all())
    return start_bulk(action, letters, per_second=per_second, **BY, **more)


def done(job: BulkJob) -> dict[str, int]:
    """Work the job off and return what became of its items."""
    while work_off_bulk(seconds=30):
        pass
    job.refresh_from_db()
    assert (job.state, job.finished_at is not None) == ("DONE", True)
    return {state: count for state, count in count_items(job).items() if count}


@pytest.mark.case("E55")
@pytest.mark.parametrize(
    ("action", "state"),
    [("replay", "READY"), ("compensate", "FAILED"), ("discard", "FAILED"), ("kill", "CANCELLED")],
)
def test_every_run_is_decided_about_once_and_each_act_is_noted(
    script: Script, action: str, state: str
) -> None:
    stop_many(30)
    job = start(action)
    assert done(job) == {"DONE": 30}
    assert set(Run.objects.values_list("state", flat=True)) == {state}
    assert set(DeadLetter.objects.values_list("resolution", "resolved_by")) == {(action, "ops")}
    reasons = set(Act.objects.filter(action=action).values_list("reason", flat=True))
    assert reasons == {f"the bank is back (bulk {job.pk})"}
    assert Act.objects.filter(action=action).count() == 30
    assert Act.objects.get(action=f"bulk_{action}").details == {"count": 30}
    assert list(verify_history()) == []


def test_letters_that_open_later_are_not_in_the_list(script: Script) -> None:
    stop_many(3)
    job = start()
    stop_many(2)
    assert done(job) == {"DONE": 3}
    assert DeadLetter.objects.filter(state="OPEN").count() == 2


def test_letter_that_somebody_else_resolved_says_who(script: Script) -> None:
    stop_many(2)
    job = start()
    first = DeadLetter.objects.order_by("pk").first()
    assert first is not None
    discard_dead_letter(first.pk, actor="eve", reason="mine")
    assert done(job) == {"DONE": 1, "SKIPPED": 1}
    item = job.items.get(dead_letter=first)
    assert item.detail.startswith("discard by eve at 20")
    first.refresh_from_db()
    assert (first.resolution, first.run.state) == ("discard", "FAILED"), "nothing was done to it"


def test_letter_that_can_not_be_decided_about_so_says_why_and_stays_open(script: Script) -> None:
    stop_many(2, operation="pay#0")
    stop_many(1, operation="ship#0")
    job = start("skip")
    assert done(job) == {"DONE": 1, "FAILED": 2}
    item = job.items.filter(state="FAILED").first()
    assert item is not None
    assert item.detail.startswith("RUN_NOT_IN_STATE: pay can't be skipped: ship takes its output as Paid")
    assert item.dead_letter.state == "OPEN"


def test_value_completes_them_all(script: Script) -> None:
    stop_many(3)
    assert done(start("complete", parameters={"value": "by hand"})) == {"DONE": 3}
    details = Act.objects.get(action="bulk_complete").details
    assert details == {"count": 3, "value_digest": output_digest("by hand")}
    assert Run.objects.filter(operation="pay#0", state="READY").count() == 3


def test_some_of_the_letters_can_be_chosen_by_any_query(script: Script) -> None:
    stop_many(10)
    job = start(letters=DeadLetter.objects.order_by("-created_at")[:4])
    assert job.total == 4
    assert done(job) == {"DONE": 4}


def test_long_list_is_frozen_in_pieces(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FREEZE_CHUNK", 4)
    stop_many(12)
    job = start()
    assert (job.total, job.items.values("dead_letter_id").distinct().count()) == (12, 12)


def test_pace_is_kept_over_passes_and_workers(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_many(30)
    job = start(per_second=10)
    at = [bulk.clock.now()]
    monkeypatch.setattr(bulk.clock, "now", lambda: at[0])
    assert work_off_bulk(seconds=5) == 1, "a new job has nothing to catch up"
    worked = []
    for _ in range(4):
        at[0] += bulk.timedelta(seconds=0.5)
        worked.append(work_off_bulk(seconds=5))
    assert worked == [5, 5, 5, 5]
    at[0] += bulk.timedelta(seconds=60)
    assert work_off_bulk(seconds=5) == 9, "what was missed is caught up for a second at most"
    assert count_items(job)["DONE"] == 30


@pytest.mark.case("E55")
def test_stopped_job_leaves_the_rest_alone(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_many(20)
    job = start()
    plain = bulk._decide

    def stop_at_the_seventh(*given: Any) -> Any:
        if job.items.exclude(state="PENDING").count() == 6:
            stop_bulk(job.pk, actor="eve", reason="enough")
        return plain(*given)

    monkeypatch.setattr(bulk, "_decide", stop_at_the_seventh)
    work_off_bulk(seconds=30)
    assert work_off_bulk(seconds=30) == 0
    job.refresh_from_db()
    assert job.state == "STOPPED"
    assert count_items(job) == {"PENDING": 13, "DONE": 7, "FAILED": 0, "SKIPPED": 0}
    assert DeadLetter.objects.filter(state="OPEN").count() == 13
    assert Act.objects.get(action="stop_bulk").actor == "eve"
    with pytest.raises(NotPossibleError, match="STOPPED already"):
        stop_bulk(job.pk, **BY)


def failing_at(number: int, error: Exception) -> Callable[..., Any]:
    plain, seen = bulk.ACTIONS["replay"], []

    def act(letter_id: Any, **given: Any) -> Any:
        seen.append(letter_id)
        if len(seen) == number:
            raise error
        return plain(letter_id, **given)

    return act


def test_item_that_fails_in_an_unforeseen_way_does_not_stop_the_others(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_many(5)
    monkeypatch.setitem(bulk.ACTIONS, "replay", failing_at(3, ZeroDivisionError("no")))
    job = start()
    assert done(job) == {"DONE": 4, "FAILED": 1}
    assert job.items.get(state="FAILED").detail == "unforeseen: ZeroDivisionError"
    assert DeadLetter.objects.filter(state="OPEN").count() == 1


def test_job_goes_on_in_the_sweep(script: Script) -> None:
    stop_many(3)
    job = start()
    assert sweep()["decided"] == 3
    job.refresh_from_db()
    assert job.state == "DONE"


@pytest.mark.parametrize("action", ["fork", ""])
def test_action_that_does_not_exist_is_refused(script: Script, action: str) -> None:
    stop_many(1)
    with pytest.raises(NotPossibleError, match="one of replay, complete"):
        start(action)


def test_job_about_nothing_is_refused(script: Script) -> None:
    with pytest.raises(NotPossibleError, match="none of these"):
        start()
    assert not BulkJob.objects.exists()
