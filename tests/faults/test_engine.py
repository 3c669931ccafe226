"""Workers that die, freeze and are woken twice; what was done is counted by rows and by a file outside."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sample.models import Effect
from tests.sample.workflows import Ledger, Once, Outside, SampleInput, TwoQueues, Verified
from tests.services import Live
from workflows import verify_history
from workflows.doorbell import send
from workflows.models import Run
from workflows.states import RunState
from workflows.sweeper import sweep
from workflows.tasks import advance

pytestmark = pytest.mark.sqlite_too

QUICK = {"DALP_WORKFLOWS_LEASE_SECONDS": "2", "DALP_WORKFLOWS_SWEEP_GRACE_SECONDS": "1"}
NO_FENCE = {"DALP_TEST_DISABLE_FENCE": "true"}
KILLED = 137


def ended(run: Run) -> bool:
    """Sweep once, as beat does every second, and tell whether the run has come to an end or to a person."""
    sweep()
    run.refresh_from_db()
    return run.finished_at is not None or run.state == RunState.DEAD_LETTER


def settle(live: Live, *runs: Run, timeout: float = 30) -> None:
    live.wait_until(
        lambda: not [run for run in runs if not ended(run)],
        timeout,
        what=lambda: "the runs end: " + ", ".join(f"{run} is {run.state}" for run in runs),
    )


def killed_at(live: Live, point: str, start: Callable[[], Run], **env: str) -> Run:
    """Start a run under a worker that dies at the crash point; return the run as the dead worker left it."""
    worker = live.start_worker(fault=f"{point}=exit", env={**QUICK, **env})
    run = start()
    live.wait_until(lambda: not worker.alive, 20, what=f"the worker dies at {point}")
    assert worker.returncode == KILLED, f"the worker ended otherwise: {worker.tail()}"
    run.refresh_from_db()
    return run


def effects(run: Run) -> Counter[str]:
    return Counter(Effect.objects.filter(key__startswith=str(run.pk)).values_list("key", flat=True))


def each_step_once(run: Run) -> Counter[str]:
    return Counter(f"{run.pk}:{row.operation_id}" for row in run.steps.all())


@pytest.mark.parametrize(
    ("point", "found"),
    [
        pytest.param("engine.before_claim", RunState.READY, marks=pytest.mark.case("E1")),
        pytest.param("engine.claimed", RunState.RUNNING, marks=pytest.mark.case("E2")),
        pytest.param("sample.inside", RunState.RUNNING, marks=pytest.mark.case("E3")),
        pytest.param("engine.in_record", RunState.RUNNING, marks=pytest.mark.case("E3")),
        pytest.param("engine.recorded", RunState.RUNNING, marks=pytest.mark.case("E5")),
        pytest.param("engine.before_ack", RunState.SUCCEEDED, marks=pytest.mark.case("E6")),
    ],
)
def test_transactional_steps_happen_once_wherever_the_worker_is_killed(
    live: Live, point: str, found: str
) -> None:
    run = killed_at(live, point, lambda: Ledger.start(SampleInput()))
    assert run.state == found
    live.start_worker(env=QUICK)
    send(run)  # the broker delivers again what was not acknowledged
    settle(live, run)
    assert run.state == RunState.SUCCEEDED
    assert effects(run) == each_step_once(run)
    assert run.epoch >= (1 if found in (RunState.READY, RunState.SUCCEEDED) else 2)
    assert list(verify_history()) == []


@pytest.mark.case("E5")
def test_run_whose_doorbell_was_lost_is_found_by_the_sweeper(live: Live) -> None:
    """Killed between the commit of a slice and the ring for the next one, with nobody to deliver anything again."""
    one_step = {"DALP_WORKFLOWS_SLICE_STEPS": "1"}
    run = killed_at(live, "engine.recorded", lambda: Ledger.start(SampleInput()), **one_step)
    assert (run.state, run.lease_until) == (RunState.READY, None)
    live.redis.client().flushall()
    live.start_worker(env=QUICK)
    settle(live, run)
    assert effects(run) == each_step_once(run)


@pytest.mark.case("E4")
@pytest.mark.parametrize("point", ["sample.outside", "engine.before_record"])
@pytest.mark.parametrize(("workflow", "calls"), [(Outside, 2), (Verified, 1), (Once, 1)])
def test_call_cut_off_by_a_crash_follows_its_declared_effect(
    live: Live, tmp_path: Path, workflow: type[Any], calls: int, point: str
) -> None:
    file = tmp_path / "outside"
    run = killed_at(live, point, lambda: workflow.start(SampleInput(outside=str(file))))
    live.start_worker(env=QUICK)
    settle(live, run)
    called = file.read_text().split()
    assert len(called) == calls
    assert set(called) == {f"{run.pk}:call#0"}, "a repeated call carries the key of the first"
    if workflow is Once:
        assert run.state == RunState.DEAD_LETTER
        assert run.dead_letters.get().reason == "uncertain"
    else:
        assert run.state == RunState.SUCCEEDED


@pytest.mark.case("E7", "E13")
def test_all_workers_of_a_host_lost_at_once_lose_nothing(live: Live) -> None:
    lost = [live.start_worker(fault="engine.in_record=exit@5", env=QUICK) for _ in range(2)]
    runs = [Ledger.start(SampleInput()) for _ in range(20)]
    live.wait_until(lambda: not any(worker.alive for worker in lost), 30, what="the host dies")
    assert Run.objects.filter(state=RunState.RUNNING).exists(), "nothing was in flight"
    live.start_worker(env=QUICK)
    settle(live, *runs)
    for run in runs:
        assert effects(run) == each_step_once(run)
    assert list(verify_history()) == []


def freeze_and_replace(live: Live, stopped_by: str, **env: str) -> Run:
    """Freeze a worker after a step's code and before its record, let another finish the run, thaw the first."""
    settings = {**QUICK, **env}
    frozen = live.start_worker(fault="engine.before_record=stop", env=settings)
    # Not a transactional step: frozen inside its transaction, SQLite's one writer would stop everybody.
    run = Outside.start(SampleInput(outside=str(live.directory / "outside")))
    live.wait_until(lambda: frozen.stopped, 20, what="the worker freezes")
    live.redis.client().flushall()
    live.start_worker(env=settings)
    settle(live, run)
    frozen.thaw()
    live.wait_until(lambda: stopped_by in frozen.output(), 20, what=f"the thawed worker meets {stopped_by}")
    return run


@pytest.mark.case("E8")
def test_worker_frozen_beyond_its_lease_writes_nothing_when_it_wakes(live: Live) -> None:
    run = freeze_and_replace(live, "fenced")
    assert run.events.filter(kind="step_succeeded").count() == 1
    assert Run.objects.get(pk=run.pk).history_seq == run.history_seq
    assert list(verify_history()) == []


@pytest.mark.case("E8")
def test_without_the_epoch_check_the_stale_worker_gets_through_to_the_last_line(live: Live) -> None:
    """The same with the check switched off: the test above would fail, for nothing fences the stale worker.

    What stops it then are the tables' constraints, so that even this bug would not execute a step twice.
    """
    run = freeze_and_replace(live, "IntegrityError", **NO_FENCE)
    assert not any("fenced" in process.output() for process in live.processes)
    assert run.events.filter(kind="step_succeeded").count() == 1


@pytest.mark.case("E10")
def test_flushing_redis_costs_time_and_nothing_else(live: Live) -> None:
    live.start_worker(env=QUICK)
    runs = []
    for number in range(30):
        runs.append(Ledger.start(SampleInput()))
        if number % 10 == 5:
            live.redis.client().flushall()
    settle(live, *runs)
    for run in runs:
        assert effects(run) == each_step_once(run)


@pytest.mark.case("E13", "E6")
def test_message_delivered_ten_times_to_two_workers_is_done_once(live: Live) -> None:
    for _ in range(2):
        live.start_worker(env=QUICK)
    runs = [Ledger.start(SampleInput()) for _ in range(5)]
    for run in runs:
        for _ in range(10):
            send(run)
    settle(live, *runs)
    for run in runs:
        assert effects(run) == each_step_once(run)
        assert run.epoch == 1, "a second claim succeeded"


@pytest.mark.case("E14")
def test_message_for_an_unknown_run_is_dropped(live: Live) -> None:
    worker = live.start_worker(env=QUICK)
    advance.delay("00000000-0000-7000-8000-000000000000")
    run = Ledger.start(SampleInput())
    settle(live, run)
    assert worker.alive
    live.wait_until(lambda: live.redis.client().hlen("unacked") == 0, what="the message is acknowledged")
    assert live.redis.client().llen("workflows") == 0


def test_run_crosses_queues_in_the_order_of_its_steps(live: Live) -> None:
    """Two workers, one for each queue: the chain's links go where the segments belong."""
    here = live.start_worker(queues="workflows", env=QUICK)
    there = live.start_worker(queues="ops", env=QUICK)
    run = TwoQueues.start(SampleInput())
    settle(live, run)
    assert run.state == RunState.SUCCEEDED
    assert effects(run) == each_step_once(run)
    live.wait_until(lambda: here.output().count("received") == 2, what="two links run here")
    assert there.output().count("received") == 1
