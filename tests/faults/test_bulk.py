"""Workers that die in the middle of a bulk decision; every dead letter is decided about once, and counted truly."""

import itertools
from collections import Counter

import pytest

from tests.sample.models import Effect
from tests.sample.workflows import Saga, SampleInput
from tests.services import Live
from workflows import count_items, start_bulk, verify_history
from workflows.engine.drive import advance
from workflows.models import Act, BulkJob, DeadLetter, Run
from workflows.tasks import sweep

pytestmark = pytest.mark.sqlite_too
QUICK = {"DALP_WORKFLOWS_LEASE_SECONDS": "2"}
COUNT = 6


@pytest.fixture
def job(live: Live, monkeypatch: pytest.MonkeyPatch) -> BulkJob:
    """A job about runs that failed for good, and that the next attempt would take to their ends."""
    with monkeypatch.context() as patch:
        patch.setattr("workflows.doorbell.send", lambda run: None)
        for number in range(COUNT):
            run = Saga.start(SampleInput(key=str(number), fail="transient", times=3))
            live.wait_until(lambda run=run: stopped(run), 20, what="the run stops")
    return start_bulk("replay", DeadLetter.objects.all(), actor="ops", reason="works again")


def stopped(run: Run) -> bool:
    advance(run.pk)
    run.refresh_from_db()
    return run.state == "DEAD_LETTER"


@pytest.mark.case("E55")
@pytest.mark.parametrize("point", ["bulk.before_item", "bulk.in_item", "bulk.after_item"])
def test_bulk_decision_goes_on_where_a_worker_died(live: Live, job: BulkJob, point: str) -> None:
    worker = live.start_worker(fault=f"{point}=exit@3", env=QUICK)
    looks = itertools.count()

    def dead() -> bool:
        if next(looks) % 40 == 0:  # the worker may not have been listening yet
            sweep.delay()
        return not worker.alive

    live.wait_until(dead, 60, what=f"the worker dies at {point}")
    dealt_with = 3 if point == "bulk.after_item" else 2
    assert count_items(job) == {"PENDING": COUNT - dealt_with, "DONE": dealt_with, "FAILED": 0, "SKIPPED": 0}
    assert DeadLetter.objects.filter(state="RESOLVED").count() == dealt_with, (
        "an outcome is there with its act"
    )

    BulkJob.objects.filter(pk=job.pk).update(lease_until=job.created_at)  # time passes
    live.start_worker(env=QUICK)

    def done() -> bool:
        if next(looks) % 40 == 0:
            sweep.delay()
        job.refresh_from_db()
        return job.state == "DONE" and not Run.objects.exclude(state="SUCCEEDED").exists()

    live.wait_until(done, 60, what=lambda: f"the job and its runs end: {count_items(job)}")
    assert count_items(job)["DONE"] == COUNT
    targets = Counter(Act.objects.filter(action="replay").values_list("target", flat=True))
    assert len(targets) == COUNT
    assert set(targets.values()) == {1}
    assert set(Counter(Effect.objects.values_list("key", flat=True)).values()) == {1}
    assert list(verify_history()) == []
