"""Bulk jobs on several workers, on a database that really commits."""

import uuid
from collections import Counter
from typing import Any

import pytest
from django.db import OperationalError

from tests.integration.workflows.stopped import stop_many
from tests.threads import at_once
from workflows import count_items, discard_dead_letter, start_bulk, verify_history
from workflows.engine import bulk
from workflows.engine.bulk import work_off_bulk
from workflows.models import Act, BulkJob, DeadLetter, Run

pytestmark = [pytest.mark.sqlite_too, pytest.mark.usefixtures("fresh_db", "script")]
BY = {"actor": "ops", "reason": "the bank is back"}


@pytest.fixture
def job() -> BulkJob:
    stop_many(60)
    return start_bulk("replay", DeadLetter.objects.all(), per_second=1_000_000, **BY)


@pytest.mark.case("E55")
def test_workers_that_sweep_at_once_decide_about_each_item_once(job: BulkJob) -> None:
    at_once(4, lambda _: [work_off_bulk(seconds=2) for _ in range(3)])
    while work_off_bulk(seconds=5):
        pass
    assert count_items(job)["DONE"] == 60
    assert (
        Counter(Act.objects.filter(action="replay").values_list("target", flat=True)).most_common(1)[0][1]
        == 1
    )
    assert list(verify_history()) == []


def test_item_that_the_database_refuses_for_a_moment_is_done_by_the_next_pass(
    job: BulkJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refused = bulk.ACTIONS["replay"], []

    def act(letter_id: uuid.UUID, **given: Any) -> Any:
        if len(refused) < 3:
            refused.append(letter_id)
            raise OperationalError("deadlock detected")
        return plain(letter_id, **given)

    monkeypatch.setitem(bulk.ACTIONS, "replay", act)
    assert work_off_bulk(seconds=30) == 57
    assert count_items(job) == {"PENDING": 3, "DONE": 57, "FAILED": 0, "SKIPPED": 0}
    assert work_off_bulk(seconds=30) == 3
    job.refresh_from_db()
    assert job.state == "DONE"


@pytest.mark.case("E55")
@pytest.mark.timeout(600)
def test_a_thousand_are_replayed_with_true_counts() -> None:
    stop_many(1_000)
    for letter in DeadLetter.objects.order_by("pk")[100:110]:
        discard_dead_letter(letter.pk, actor="early", reason="before")
    job = start_bulk("replay", DeadLetter.objects.all(), per_second=1_000_000, **BY)
    assert job.total == 990
    for letter in DeadLetter.objects.order_by("pk")[500:507]:
        discard_dead_letter(letter.pk, actor="eve", reason="meanwhile")
    while work_off_bulk(seconds=60):
        pass
    assert count_items(job) == {"PENDING": 0, "DONE": 983, "FAILED": 0, "SKIPPED": 7}
    assert Run.objects.filter(state="READY").count() == 983
    assert list(verify_history()) == []
