"""The engine in the test's own process: its workers, its messages and its clock.

Runs are carried on by the task that a worker would carry out, one at a time. The clock stands still until the test
puts it forward. What the sweeper would find, is found at once.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

from django.db import connection
from django.db.models import Min, Q
from pydantic_core import to_jsonable_python

from workflows import clock, doorbell, leases, retry, tasks
from workflows.clock import db_now
from workflows.commands import Command, CommandError, Operation
from workflows.crashpoints import crashpoint
from workflows.definition import Workflow
from workflows.engine import migration
from workflows.engine.signals import send_signal
from workflows.models import Run
from workflows.schedules.models import Schedule
from workflows.states import CLAIMABLE, Control, RunState
from workflows.sweeper import rules
from workflows.testing.commits import Commits
from workflows.testing.crashes import Crashes
from workflows.testing.failures import Failures
from workflows.testing.snapshots import Line, assert_history, history_of
from workflows.testing.waits import PendingWait, answer_wait, cast_vote, find_wait, pending_waits

CLAIMS_MAX = 1000
# What the sweeper does for the history when runs are over; no run goes on by it.
_HOUSEKEEPING = frozenset({"sealed", "anchored", "archived"})
_open: list["Engine"] = []


@contextmanager
def engine() -> "Iterator[Engine]":
    """Run workflows in this process, without Redis or a worker, by a clock that the test moves.

    Works within a transaction that is rolled back after the test (pytest-django's `db`) as well as on a database that
    is really committed to. At the end it raises AssertionError when a failure that was asked for never happened.
    """
    if _open:
        raise RuntimeError("an engine is open already; use that one")
    t = Engine()
    with t._in_place():
        yield t
    t._failures.require_struck()


def opened_or_new() -> AbstractContextManager["Engine"]:
    """Return the engine that is open, or open one."""
    return nullcontext(_open[0]) if _open else engine()


class Engine:
    """What a test does to workflows and their world; made by `engine()`."""

    def __init__(self) -> None:
        self._messages: deque[UUID] = deque()
        self._crashes = Crashes()
        self._commits = Commits()
        self._failures = Failures()
        self._stack = ExitStack()
        self._swept = False  # since the clock was moved, a worker died, or the test asked

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Stand in for the broker, the clock, chance and the thread that renews leases."""
        _open.append(self)
        clock.stop()
        with self._stack as stack:
            stack.callback(_open.remove, self)
            stack.callback(clock.reset)
            stack.callback(self._failures.restore)
            # What was recorded in a transaction that is rolled back after the test is not recorded.
            stack.callback(migration._recorded.clear)
            put = stack.enter_context
            put(mock.patch.object(doorbell, "carrier", lambda run: self._messages.append(run.pk)))
            put(mock.patch.object(crashpoint, "watcher", self._crashes.watch))
            put(mock.patch.object(leases, "_keeper", SimpleNamespace(add=_ignore, remove=_ignore)))
            put(mock.patch.object(retry, "random", SimpleNamespace(uniform=lambda low, high: 0.0)))
            put(connection.execute_wrapper(self._crashes.refuse))
            put(self._commits.followed())
            yield

    # --- Carrying runs on -----------------------------------------------------------------------------------

    def start(self, workflow: type[Workflow[Any, Any]], input: Any, **options: Any) -> Run:
        """Start a run, as `workflow.start(input, **options)` does; nobody has taken it up yet."""
        run: Run = workflow.start(input, **options)
        return run

    def run(self, run: Run) -> Run:
        """Carry on everything that can go on now, and return this run as it then is."""
        self.run_all()
        run.refresh_from_db()
        return run

    def run_all(self) -> None:
        """Carry on everything that can go on now: children, branches, those that waited for a key, undos."""
        self._swept = False
        self._rest()

    def _rest(self) -> None:
        taken: Counter[UUID] = Counter()
        in_vain: set[UUID] = set()
        while (run_id := self._next(in_vain)) is not None:
            if self._take_up(run_id):
                in_vain.clear()  # it may have made room for another
            else:
                in_vain.add(run_id)
            taken[run_id] += 1
            if taken[run_id] > CLAIMS_MAX:
                raise AssertionError(f"run {run_id} was taken up {CLAIMS_MAX} times and still doesn't rest")

    def advance(self, step: timedelta | None = None, /, **units: float) -> None:
        """Put the clock forward, by a timedelta or as in `hours=24`, and carry out what comes due on the way."""
        until = clock.now() + (step if step is not None else timedelta(**units))
        self.run_all()
        while (instant := self.next_instant()) is not None and instant <= until:
            self._set_clock(instant)
            self._rest()
        self._set_clock(until)
        self._rest()

    def now(self) -> datetime:
        """Return the time by the engine's clock."""
        return clock.now()

    def next_instant(self) -> datetime | None:
        """Return when the next timer, timeout, deadline or schedule comes due; None when nothing does by itself."""
        now, live = clock.now(), Run.objects.filter(finished_at__isnull=True)
        timers = live.filter(state__in=sorted(CLAIMABLE), wake_at__gt=now)
        deadlines = live.filter(deadline_at__gt=now, compensating=False, control=Control.NONE)
        found = [
            Schedule.objects.filter(enabled=True, next_at__gt=now).aggregate(at=Min("next_at"))["at"],
            timers.aggregate(at=Min("wake_at"))["at"],
            deadlines.exclude(state=RunState.DEAD_LETTER).aggregate(at=Min("deadline_at"))["at"],
        ]
        return min((at for at in found if at is not None), default=None)

    def _next(self, in_vain: set[UUID]) -> UUID | None:
        """Return a run to take up: one that a message names, one that is due, one that the sweeper finds."""
        while self._messages:
            run_id = self._messages.popleft()
            if run_id not in in_vain:
                return run_id
        due = self._find_due(in_vain)
        if due is None and not self._swept:
            self._swept = True
            for name, rule in rules().items():
                if name not in _HOUSEKEEPING:
                    rule()
            due = self._next(in_vain)
        return due

    def _find_due(self, in_vain: set[UUID]) -> UUID | None:
        free = Q(lease_until__isnull=True) | Q(lease_until__lt=db_now())
        due = Run.objects.filter(free, state__in=sorted(CLAIMABLE), wake_at__lte=db_now())
        rows = due.exclude(pk__in=in_vain).order_by("wake_at", "-priority", "id")
        return rows.values_list("pk", flat=True).first()

    def _take_up(self, run_id: UUID) -> bool:
        """Do what a worker does with a message; return whether it could claim the run."""
        before = self.reached["engine.claimed"]
        tasks.advance(str(run_id))
        return self.reached["engine.claimed"] > before

    def _bury(self) -> None:
        """Go on after a death, as another worker."""
        self._crashes.bury()
        self._swept = False

    def _set_clock(self, instant: datetime) -> None:
        self._swept = False
        clock.advance(max(instant - clock.now(), timedelta(0)))

    # --- Ending what they wait for ----------------------------------------------------------------------------

    def waits(self, run: Run) -> list[PendingWait]:
        """Return what the run and its branches wait for now."""
        return pending_waits(run)

    def answer(self, run: Run, step: str, value: Any = None, *, index: int | None = None) -> None:
        """End what a step of the run waits for, with a value: a receipt, a payload, `Approved(by=[…])`.

        step: its name, `pay.undo` for its undo, or an operation's id, `charge#3`. index: which of the commands that it
        returned; otherwise the first that is pending. Raises AssertionError when it waits for nothing, saying what does.
        """
        answer_wait(find_wait(run, step, index), value)
        run.refresh_from_db()

    def fail_wait(
        self, run: Run, step: str, *, code: str, message: str = "", index: int | None = None
    ) -> None:
        """End what a step of the run waits for, with an error."""
        self.answer(run, step, CommandError(code=code, message=message or code), index=index)

    def signal(self, run: Run, name: str, payload: Any = None, **options: Any) -> None:
        """Send the run a signal, as `send_signal` does; it may come before the run waits for it."""
        send_signal(run.pk, name, to_jsonable_python(payload), **options)
        run.refresh_from_db()

    def approve(self, run: Run, *, by: str, step: str | None = None) -> None:
        """Have a member of the group say yes to what the run asks."""
        cast_vote(self._approval(run, step), by=by, approve=True)
        run.refresh_from_db()

    def reject(self, run: Run, *, by: str, reason: str = "", step: str | None = None) -> None:
        """Have a member of the group say no to what the run asks."""
        cast_vote(self._approval(run, step), by=by, approve=False, reason=reason)
        run.refresh_from_db()

    def _approval(self, run: Run, step: str | None) -> PendingWait:
        asked = [each.operation for each in pending_waits(run) if each.kind == "approval"]
        return find_wait(run, step or next(iter(asked), "an approval"))

    def children(self, run: Run) -> list[Run]:
        """Return the runs that the run has started and waits for, or waited for, oldest first."""
        return list(Run.objects.filter(parent=run, branch="").order_by("created_at", "id"))

    def stub(self, *commands: type[Command]) -> None:
        """Have these commands insert nothing when a step returns them: they wait for the test's answer alone."""
        for command in commands:
            for name, stub in _STUBS.items():
                self._stack.enter_context(mock.patch.object(command, name, stub))

    # --- Trouble ------------------------------------------------------------------------------------------------

    def fail(
        self,
        step: str,
        *,
        times: int = 1,
        error: Exception | type[Exception] | None = None,
        workflow: type[Workflow[Any, Any]] | None = None,
    ) -> None:
        """Have a step fail so many times before its code runs; by default with a TransientError.

        step: its name, `pay.undo` for its undo, `pay.verify` for its verifier; of any workflow, unless one is given.
        """
        self._failures.ask(step, times, error, workflow)

    def crash(self, point: str, at: int = 1) -> AbstractContextManager[None]:
        """Have the worker die when a crash point is reached for the `at`-th time in the block.

        Its transaction is rolled back, and it says nothing more. After the block its leases have run out, so `run` lets
        another worker take over. Raises AssertionError when the block ends without a crash.
        """
        self._swept = False
        return self._crashes.crash(point, at)

    @property
    def reached(self) -> Counter[str]:
        """How often each crash point has been reached."""
        return self._crashes.reached

    # --- What happened ------------------------------------------------------------------------------------------

    def history(self, run: Run) -> list[Line]:
        """Return the run's history without identifiers, hashes and instants: `("step_succeeded", "pay#0", 1)`, …"""
        return history_of(run)

    def assert_history(self, run: Run, path: str | Path) -> None:
        """Compare the run's history with that in a file. A missing file is written, and the assertion fails once."""
        assert_history(run, Path(path))


def _ignore(held: Any) -> None:
    return None


def _submit_nothing(command: Command, operation: Operation, index: int) -> str:
    return f"{operation.key}:{operation.attempt}:{index}"


_STUBS: dict[str, Any] = {
    "submit": _submit_nothing,
    "due": lambda command, at: None,
    "find_result": staticmethod(lambda reference: None),
    "withdraw": staticmethod(lambda reference: True),
}
