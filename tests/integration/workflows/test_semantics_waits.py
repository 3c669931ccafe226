"""What a run waits for reaches it once: early, twice, too late, at the same moment as its timeout, or never."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest
from django.db import connection, connections
from pydantic import BaseModel, ValidationError

from dalp.local.processes import wait_until
from tests.sample.models import Effect
from tests.threads import at_once
from workflows import (
    AnyOf,
    ApprovalRequest,
    Approved,
    Child,
    Command,
    CommandError,
    CommandResult,
    First,
    InvalidTokenError,
    NotPermittedError,
    NotPossibleError,
    Operation,
    PermanentError,
    Retry,
    RunEndedError,
    Sleep,
    TransientError,
    WaitForCompletion,
    WaitForSignal,
    Workflow,
    cancel_run,
    clock,
    complete_dead_letter,
    complete_operation,
    replay_dead_letter,
    resolve_commands,
    send_signal,
    step,
    verify_history,
    vote,
)
from workflows.crashpoints import crashpoint
from workflows.engine import signals, timeouts, wake
from workflows.engine.drive import advance
from workflows.engine.timeouts import time_limit
from workflows.errors import StepTimeoutError
from workflows.models import Approval, Payload, Run, Signal, Wait
from workflows.states import RunState, StepState
from workflows.testing import Engine, engine

pytestmark = pytest.mark.sqlite_too

BY = {"actor": "ops", "reason": "because"}


class Nothing(BaseModel):
    """No input."""


class Payment(BaseModel):
    amount: int


class Asked(Command):
    """Something that another app carries out, and cannot call off."""

    kind: ClassVar[str] = "waits.asked"
    result_type: ClassVar[Any] = str

    def submit(self, operation: Operation, index: int) -> str:
        return f"{operation.key}/{operation.attempt}/{index}"


@pytest.fixture
def t(db: None) -> Iterator[Engine]:
    with engine() as opened:
        yield opened
        assert list(verify_history()) == []


@pytest.fixture
def quiet(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database that is really committed to, from any thread, and nobody who answers a doorbell."""
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    yield
    assert list(verify_history()) == []


def meanwhile(work: Callable[[], Any]) -> None:
    """Have another worker do something to its end, in a transaction that the one that is open here doesn't see.

    Not on SQLite: while one transaction writes, no other does.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (work(), connections.close_all())).result(20)


def is_postgresql() -> bool:
    return connection.vendor == "postgresql"


def states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


def consumers(run: Run) -> list[str]:
    """Return by whom the run's signals were taken, the oldest signal first; "" for one that is still there."""
    return list(run.signals.values_list("consumed_by", flat=True))


# --- Signals ---------------------------------------------------------------------------------------------------


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


def overdue(run: Run) -> Run:
    """Carry a run on until it waits, and let the time for that be over."""
    advance(run.pk)
    over = run.created_at - timedelta(seconds=1)
    assert Wait.objects.filter(run=run, state="PENDING", due_at__isnull=False).update(due_at=over)
    Run.objects.filter(pk=run.pk).update(wake_at=over)
    run.refresh_from_db()
    return run


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
def test_last_two_branches_that_wake_at_the_same_moment_wake_their_run(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one has written its end, and not committed it, when the second one ends. No sweeper helps here."""
    if not is_postgresql():
        pytest.skip("one writes at a time")
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


# --- Any of several --------------------------------------------------------------------------------------------


class Either(Workflow[Nothing, str]):
    """Goes on with the first of two signals, or when it has waited a minute; then it wants the other signal."""

    class Meta:
        name = "waits.either"

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=1)

    @step
    def either(self) -> AnyOf[WaitForSignal[Payment] | Sleep]:
        return AnyOf([Sleep(seconds=60), WaitForSignal(name="paid"), WaitForSignal(name="revoked")])

    @step
    def other(self, either: First[Payment | None]) -> WaitForSignal[Payment]:
        return WaitForSignal(name="revoked", timeout=3600)

    @step
    def end(self, either: First[Payment | None], other: Payment) -> str:
        return f"{either.index} then {other.amount}"


@pytest.mark.parametrize("when", ["before the wait", "while it waits", "too late for the worker"])
def test_signal_that_was_not_first_of_several_is_there_for_the_next_wait(t: Engine, when: str) -> None:
    run = t.run(t.start(Either, Nothing()))
    if when == "before the wait":
        t.signal(run, "paid", Payment(amount=1))
        t.signal(run, "revoked", Payment(amount=2))
        t.advance(seconds=1)
    else:
        t.advance(seconds=1)
        t.signal(run, "paid", Payment(amount=1))
        t.signal(run, "revoked", Payment(amount=2))
    t.advance(seconds=30)
    assert t.run(run).output == "1 then 2"
    assert consumers(run) == ["either#0", "other#0"]


def test_timer_that_was_first_of_several_takes_no_signal_away(quiet: None) -> None:
    """Both happen before a worker comes: the timer stands first in the list."""
    run = Either.start(Nothing())
    overdue(overdue(run))
    send_signal(run.pk, "revoked", {"amount": 2})
    advance(run.pk)
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == "0 then 2"


class AnyFails(Workflow[Nothing, str]):
    class Meta:
        name = "waits.any_fails"

    @step
    def before(self) -> int:
        return 1

    @before.undo
    def undo_before(self) -> None: ...

    @step
    def any(self) -> AnyOf[Asked | WaitForSignal[str]]:
        return AnyOf([Asked(), WaitForSignal(name="x", timeout=60), Asked()])

    @step
    def end(self, any: First[str]) -> str:
        return f"{any.index} {any.value}"


def test_any_of_several_fails_when_all_have_failed_with_the_error_of_the_first(t: Engine) -> None:
    run = t.run(t.start(AnyFails, Nothing()))
    t.fail_wait(run, "any", code="THIRD", index=2)
    assert t.run(run).state == RunState.WAITING
    t.advance(seconds=60)
    assert t.run(run).state == RunState.WAITING, "two have failed, and the third may still succeed"
    t.fail_wait(run, "any", code="FIRST", index=0)
    assert t.run(run).state == RunState.COMPENSATED
    assert run.error == {"code": "FIRST", "message": "FIRST", "step": "any"}


def test_any_of_several_goes_on_with_the_last_that_is_left(t: Engine) -> None:
    run = t.run(t.start(AnyFails, Nothing()))
    t.fail_wait(run, "any", code="FIRST", index=0)
    t.advance(seconds=60)
    t.answer(run, "any", "yes", index=2)
    assert t.run(run).output == "2 yes"


# --- Sleeping --------------------------------------------------------------------------------------------------


class UntilInput(BaseModel):
    until: datetime


class Until(Workflow[UntilInput, str]):
    calls: ClassVar[list[int]] = []

    class Meta:
        name = "waits.until"

    @step(retry=Retry(attempts=1))
    def sleep(self, input: UntilInput, operation: Operation) -> Sleep:
        self.calls.append(operation.attempt)
        return Sleep(until=input.until)

    @step
    def end(self) -> str:
        return "awake"


@pytest.mark.parametrize("years", [-50, -1, 0])
def test_sleep_until_an_instant_that_is_over_ends_at_once(t: Engine, years: int) -> None:
    run = t.run(t.start(Until, UntilInput(until=t.now() + timedelta(days=365 * years))))
    assert (run.state, run.output) == (RunState.SUCCEEDED, "awake")


def test_sleep_until_an_instant_of_another_zone_ends_then(t: Engine) -> None:
    zone = timezone(timedelta(hours=-8))
    run = t.run(t.start(Until, UntilInput(until=(t.now() + timedelta(hours=1)).astimezone(zone))))
    t.advance(minutes=59)
    assert t.run(run).state == RunState.WAITING
    t.advance(minutes=1)
    assert t.run(run).state == RunState.SUCCEEDED


def test_sleep_until_an_instant_without_a_zone_is_the_steps_own_failure(t: Engine) -> None:
    """Nobody knows when that is. It must not stop the worker instead."""
    with pytest.raises(ValidationError):
        Sleep(until=datetime(2040, 1, 1))  # noqa: DTZ001 - that is the point
    run = t.run(t.start(Until, UntilInput(until=datetime(2040, 1, 1))))  # noqa: DTZ001
    assert run.state == RunState.DEAD_LETTER
    assert run.dead_letters.get().reason == "retries_exhausted"


class Mixed(Workflow[Nothing, str]):
    class Meta:
        name = "waits.mixed"

    @step
    def both(self) -> list[Sleep | WaitForSignal[str]]:
        return [Sleep(seconds=60), WaitForSignal(name="x", timeout=10)]

    @step
    def end(self, both: list[str | None]) -> str:
        return str(both)


def test_timeout_beside_a_sleep_fails_the_step_when_the_sleep_is_over(t: Engine) -> None:
    run = t.run(t.start(Mixed, Nothing()))
    t.advance(seconds=10)
    assert Wait.objects.get(run=run, kind="signal").state == "FAILED", (
        "at its own instant, not with the sleep"
    )
    t.advance(seconds=49)
    assert t.run(run).state == RunState.WAITING
    t.advance(seconds=1)
    assert (t.run(run).state, run.error["code"]) == (RunState.FAILED, "SIGNAL_TIMEOUT")


def test_signal_beside_a_sleep_is_kept_until_the_sleep_is_over(t: Engine) -> None:
    run = t.run(t.start(Mixed, Nothing()))
    t.signal(run, "x", "hello")
    t.advance(seconds=59)
    assert t.run(run).state == RunState.WAITING
    t.advance(seconds=1)
    assert t.run(run).output == "[None, 'hello']"


# --- Late ------------------------------------------------------------------------------------------------------


class Nap(Workflow[Nothing, str]):
    class Meta:
        name = "waits.nap"

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=60)

    @step(effect="transactional")
    def rise(self, operation: Operation) -> str:
        Effect.objects.create(key=operation.key, attempt=operation.attempt)
        return operation.key

    @step(retry=Retry(attempts=2, first=60))
    def work(self, operation: Operation) -> str:
        if operation.attempt == 1:
            raise TransientError("BUSY", "not yet")
        return "done"

    @step
    def ask(self) -> WaitForSignal[str]:
        return WaitForSignal(name="x", timeout=60)


def lateness(run: Run) -> dict[str, float]:
    """Return by how many seconds what ended an operation was late, as the history says it."""
    events = run.events.order_by("seq").values_list("data", flat=True)
    return {f"{data['step']}/{data['attempt']}": data["late_by"] for data in events if "late_by" in data}


@pytest.mark.case("E28")
def test_timer_that_came_due_while_nobody_worked_fires_once_and_says_how_late(t: Engine) -> None:
    run = t.run(t.start(Nap, Nothing()))
    clock.advance(timedelta(hours=2))  # and no worker
    assert t.run(run).waiting_for == "retry"
    assert Effect.objects.get().attempt == 1
    clock.advance(timedelta(seconds=63))
    assert t.run(run).operation == "ask#0"
    clock.advance(timedelta(seconds=75.5))
    assert (t.run(run).state, run.error["code"]) == (RunState.FAILED, "SIGNAL_TIMEOUT")
    assert Effect.objects.count() == 1
    assert lateness(run) == {
        "sleep#0/1": pytest.approx(7140, abs=0.1),
        "work#0/2": pytest.approx(3, abs=0.1),
        "ask#0/1": pytest.approx(15.5, abs=0.1),
    }
    assert [event.kind for event in run.events.all()].count("step_waiting") == 2


@pytest.mark.case("E28")
def test_timers_in_time_say_nothing(t: Engine) -> None:
    run = t.start(Nap, Nothing())
    t.advance(hours=1)
    assert t.run(run).error["code"] == "SIGNAL_TIMEOUT"
    assert lateness(run) == {}


@pytest.mark.case("E28")
def test_signal_that_comes_late_is_not_a_timer_that_was_late(t: Engine) -> None:
    run = t.start(Nap, Nothing())
    t.advance(seconds=120)
    t.signal(run, "x", "hello")
    clock.advance(timedelta(hours=2))
    assert t.run(run).output == "hello"
    assert lateness(run) == {}


# --- People ----------------------------------------------------------------------------------------------------


class Signed(Workflow[Nothing, list[str]]):
    """Two of the treasury must agree; what was reserved is given back otherwise."""

    class Meta:
        name = "waits.signed"

    @step
    def reserve(self) -> int:
        return 1

    @reserve.undo
    def give_back(self) -> None: ...

    @step
    def sign(self) -> ApprovalRequest:
        return ApprovalRequest(group="treasury", needed=2, timeout=3600)

    @step
    def end(self, sign: Approved) -> list[str]:
        return sign.by


def say(run: Run, actor: str, *, approve: bool = True, group: str = "treasury") -> Approval:
    return vote(
        Approval.objects.get(run=run).pk, actor=actor, groups=[group], approve=approve, reason="because"
    )


def test_approval_needs_as_many_different_members_as_it_says(t: Engine) -> None:
    run = t.run(t.start(Signed, Nothing()))
    say(run, "ada")
    with pytest.raises(NotPossibleError, match="ada has voted"):
        say(run, "ada")
    with pytest.raises(NotPermittedError, match="not a member of treasury"):
        say(run, "eve", group="sales")
    assert t.run(run).state == RunState.WAITING
    say(run, "bob")
    with pytest.raises(NotPossibleError, match="APPROVED already"):
        say(run, "cy", approve=False)
    assert t.run(run).output == ["ada", "bob"]


def test_one_rejection_outweighs_those_who_approved(t: Engine) -> None:
    run = t.run(t.start(Signed, Nothing()))
    say(run, "ada")
    say(run, "bob", approve=False)
    with pytest.raises(NotPossibleError, match="REJECTED already"):
        say(run, "cy")
    assert t.run(run).state == RunState.COMPENSATED
    assert run.error == {
        "code": "APPROVAL_REJECTED",
        "message": "bob rejected it: because",
        "step": "sign",
    }


def test_approval_that_comes_too_late_is_refused(t: Engine) -> None:
    run = t.run(t.start(Signed, Nothing()))
    say(run, "ada")
    t.advance(hours=1)
    assert (t.run(run).state, run.error["code"]) == (RunState.COMPENSATED, "APPROVAL_TIMEOUT")
    with pytest.raises(NotPossibleError, match="WITHDRAWN already"):
        say(run, "bob")


@pytest.mark.case("E34")
def test_vote_at_the_moment_of_the_timeout_is_refused_and_blocks_nobody(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has the run and is about to withdraw the approval; the voter wants both at that moment."""
    run = overdue(Signed.start(Nothing()))
    say(run, "ada")
    with ThreadPoolExecutor(1) as pool:
        voted: list[Future[Any]] = []

        def bob_votes() -> None:
            try:
                say(run, "bob")
            finally:
                connections.close_all()

        withdraw = ApprovalRequest.withdraw

        def with_a_voter(reference: str) -> bool:
            if not voted:
                voted.append(pool.submit(bob_votes))
                if is_postgresql():
                    wait_until(somebody_waits_for_a_lock, 10, what="the voter waits for a lock")
            return withdraw(reference)

        monkeypatch.setattr(ApprovalRequest, "withdraw", with_a_voter)
        advance(run.pk)
        with pytest.raises(NotPossibleError, match="WITHDRAWN already"):
            voted[0].result(20)
    run.refresh_from_db()
    assert (run.state, run.error["code"]) == (RunState.COMPENSATED, "APPROVAL_TIMEOUT")
    assert len(voted) == 1


def somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.mark.case("E34")
def test_last_vote_and_the_timeout_at_the_same_moment_have_one_winner(quiet: None) -> None:
    for number in range(30):
        run = Signed.start(Nothing())
        advance(run.pk)
        say(run, "ada")
        overdue(run)

        def race(side: int, run: Run = run, head_start: int = number % 10) -> Any:
            if side == 0:
                advance(run.pk)
                return None
            for _ in range(head_start):
                Run.objects.filter(pk=run.pk).exists()
            try:
                return say(run, "bob").state
            except NotPossibleError as error:
                return error

        [_, result] = at_once(2, race)
        advance(run.pk)
        run.refresh_from_db()
        approval = Approval.objects.get(run=run)
        if result == "APPROVED":
            assert (run.state, run.output) == (RunState.SUCCEEDED, ["ada", "bob"])
            assert approval.state == "APPROVED"
        else:
            assert "WITHDRAWN" in str(result)
            assert (run.state, approval.state) == (RunState.COMPENSATED, "WITHDRAWN")
            assert approval.votes.count() == 1


# --- Completions -----------------------------------------------------------------------------------------------


class Outside(Workflow[Nothing, int]):
    """Gives its token away and waits for whoever has it."""

    tokens: ClassVar[list[str]] = []
    early: ClassVar[list[Any]] = []

    class Meta:
        name = "waits.outside"

    @step
    def reserve(self) -> int:
        return 1

    @reserve.undo
    def give_back(self) -> Asked:
        return Asked()

    @step
    def order(self, operation: Operation) -> WaitForCompletion[Payment]:
        self.tokens.append(operation.token)
        for value in self.early:
            complete_operation(operation.token, value)
        return WaitForCompletion(timeout=3600)

    @step
    def end(self, order: Payment) -> int:
        return order.amount


@pytest.fixture
def outside() -> Iterator[type[Outside]]:
    yield Outside
    Outside.tokens.clear()
    Outside.early.clear()


def test_operation_that_is_completed_before_it_waits_has_its_value(t: Engine, outside: type[Outside]) -> None:
    outside.early.append({"amount": 5})
    run = t.run(t.start(outside, Nothing()))
    assert (run.output, consumers(run)) == (5, ["order#0"])


def test_operation_is_completed_by_the_first_call(t: Engine, outside: type[Outside]) -> None:
    run = t.run(t.start(outside, Nothing()))
    complete_operation(outside.tokens[0], {"amount": 5})
    complete_operation(outside.tokens[0], {"amount": 7})
    complete_operation(outside.tokens[0], error=CommandError(code="NO", message="no"))
    assert t.run(run).output == 5
    complete_operation(outside.tokens[0], {"amount": 7})  # repeated by a caller who missed the answer
    assert run.signals.count() == 1


def test_operation_that_was_called_twice_at_once_is_completed_once(
    quiet: None, outside: type[Outside]
) -> None:
    run = outside.start(Nothing())
    advance(run.pk)
    at_once(4, lambda number: complete_operation(outside.tokens[0], {"amount": number}))
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == run.signals.get().payload["value"]["amount"]


def test_operation_that_fails_outside_fails_the_step(t: Engine, outside: type[Outside]) -> None:
    run = t.run(t.start(outside, Nothing()))
    complete_operation(outside.tokens[0], error=CommandError(code="SOLD_OUT", message="none left"))
    assert t.run(run).compensating
    assert run.error == {"code": "SOLD_OUT", "message": "none left", "step": "order"}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("value", ["five", None, {"amount": "five"}, [5]])
def test_completion_of_another_type_waits_for_a_person(
    t: Engine, outside: type[Outside], value: Any, early: bool
) -> None:
    if early:
        outside.early.append(value)
    run = t.run(t.start(outside, Nothing()))
    if not early:
        complete_operation(outside.tokens[0], value)
    assert t.run(run).state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.operation_id) == ("bad_output", "order#0")
    complete_dead_letter(letter.pk, value={"amount": 6}, **BY)
    assert t.run(run).output == 6


def test_completion_of_a_cancelled_run_changes_nothing(t: Engine, outside: type[Outside]) -> None:
    run = t.run(t.start(outside, Nothing()))
    cancel_run(run.pk, **BY)
    assert t.run(run).operation == "reserve.undo#0"
    complete_operation(outside.tokens[0], {"amount": 5})
    assert t.run(run).operation == "reserve.undo#0", "it still undoes"
    assert consumers(run) == [""]
    t.answer(run, "reserve.undo", "back")
    assert t.run(run).state == RunState.CANCELLED
    complete_operation(outside.tokens[0], {"amount": 5})  # known already
    run.signals.all().delete()
    with pytest.raises(RunEndedError, match="CANCELLED"):
        complete_operation(outside.tokens[0], {"amount": 5})


@pytest.mark.parametrize("token", ["", "x", "a:b:c", "00000000-0000-7000-8000-000000000000:order#0:x"])
def test_token_that_was_never_given_away_is_refused(t: Engine, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        complete_operation(token, {"amount": 5})


# --- Children --------------------------------------------------------------------------------------------------


class Kid(Workflow[Payment, int]):
    class Meta:
        name = "waits.kid"

    @step
    def work(self, input: Payment) -> int:
        if input.amount < 0:
            raise PermanentError("POOR", "no money")
        return input.amount


class Parent(Workflow[Nothing, list[int]]):
    """Two children at once."""

    class Meta:
        name = "waits.parent"

    @step
    def kids(self) -> list[Child[int]]:
        return [Kid.child(Payment(amount=1)), Kid.child(Payment(amount=2))]

    @step
    def end(self, kids: list[int]) -> list[int]:
        return kids


class OneKid(Workflow[Payment, int]):
    class Meta:
        name = "waits.one_kid"

    @step
    def kid(self, input: Payment) -> Child[int]:
        return Kid.child(input)

    @step
    def end(self, kid: int) -> int:
        return kid


@pytest.mark.case("E45")
@pytest.mark.parametrize(("amount", "state"), [(3, RunState.SUCCEEDED), (-1, RunState.FAILED)])
def test_child_that_ends_as_soon_as_it_can_be_seen_is_not_missed(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, amount: int, state: str
) -> None:
    """A worker has carried it to its end before its parent's worker comes back from the commit."""
    ended: list[str] = []

    def at_once_by_another(run: Run) -> None:
        if run.workflow == "waits.kid":
            assert run.parent is not None
            found = Run.objects.get(pk=run.parent.pk)
            assert (found.state, found.lease_until) == (RunState.WAITING, None), "it is seen before it waits"
            advance(run.pk)
            ended.append(Run.objects.get(pk=run.pk).state)

    monkeypatch.setattr("workflows.doorbell.send", at_once_by_another)
    run = OneKid.start(Payment(amount=amount))
    advance(run.pk)
    assert ended == [state]
    advance(run.pk)
    run.refresh_from_db()
    assert run.state == state
    assert run.output == (amount if amount > 0 else None)


@pytest.mark.case("E45")
def test_child_that_ends_while_its_parent_looks_and_waits_again_is_not_missed(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent was woken by its first child; the second one ends after the look, before the wait is committed."""
    run = Parent.start(Nothing())
    advance(run.pk)
    first, second = Run.objects.filter(parent=run).order_by("created_at", "id")
    advance(first.pk)
    Run.objects.filter(pk=run.pk).update(wake_at=run.created_at)
    kids: list[Any] = []
    with ThreadPoolExecutor(1) as pool:

        def end_the_second(point: str) -> None:
            if point != "engine.before_record" or kids or threading.current_thread() is not main:
                return
            kids.append(pool.submit(lambda: (advance(second.pk), connections.close_all())))
            if is_postgresql():  # it wants to tell its parent, and has to wait until that is asleep
                wait_until(somebody_waits_for_a_lock, 10, what="the child waits for its parent's lock")

        main = threading.current_thread()
        monkeypatch.setattr(crashpoint, "watcher", end_the_second)
        advance(run.pk)
        kids[0].result(20)
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == [1, 2]


@pytest.mark.case("E45")
def test_children_that_end_at_the_same_moment_wake_their_parent(quiet: None) -> None:
    for _ in range(15):
        run = Parent.start(Nothing())
        advance(run.pk)
        pair = list(Run.objects.filter(parent=run).values_list("pk", flat=True))
        at_once(3, lambda number, run=run, pair=pair: advance([*pair, run.pk][number]))
        advance(run.pk)
        run.refresh_from_db()
        assert run.output == [1, 2]


# --- Undos that wait -------------------------------------------------------------------------------------------


class Patient(Workflow[Nothing, str]):
    """Every undo waits, each for something else."""

    done: ClassVar[list[str]] = []

    class Meta:
        name = "waits.patient"

    @step
    def a(self) -> int:
        return 1

    @a.undo
    def undo_a(self) -> Sleep:
        self.done.append("a")
        return Sleep(seconds=60)

    @step
    def b(self) -> int:
        return 2

    @b.undo
    def undo_b(self, b: int) -> AnyOf[WaitForSignal[str] | Sleep]:
        self.done.append(f"b {b}")
        return AnyOf([WaitForSignal(name="b is back"), Sleep(seconds=3600)])

    @step
    def c(self) -> int:
        return 3

    @c.undo
    def undo_c(self) -> ApprovalRequest:
        self.done.append("c")
        return ApprovalRequest(group="treasury")

    @step
    def d(self) -> int:
        return 4

    @d.undo
    def undo_d(self) -> list[Child[int]]:
        self.done.append("d")
        return [Kid.child(Payment(amount=1)), Kid.child(Payment(amount=2))]

    @step
    def e(self) -> str:
        raise PermanentError("NO", "no")


@pytest.fixture
def patient() -> Iterator[type[Patient]]:
    yield Patient
    Patient.done.clear()


def test_undos_wait_like_steps_and_the_next_begins_when_one_has_ended(
    t: Engine, patient: type[Patient]
) -> None:
    run = t.run(t.start(patient, Nothing()))
    assert (run.operation, patient.done) == ("c.undo#0", ["d", "c"])
    assert [each.output for each in t.children(run)] == [1, 2]
    t.approve(run, by="ada")
    assert t.run(run).operation == "b.undo#0"
    t.signal(run, "b is back", "yes")
    assert t.run(run).operation == "a.undo#0"
    t.advance(seconds=59)
    assert t.run(run).finished_at is None
    t.advance(seconds=1)
    assert t.run(run).state == RunState.COMPENSATED
    assert patient.done == ["d", "c", "b 2", "a"]
    assert {states(run)[f"{name}#0"] for name in "abcd"} == {StepState.UNDONE}


def test_undo_whose_wait_fails_is_asked_for_anew_by_a_replay(t: Engine, patient: type[Patient]) -> None:
    run = t.run(t.start(patient, Nothing()))
    t.reject(run, by="ada")
    assert t.run(run).state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.error["code"]) == ("compensation_failed", "APPROVAL_REJECTED")
    t.advance(hours=10)
    assert t.run(run).operation == "c.undo#0", "nothing before it is undone"
    replay_dead_letter(letter.pk, **BY)
    t.run(run)
    t.approve(run, by="bob")
    assert t.run(run).operation == "b.undo#0"
    t.advance(hours=2)
    assert t.run(run).state == RunState.COMPENSATED
    assert patient.done == ["d", "c", "c", "b 2", "a"]


# --- Outputs ---------------------------------------------------------------------------------------------------


class Size(BaseModel):
    size: int
    fail: bool = False


class Heavy(Workflow[Size, int]):
    undone: ClassVar[list[int]] = []

    class Meta:
        name = "waits.heavy"

    @step
    def load(self, input: Size) -> str:
        return "x" * (input.size - 2)  # it is kept with its quotation marks

    @load.undo
    def unload(self, load: str | None) -> None:
        self.undone.append(len(load or ""))

    @step
    def pause(self) -> Sleep:
        return Sleep(seconds=60)

    @step
    def count(self, input: Size, load: str) -> int:
        if input.fail:
            raise PermanentError("NO", "no")
        return len(load)


INLINE, MOST = 32_768, 5_000_000


@pytest.mark.parametrize(("size", "large"), [(INLINE, False), (INLINE + 1, True), (MOST, True)])
def test_large_output_is_kept_beside_the_hot_rows_and_arrives(t: Engine, size: int, large: bool) -> None:
    run = t.run(t.start(Heavy, Size(size=size)))
    row = run.steps.get(name="load")
    assert (row.large, row.output is None) == (large, large)
    assert Payload.objects.filter(run=run, operation_id="load#0").count() == large
    t.advance(seconds=60)  # another claim: nothing of it is in memory
    assert t.run(run).output == size - 2


def test_undo_has_a_large_output_again(t: Engine) -> None:
    Heavy.undone.clear()
    run = t.start(Heavy, Size(size=100_000, fail=True))
    t.advance(seconds=60)
    assert t.run(run).state == RunState.COMPENSATED
    assert Heavy.undone == [99_998]


@pytest.mark.case("E19")
def test_output_over_the_maximum_waits_for_a_person_and_is_stored_nowhere(t: Engine) -> None:
    run = t.run(t.start(Heavy, Size(size=MOST + 1)))
    assert run.state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert letter.reason == "bad_output"
    assert letter.error["message"].startswith("load returned str of 5,000,001 bytes, more than the 5,000,000")
    assert not Payload.objects.exists()
    assert states(run) == {"load#0": StepState.FAILED}


@pytest.mark.parametrize("early", [False, True])
def test_large_payload_of_a_signal_is_kept_beside_the_row_of_its_step(t: Engine, early: bool) -> None:
    run = t.start(Mixed, Nothing())
    if not early:
        t.run(run)
    t.signal(run, "x", "y" * 100_000)
    t.advance(seconds=60)
    assert len(t.run(run).output) > 100_000
    row = run.steps.get(name="both")
    assert (row.large, row.output) == (True, None)


class Choice(BaseModel):
    ask: bool


class Skipping(Workflow[Choice, str]):
    """A later step needs what an earlier one may have been left out of making."""

    class Meta:
        name = "waits.skipping"

    @step(when=lambda input: input.ask)
    def ask(self) -> WaitForSignal[str]:
        return WaitForSignal(name="answer")

    @ask.undo
    def take_back(self) -> None:
        raise AssertionError("nothing was asked")

    @step
    def pause(self) -> Sleep:
        return Sleep(seconds=60)

    @step(when=lambda ask: ask == "fail")
    def fail(self) -> None:
        raise PermanentError("NO", "no")

    @step
    def end(self, ask: str | None) -> str:
        return f"the answer is {ask}"


@pytest.mark.parametrize("ask", [False, True])
def test_output_of_a_step_that_was_left_out_is_none(t: Engine, ask: bool) -> None:
    run = t.run(t.start(Skipping, Choice(ask=ask)))
    if ask:
        t.signal(run, "answer", "yes")
    t.advance(seconds=60)
    assert t.run(run).output == f"the answer is {'yes' if ask else None}"
    assert states(run)["ask#0"] == (StepState.SUCCEEDED if ask else StepState.SKIPPED)
    assert not ask or Wait.objects.filter(run=run, kind="signal").count() == 1


# --- Steps that take too long ----------------------------------------------------------------------------------


class Slow(Workflow[Payment, int]):
    """Takes too long as many times as the input says."""

    attempts: ClassVar[list[int]] = []

    class Meta:
        name = "waits.slow"

    @step(timeout=0.05, retry=Retry(attempts=3, first=60))
    def work(self, input: Payment, operation: Operation) -> int:
        self.attempts.append(operation.attempt)
        deadline = time.monotonic() + 20
        while operation.attempt <= input.amount and time.monotonic() < deadline:
            pass
        return operation.attempt


@pytest.mark.case("E21")
def test_step_that_takes_too_long_is_interrupted_and_tried_again(t: Engine) -> None:
    Slow.attempts.clear()
    run = t.run(t.start(Slow, Payment(amount=1)))
    assert (run.waiting_for, run.steps.get().error["code"]) == ("retry", "UNEXPECTED_STEPTIMEOUTERROR")
    assert run.steps.get().error["message"] == "work took longer than 0.05 s"
    t.advance(seconds=60)
    assert t.run(run).output == 2
    assert t.history(run)[1:3] == [
        ("step_retry_scheduled", "work#0", 1, "UNEXPECTED_STEPTIMEOUTERROR"),
        ("step_succeeded", "work#0", 2),
    ]


@pytest.mark.case("E21")
def test_step_that_always_takes_too_long_uses_up_its_attempts(t: Engine) -> None:
    Slow.attempts.clear()
    run = t.start(Slow, Payment(amount=99))
    t.advance(hours=1)
    assert t.run(run).state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, Slow.attempts) == ("retries_exhausted", [1, 2, 3])


@pytest.mark.case("E21")
def test_attempt_is_counted_when_it_is_claimed(t: Engine) -> None:
    Slow.attempts.clear()
    run = t.start(Slow, Payment(amount=0))
    with t.crash("engine.claimed"):
        t.run(run)
    run.refresh_from_db()
    assert (run.attempt, Slow.attempts) == (1, []), "counted, and nothing of its code has run"
    assert t.run(run).output == 2


@pytest.mark.case("E21")
def test_interruption_that_comes_as_the_step_ends_leaves_no_limit_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit that was left behind would have the worker killed half a minute later."""
    watch = timeouts._Watch()
    monkeypatch.setattr(timeouts, "_watch", watch)
    lock = threading.Lock()

    class Interrupting:
        """Another thread interrupts the step while the step's own is on its way to remove the limit."""

        def __enter__(self) -> None:
            [limit] = watch._limits
            if not limit.interrupted:
                limit.interrupt_at = time.monotonic()
                watch._look_at(limit)
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    with pytest.raises(StepTimeoutError), time_limit(60, "work"):
        monkeypatch.setattr(watch, "_lock", Interrupting())
    assert watch._limits == set()
