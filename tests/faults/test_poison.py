"""Runs that kill whoever carries them out: they are given up, and all others go on."""

import pytest

from dalp.local.processes import Process
from tests.faults.poison.workflows import Poison, PoisonInput, Timer
from tests.faults.test_engine import QUICK, each_step_once, effects, settle
from tests.sample.workflows import Ledger, SampleInput
from tests.services import Live
from workflows import replay_dead_letter, set_limit, verify_history
from workflows.clock import db_now, in_seconds
from workflows.doorbell import send
from workflows.models import Run
from workflows.states import RunState
from workflows.sweeper import sweep

pytestmark = pytest.mark.sqlite_too

RECOVERIES = 1
POISON = {
    **QUICK,
    "DALP_APPS": "tests.sample,tests.faults.poison",
    "DALP_WORKFLOWS_MAX_RECOVERIES": str(RECOVERIES),
    "DALP_WORKFLOWS_KILL_AFTER_SECONDS": "0.5",
}


def lines(live: Live, word: str) -> list[str]:
    file = live.directory / "lines"
    found = file.read_text().splitlines() if file.exists() else []
    return [line for line in found if line.startswith(word)]


def begun(live: Live, run: Run) -> list[int]:
    """Return the attempts at the run's first step whose code began, in their order."""
    return [int(line.split()[2]) for line in lines(live, f"begin {run.pk}")]


class Fleet:
    """Worker processes that somebody starts again when they die, as systemd would."""

    def __init__(self, live: Live, pool: str) -> None:
        self.live, self.pool, self.deaths = live, pool, 0
        self.workers = [self.start()]

    def start(self) -> Process:
        return self.live.start_worker(env=POISON, pool=self.pool, concurrency=2)

    def tend(self) -> None:
        for place, worker in enumerate(self.workers):
            if not worker.alive:
                self.deaths += 1
                self.workers[place] = self.start()


@pytest.mark.parametrize(
    ("way", "pool"),
    [
        pytest.param("segfault", "threads", marks=pytest.mark.case("E22")),
        pytest.param("segfault", "prefork", marks=pytest.mark.case("E22")),
        pytest.param("killed", "prefork", marks=pytest.mark.case("E23")),
    ],
)
def test_run_that_kills_every_worker_is_given_up_and_the_others_go_on(
    live: Live, way: str, pool: str
) -> None:
    fleet = Fleet(live, pool)
    poison = Poison.start(PoisonInput(directory=str(live.directory), way=way))
    for death in range(1, RECOVERIES + 2):
        live.wait_until(lambda death=death: len(begun(live, poison)) == death, 20, what=f"death {death}")
        if pool == "threads":
            live.wait_until(lambda: not fleet.workers[0].alive, 20, what="the worker dies")
        fleet.tend()
        # Nobody rings for the poison meanwhile: this is the fleet that others find.
        other = Ledger.start(SampleInput())
        live.wait_until(lambda other=other: Run.objects.get(pk=other.pk).finished_at, 20, what="another run")
        assert effects(other) == each_step_once(other)
        live.wait_until(lambda: lease_is_over(poison), 20, what="its lease runs out")
        sweep()
    settle(live, poison)
    assert poison.state == RunState.DEAD_LETTER
    letter = poison.dead_letters.get()
    assert (letter.reason, letter.operation_id) == ("crash_loop", "work#0")
    assert letter.error["message"] == f"{RECOVERIES + 1} workers in a row died while carrying it out"
    assert begun(live, poison) == [1, 2], "an attempt for each death, and none after the last"
    assert all(worker.alive for worker in fleet.workers)
    assert fleet.deaths == (RECOVERIES + 1 if pool == "threads" else 0), "a pool of processes mends itself"
    assert list(verify_history()) == []


def lease_is_over(run: Run) -> bool:
    return Run.objects.filter(pk=run.pk, lease_until__lt=db_now()).exists()


@pytest.mark.case("E22")
def test_poison_that_was_cured_goes_on_by_a_replay(live: Live) -> None:
    """The deaths are counted anew: the first worker that dies after the replay doesn't end it again."""
    worker = live.start_worker(env=POISON, pool="prefork", concurrency=1)
    poison = Poison.start(PoisonInput(directory=str(live.directory), way="killed"))
    settle(live, poison)
    cured = PoisonInput(directory=str(live.directory))
    replay_dead_letter(poison.dead_letters.get().pk, actor="ops", reason="it is cured", input=cured)
    settle(live, poison)
    assert (poison.state, poison.output, poison.recoveries) == (RunState.SUCCEEDED, 4, 0)
    assert worker.alive


@pytest.mark.case("E23")
def test_step_that_asks_for_too_much_memory_is_a_failure_of_its_own(live: Live) -> None:
    """Where the limit is the process's own (RLIMIT_AS), nobody dies: an exception like any other."""
    worker = live.start_worker(env=POISON)
    run = Poison.start(PoisonInput(directory=str(live.directory), way="memory"))
    settle(live, run)
    letter = run.dead_letters.get()
    assert (letter.reason, letter.error["code"]) == ("retries_exhausted", "UNEXPECTED_MEMORYERROR")
    assert begun(live, run) == [1, 2, 3]
    assert worker.alive


@pytest.mark.case("E23")
def test_queue_of_heavy_steps_lets_in_as_many_as_fit(live: Live) -> None:
    """Two workers with four threads each, and room for one."""
    set_limit("queue:heavy", concurrency=1, actor="ops", reason="each of them takes all the memory")
    for _ in range(2):
        live.start_worker(env=POISON)
    runs = [Poison.start(PoisonInput(directory=str(live.directory))) for _ in range(8)]
    settle(live, *runs)
    assert {run.state for run in runs} == {RunState.SUCCEEDED}
    words = [line.split()[:2] for line in (live.directory / "lines").read_text().splitlines()]
    pairs = [(words[at], words[at + 1]) for at in range(0, len(words), 2)]
    assert all((first[0], last[0], first[1]) == ("begin", "end", last[1]) for first, last in pairs), words
    assert len(pairs) == len(runs)


@pytest.mark.case("E23")
def test_place_of_a_run_that_was_killed_is_free_again(live: Live) -> None:
    set_limit("queue:heavy", concurrency=1, actor="ops", reason="each of them takes all the memory")
    live.start_worker(env=POISON, pool="prefork", concurrency=2)
    poison = Poison.start(PoisonInput(directory=str(live.directory), way="killed"))
    live.wait_until(lambda: begun(live, poison), 20, what="the first death")
    other = Poison.start(PoisonInput(directory=str(live.directory)))
    settle(live, poison, other)
    assert (poison.state, other.state) == (RunState.DEAD_LETTER, RunState.SUCCEEDED)


@pytest.mark.case("E21")
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_step_that_no_exception_reaches_is_ended_with_its_process(live: Live, pool: str) -> None:
    fleet = Fleet(live, pool)
    run = Poison.start(PoisonInput(directory=str(live.directory), way="blocks"))
    live.wait_until(
        lambda: any("step_killed" in each.output() for each in live.processes), 20, what="the kill"
    )
    found = Run.objects.get(pk=run.pk)
    assert (found.state, found.attempt) == (RunState.RUNNING, 1), "the attempt was counted at the claim"
    if pool == "threads":
        live.wait_until(lambda: not fleet.workers[0].alive, 20, what="the worker ends")
    fleet.tend()
    assert fleet.deaths == (1 if pool == "threads" else 0)
    settle(live, run)
    assert (run.state, run.output) == (RunState.SUCCEEDED, 2)
    assert begun(live, run) == [1, 2]
    assert run.events.get(kind="run_recovered").data["recoveries"] == 1
    assert all(worker.alive for worker in fleet.workers)


@pytest.mark.case("E28")
def test_timer_that_came_due_while_all_workers_were_down_fires_once(live: Live) -> None:
    first = live.start_worker(env=POISON)
    run = Timer.start(PoisonInput(directory=str(live.directory)))
    live.wait_until(lambda: Run.objects.get(pk=run.pk).waiting_for == "sleep", 20, what="it sleeps")
    first.kill()
    live.wait_until(
        lambda: Run.objects.filter(pk=run.pk, wake_at__lt=in_seconds(-1.1)).exists(), 20, what="late"
    )
    live.start_worker(env=POISON)
    for _ in range(5):
        send(run)
    settle(live, run)
    assert lines(live, "fired") == [f"fired {run.pk}"]
    assert run.events.get(kind="step_succeeded", data__step="sleep#0").data["late_by"] > 1
