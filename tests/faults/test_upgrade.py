"""An upgrade under running work: the workers of two versions of an app side by side on the same runs."""

import json
from collections import Counter
from collections.abc import Iterator
from importlib import import_module, reload
from io import StringIO
from types import ModuleType
from typing import Any

import pytest
from django.core.management import call_command

from tests.sample.models import Effect
from tests.services import Live
from workflows import send_signal, verify_history
from workflows.definition import _REGISTRY
from workflows.models import Run, Step
from workflows.states import RunState, StepState

pytestmark = [pytest.mark.sqlite_too, pytest.mark.case("E49", "E50", "PF8")]

NAME = "upgrading.order"
APPS = {"DALP_APPS": "tests.sample,tests.faults.upgrading", "DALP_WORKFLOWS_SWEEP_GRACE_SECONDS": "1"}
OLD_STEPS = ["reserve", "hear", "doze", "knock", "pack", "settle"]
NEW_STEPS = ["reserve", "hear", "doze", "knock", "pack", "weigh", "settle", "announce"]
# What a run of each stage waits for when it has come there.
RESTING = {"signal": "command", "sleep": "sleep", "retry": "retry", "branches": "branches"}


def code(version: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have this process know the app in this version, and return its workflow."""
    monkeypatch.setenv("UPGRADE", version)
    module: ModuleType = reload(import_module("tests.faults.upgrading.workflows"))
    return module.Order


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    _REGISTRY.pop(NAME, None)


def start(order: Any, live: Live, stage: str, count: int) -> list[Run]:
    lines = {"branches": [1, 2, 3], "retry": []}.get(stage, [2])
    directory = str(live.directory)
    data = order.definition.input_model(stage=stage, directory=directory, lines=lines)
    return [order.start(data) for _ in range(count)]


def owners(runs: list[Run]) -> set[int]:
    """Return the processes that held the runs and their branches last."""
    ids = [run.pk for run in runs]
    found = Run.objects.filter(pk__in=ids) | Run.objects.filter(parent__in=ids)
    return {
        int(owner.split(":")[1])
        for owner in found.exclude(lease_owner="").values_list("lease_owner", flat=True)
    }


def resting(runs: list[Run], stage: str) -> bool:
    rows = Run.objects.filter(pk__in=[run.pk for run in runs])
    return all(waiting == RESTING[stage] for waiting in rows.values_list("waiting_for", flat=True))


def ended(runs: list[Run]) -> bool:
    return not Run.objects.filter(pk__in=[run.pk for run in runs], finished_at__isnull=True).exists()


def refused(live: Live, version: str) -> dict[str, Any]:
    """Return what `check_definitions` says of this version, which it must not let pass."""
    process = live.run("manage.py", "check_definitions", "--json", env={**APPS, "UPGRADE": version})
    assert process.returncode == 1, process.output()
    found: dict[str, Any] = json.loads(
        next(line for line in process.output().splitlines() if line.startswith("{"))
    )
    return found


def steps_of(run: Run) -> list[str]:
    """Return the names of the steps that were carried out, or left out by their own condition, in their order."""
    rows = Step.objects.filter(run=run).order_by("seq", "index")
    return list(dict.fromkeys(rows.values_list("name", flat=True)))


def effects_wanted(run: Run) -> set[str]:
    rows = Step.objects.filter(run=run, state=StepState.SUCCEEDED).exclude(name__in=("hear", "doze", "knock"))
    return {f"{run.pk}:{operation}" for operation in rows.values_list("operation_id", flat=True)}


@pytest.mark.timeout(240)
def test_everything_under_way_ends_well_while_the_workers_are_replaced(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_env, new_env = {**APPS, "UPGRADE": "old"}, {**APPS, "UPGRADE": "new"}
    old_workers = [live.start_worker(env=old_env, ready=False) for _ in range(2)]
    live.start_beat(env=old_env)
    order = code("old", monkeypatch)
    old = order.definition.fingerprint
    before = {stage: start(order, live, stage, 12) for stage in RESTING}
    early = start(order, live, "quick", 12)
    live.wait_until(
        lambda: ended(early) and all(resting(before[stage], stage) for stage in ("signal", "branches")),
        30,
        what="the runs are in their stages",
    )

    order = code("new", monkeypatch)
    call_command("check_definitions", stdout=StringIO())  # raises where the deploy must not go on
    new_worker = live.start_worker(env=new_env)
    new = order.definition.fingerprint
    after = {stage: start(order, live, stage, 2) for stage in [*RESTING, "quick"]}
    signalled = before["signal"][:6]
    for run in signalled:
        send_signal(run.pk, "go", "went")
    live.wait_until(
        lambda: ended(after["quick"] + signalled) and resting(after["signal"], "signal"),
        30,
        what="the new code's runs go on beside the old workers",
    )
    assert all(worker.alive for worker in old_workers)
    assert {owner for runs in after.values() for owner in owners(runs)} <= {new_worker.pid}

    found = refused(live, "bad")
    assert found["live_runs"] == sum(len(each["runs"]) for each in found["stranded"])
    assert {each["workflow"] for each in found["stranded"]} == {NAME}
    assert any("['reserve']" in each["why"] for each in found["stranded"])

    for worker in old_workers:
        worker.popen.terminate()
    (live.directory / "go").touch()
    for run in before["signal"][6:] + after["signal"]:
        send_signal(run.pk, "go", "went")
    assert [worker.wait() for worker in old_workers] == [0, 0]
    of_old = early + [run for runs in before.values() for run in runs]
    of_new = [run for runs in after.values() for run in runs]
    live.wait_until(lambda: ended(of_old + of_new), 30, what=lambda: f"all end: {left(of_old + of_new)}")

    migrated = 0
    for run in of_old + of_new:
        run.refresh_from_db()
        assert run.state == RunState.SUCCEEDED
        moves = [event.data for event in run.events.filter(kind="definition_migrated")]
        assert moves in ([], [{"old": old, "new": new}]), "nothing moves back"
        assert run.fingerprint == (new if moves or run in of_new else old)
        wanted = NEW_STEPS if run.fingerprint == new else OLD_STEPS
        assert steps_of(run) == [name for name in wanted if name != "pack" or run.input["lines"]]
        migrated += bool(moves)
    assert not any(run.fingerprint == new for run in early)
    assert 12 <= migrated <= len(of_old) - len(early)
    done = Counter(Effect.objects.values_list("key", flat=True))
    assert done == Counter(key for run in of_old + of_new for key in effects_wanted(run))
    assert list(verify_history()) == []


def left(runs: list[Run]) -> list[str]:
    rows = Run.objects.filter(pk__in=[run.pk for run in runs], finished_at__isnull=True)
    return [f"{run.pk} is {run.state} at {run.operation} waiting for {run.waiting_for!r}" for run in rows]
