"""A signal reaches a run once: early, twice, too late, or at the same moment as its timeout."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from django.db import connections

from dalp.local.processes import wait_until
from tests.integration.workflows.waits import (
    Asked,
    Nothing,
    Payment,
    consumers,
    is_postgresql,
    meanwhile,
    overdue,
)
from tests.threads import at_once
from workflows import (
    CommandResult,
    RunEndedError,
    Sleep,
    WaitForSignal,
    Workflow,
    resolve_commands,
    send_signal,
    step,
)
from workflows.crashpoints import crashpoint
from workflows.engine import signals, wake
from workflows.engine.drive import advance
from workflows.models import Run, Signal, Wait
from workflows.states import RunState
from workflows.testing import Engine

pytestmark = pytest.mark.sqlite_too


class Both(Workflow[Nothing, list[int]]):
    """Sleeps, and then waits for one signal, then for another of the same name."""

    class Meta:
        name = "waits.both"

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=60)

    @step
    def first(self) -> WaitForSignal[Payment]:
        return WaitForSignal(name="paid", timeout=3600)

    @step
    def second(self) -> WaitForSignal[Payment]:
        return WaitForSignal(name="paid", timeout=3600)

    @step
    def end(self, first: Payment, second: Payment) -> list[int]:
        return [first.amount, second.amount]


@pytest.mark.case("E32")
def test_signal_that_comes_before_the_wait_is_kept_for_it(t: Engine) -> None:
    run = t.run(t.start(Both, Nothing()))
    t.signal(run, "paid", Payment(amount=1))
    assert (t.run(run).waiting_for, consumers(run)) == ("sleep", [""]), "it wakes nobody before its time"
    t.advance(seconds=60)
    assert t.run(run).operation == "second#0"
    assert consumers(run) == ["first#0"]
    t.signal(run, "paid", Payment(amount=2))
    assert t.run(run).output == [1, 2]
    assert consumers(run) == ["first#0", "second#0"]


@pytest.mark.case("E32")
def test_signal_sent_before_anybody_took_the_run_up_is_kept(t: Engine) -> None:
    run = t.start(Both, Nothing())
    t.signal(run, "paid", Payment(amount=1))
    t.signal(run, "else", Payment(amount=9))
    t.signal(run, "paid", Payment(amount=2))
    t.advance(seconds=60)
    assert t.run(run).output == [1, 2]
    assert consumers(run) == ["first#0", "", "second#0"]


@pytest.mark.case("E32")
def test_crash_between_taking_a_stored_signal_and_the_record_takes_it_back(t: Engine) -> None:
    run = t.start(Both, Nothing())
    t.signal(run, "paid", Payment(amount=1))
    t.run(run)
    with t.crash("engine.in_record"):
        t.advance(seconds=60)  # the worker dies as it records the end of the sleep
    with t.crash("engine.in_record"):
        t.run(run)
    with t.crash("engine.in_record"):
        t.run(run)
    t.signal(run, "paid", Payment(amount=2))
    assert t.run(run).output == [1, 2]


@pytest.mark.case("E33")
@pytest.mark.parametrize("waits_already", [False, True])
def test_signal_with_the_same_dedup_id_counts_once(t: Engine, waits_already: bool) -> None:
    run = t.run(t.start(Both, Nothing()))
    if waits_already:
        t.advance(seconds=60)
    first = send_signal(run.pk, "paid", {"amount": 1}, dedup_id="m1")
    assert send_signal(run.pk, "paid", {"amount": 7}, dedup_id="m1").pk == first.pk
    assert Signal.objects.get(pk=first.pk).payload == {"amount": 1}
    t.advance(seconds=60)
    assert t.run(run).operation == "second#0", "the second wait is not ended by what ended the first"
    assert send_signal(run.pk, "paid", {"amount": 7}, dedup_id="m1").pk == first.pk, "nor later"
    assert t.run(run).operation == "second#0"
    t.signal(run, "paid", Payment(amount=2), dedup_id="m2")
    assert t.run(run).output == [1, 2]
    assert send_signal(run.pk, "paid", {"amount": 7}, dedup_id="m1").pk == first.pk, "nor after the end"
    with pytest.raises(RunEndedError, match="SUCCEEDED"):
        send_signal(run.pk, "paid", {"amount": 7}, dedup_id="m3")


@pytest.mark.case("E33")
def test_signals_are_taken_in_the_order_in_which_they_came(t: Engine) -> None:
    run = t.run(t.start(Both, Nothing()))
    for amount in (3, 1, 2):
        t.signal(run, "paid", Payment(amount=amount), dedup_id=f"m{amount}")
    t.advance(seconds=60)
    assert t.run(run).output == [3, 1]
    assert consumers(run) == ["first#0", "second#0", ""]


@pytest.mark.case("E33")
def test_signal_sent_twice_at_the_same_moment_counts_once(quiet: None) -> None:
    run = Both.start(Nothing())
    sent = at_once(4, lambda number: send_signal(run.pk, "paid", {"amount": number}, dedup_id="m1").pk)
    assert len(set(sent)) == run.signals.count() == 1


class Pair(Workflow[Nothing, list[int]]):
    """Waits for two signals of one name at once."""

    class Meta:
        name = "waits.pair"

    @step
    def both(self) -> list[WaitForSignal[Payment]]:
        return [WaitForSignal(name="paid"), WaitForSignal(name="paid")]

    @step
    def end(self, both: list[Payment]) -> list[int]:
        return [each.amount for each in both]


@pytest.mark.case("E33")
@pytest.mark.parametrize("early", [0, 1, 2])
def test_two_waits_for_one_name_take_two_signals_in_their_order(t: Engine, early: int) -> None:
    run = t.start(Pair, Nothing())
    for amount in range(3):
        if amount == early:
            t.run(run)
        if amount < 2:
            t.signal(run, "paid", Payment(amount=amount))
    assert t.run(run).output == [0, 1]


class Timed(Workflow[Nothing, int]):
    """Waits a minute for a signal; it is told to take something back when none comes, and waits for that."""

    class Meta:
        name = "waits.timed"

    @step
    def reserve(self) -> int:
        return 0

    @reserve.undo
    def give_back(self) -> WaitForSignal[Payment]:
        return WaitForSignal(name="given back")

    @step
    def pay(self) -> WaitForSignal[Payment]:
        return WaitForSignal(name="paid", timeout=60)

    @step
    def end(self, pay: Payment) -> int:
        return pay.amount


def is_paid(run: Run, result: Signal | Exception) -> bool:
    """Tell who won, the signal or the timeout, and make sure that the other one did not happen, too."""
    run.refresh_from_db()
    [wait] = Wait.objects.filter(operation_id__startswith="pay", run__in=[run, *run.children.all()])
    if wait.state == "DONE":
        assert (run.state, wait.error) == (RunState.SUCCEEDED, None)
        assert isinstance(result, Signal)
        assert consumers(run) == ["pay#0"]
        assert not run.events.filter(kind="step_failed").exists()
        return True
    assert (wait.state, wait.result) == ("FAILED", None)
    assert run.error["code"] == "SIGNAL_TIMEOUT"
    assert run.output is None
    if isinstance(result, Signal):
        assert consumers(run) == [""], "what came too late is kept, and says so"
    else:
        assert isinstance(result, RunEndedError), "its sender was told"
    return False


@pytest.mark.case("E34")
def test_signal_before_the_worker_has_seen_the_timeout_wins(quiet: None) -> None:
    run = overdue(Timed.start(Nothing()))
    signal = send_signal(run.pk, "paid", {"amount": 5})
    advance(run.pk)
    assert is_paid(run, signal)
    assert Run.objects.get(pk=run.pk).output == 5


@pytest.mark.case("E34")
def test_signal_after_the_timeout_is_kept_and_ends_nothing(quiet: None) -> None:
    run = overdue(Timed.start(Nothing()))
    advance(run.pk)
    assert not is_paid(run, send_signal(run.pk, "paid", {"amount": 5}))
    assert Run.objects.get(pk=run.pk).operation == "reserve.undo#0"


@pytest.mark.case("E34")
def test_signal_and_its_timeout_at_the_same_moment_have_one_winner(quiet: None) -> None:
    won = {True: 0, False: 0}
    for number in range(30):
        run = overdue(Timed.start(Nothing()))

        def race(side: int, run: Run = run, head_start: int = number % 10) -> Any:
            if side == 0:
                advance(run.pk)
                return None
            for _ in range(head_start):  # for the worker, so that either comes first now and then
                Run.objects.filter(pk=run.pk).exists()
            try:
                return send_signal(run.pk, "paid", {"amount": 5})
            except RunEndedError as error:
                return error

        [_, result] = at_once(2, race)
        advance(run.pk)
        won[is_paid(run, result)] += 1
    assert sum(won.values()) == 30


class TimedBranch(Workflow[Nothing, list[int | None]]):
    """The same in a branch, which is a run of its own, while the signal goes to its parent."""

    class Meta:
        name = "waits.timed_branch"

    @step(each=lambda input: [1])
    def pay(self, item: int) -> WaitForSignal[Payment]:
        return WaitForSignal(name="paid", timeout=60)

    @step
    def end(self, pay: list[Payment | None]) -> list[int | None]:
        return [each and each.amount for each in pay]


@pytest.mark.case("E34")
def test_signal_to_a_branch_that_has_just_timed_out_is_kept(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker ends the wait after the sender has found it, and before the sender has the branch's lock."""
    run = TimedBranch.start(Nothing())
    advance(run.pk)
    [branch] = run.children.all()
    overdue(branch)

    hand_over = signals._hand_over
    with ThreadPoolExecutor(1) as pool:

        def after_the_timeout(*arguments: Any) -> Any:
            if is_postgresql():
                pool.submit(lambda: (advance(branch.pk), connections.close_all()))
                # It has ended the wait, and goes on to tell the parent, which the sender holds.
                wait_until(lambda: Wait.objects.get(run=branch).state == "FAILED", 10, what="the timeout")
            return hand_over(*arguments)

        monkeypatch.setattr(signals, "_hand_over", after_the_timeout)
        signal = send_signal(run.pk, "paid", {"amount": 5})
    for _ in range(4):
        advance(branch.pk)
        advance(run.pk)
    paid = is_paid(run, signal)
    assert paid == (not is_postgresql())


class Late(Asked):
    kind: ClassVar[str] = "waits.late"

    def due(self, at: datetime) -> datetime | None:
        return at + timedelta(seconds=60)


class Asking(Workflow[Nothing, str]):
    """Waits for a command of another app, one that can take too long."""

    class Meta:
        name = "waits.asking"

    @step
    def pay(self) -> Late:
        return Late()

    @step
    def end(self, pay: str) -> str:
        return pay


@pytest.mark.case("E34")
def test_command_that_ends_just_when_it_timed_out_does_not_change_what_was_decided(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends it has found the wait pending; before it has the run's lock, the worker has ended the wait."""
    run = overdue(Asking.start(Nothing()))
    reference = Wait.objects.get(run=run).reference
    lock_runs = wake.lock_runs

    def after_the_timeout(ids: set[object]) -> list[Run]:
        if is_postgresql():
            meanwhile(lambda: advance(run.pk))
        return lock_runs(ids)

    monkeypatch.setattr(wake, "lock_runs", after_the_timeout)
    resolve_commands("waits.late", {reference: CommandResult(value="done")})
    advance(run.pk)
    run.refresh_from_db()
    wait = Wait.objects.get(run=run)
    if is_postgresql():
        assert (run.state, run.error["code"]) == (RunState.FAILED, "WAITS.LATE_TIMEOUT")
        assert (wait.state, wait.result) == ("FAILED", None)
    else:
        assert (run.state, wait.state) == (RunState.SUCCEEDED, "DONE")


class Naps(Workflow[Nothing, int]):
    """Branches that sleep: each ends in a transaction of its own."""

    class Meta:
        name = "waits.naps"

    @step(each=lambda input: [1, 2])
    def nap(self, item: int) -> Sleep:
        return Sleep(seconds=60)

    @step
    def end(self, nap: list[None]) -> int:
        return len(nap)


@pytest.mark.case("E47")
@pytest.mark.postgresql("one writes at a time")
def test_last_two_branches_that_wake_at_the_same_moment_wake_their_run(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one has written its end, and not committed it, when the second one ends. No sweeper helps here."""
    run = Naps.start(Nothing())
    advance(run.pk)
    first, second = map(overdue, run.children.order_by("id"))
    late: list[str] = []

    def meet(point: str) -> None:
        if point == "engine.in_record" and threading.current_thread() is main and not late:
            late.append(point)
            meanwhile(lambda: advance(second.pk))

    main = threading.current_thread()
    monkeypatch.setattr(crashpoint, "watcher", meet)
    advance(first.pk)
    assert late
    run.refresh_from_db()
    assert run.wake_at is not None, "both have ended, and nobody woke their run"
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == 2
