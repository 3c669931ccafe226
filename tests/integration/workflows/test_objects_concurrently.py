"""Virtual objects called from several threads at once, really committing."""

import contextlib
import threading

import pytest
from django.db import transaction

from dalp.local.processes import wait_until
from tests.integration.workflows.waits import somebody_waits_for_a_lock
from tests.sample.objects import Append, Holds, PairInput, Released
from tests.threads import at_once
from workflows import kill_run, send_signal
from workflows.engine import cycles
from workflows.engine.drive import advance
from workflows.models import Run, VirtualObjectState
from workflows.states import RunState

pytestmark = pytest.mark.sqlite_too


@pytest.fixture(autouse=True)
def nobody_is_rung(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)


@pytest.mark.case("E44")
def test_two_runs_that_ask_for_each_others_objects_at_the_same_moment_do_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both look whether somebody waits for them before either has said that it waits, as far as they are let."""
    runs = [Holds.start(PairInput(holder=one, wants=other)) for one, other in ("ab", "ba")]
    for run in runs:
        advance(run.pk)
        send_signal(run.pk, "go", "")
    both_have_looked = threading.Barrier(2)
    find_blocked = cycles._find_blocked

    def look_together(key: str, waiting: set[object]) -> object:
        found = find_blocked(key, waiting)
        # The other one is kept from looking until this one is committed, as it should be.
        with contextlib.suppress(threading.BrokenBarrierError):
            both_have_looked.wait(1)
        return found

    monkeypatch.setattr(cycles, "_find_blocked", look_together)
    at_once(2, lambda number: advance(runs[number].pk))
    for _ in range(5):
        for run in Run.objects.filter(finished_at__isnull=True).order_by("id"):
            advance(run.pk)
    states = sorted(Run.objects.filter(parent=None).values_list("state", flat=True))
    assert states == [RunState.FAILED, RunState.SUCCEEDED]
    assert not VirtualObjectState.objects.filter(holder__isnull=False).exists()


@pytest.mark.case("E37")
def test_run_that_ends_just_when_the_key_is_handed_to_it_does_not_get_it_for_ever() -> None:
    """The holder ends while somebody kills the first of those that wait, and has not committed that yet."""
    asking = Released("a").ask("?").start()
    advance(asking.pk)
    first, second = (Released("a").append(value).start() for value in ("x", "y"))
    send_signal(asking.pk, "answer", 1)
    killed = threading.Event()

    def work(number: int) -> None:
        if number:
            killed.wait(10)
            advance(asking.pk)
            return
        with transaction.atomic():
            kill_run(first.pk, actor="ops", reason="no")
            killed.set()
            wait_until(somebody_waits_for_a_lock, 10, what="the key's holder wants the row of the first one")

    at_once(2, work)
    first.refresh_from_db()
    assert (first.state, first.wake_at) == (RunState.CANCELLED, None)
    assert VirtualObjectState.objects.get(key="released:a").holder == second


def test_calls_from_many_threads_are_all_carried_out_once() -> None:
    """Threads that start calls and carry them out, all at the same few objects, in each other's way all the time."""

    def work(number: int) -> None:
        for each in range(10):
            run = Append(str(each % 2)).append(f"{number}-{each}").start()
            advance(run.pk)

    at_once(6, work)
    while left := list(Run.objects.filter(finished_at__isnull=True).order_by("id")):
        assert Run.objects.filter(finished_at__isnull=True, waiting_for="").exists(), "nobody can go on"
        for run in left:
            advance(run.pk)
    lists = [Append(key).read() for key in "01"]
    assert sorted(value for values, _ in lists for value in values) == sorted(
        f"{number}-{each}" for number in range(6) for each in range(10)
    )
    assert [version for _, version in lists] == [len(values) for values, _ in lists]
