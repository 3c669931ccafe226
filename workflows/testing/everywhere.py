"""Crashing a workflow at every crash point that it passes, one crash per run."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q

from workflows.commands import Child
from workflows.definition import Workflow
from workflows.history import verify_history
from workflows.ids import uuid7
from workflows.models import Run
from workflows.states import RunState
from workflows.testing.crashes import Crashed
from workflows.testing.inprocess import Engine, opened_or_new
from workflows.testing.waits import PendingWait, answer_wait, standing

ROUNDS_MAX = 200
# By step: the value, or a function of what is pending. Or a function that does something for the run, outside or with
# the engine, and returns whether it did.
Answers = Mapping[str, Any] | Callable[[Engine, Run], bool]
Point = tuple[str, int]


def crash_everywhere(
    workflow: type[Workflow[Any, Any]],
    input: Any,
    *,
    invariant: Callable[[Run], Any],
    answers: Answers | None = None,
    points: Collection[str] | None = None,
) -> int:
    """Run the workflow once per occurrence of every crash point; crash there, let another worker finish, then look.

    input: of each run; or a function of the run's number, which may prepare the world for it.
    invariant: what must hold of each run at its end; it returns False or raises when it doesn't.
    answers: what to answer the steps that wait, by their names; or a function of engine and run that does it.
        Sleeps need none: when nothing else is left to do, the clock is put forward.
    points: only these crash points.
    Returns how many crashes there were. Raises AssertionError with every crash after which the invariant did not hold,
    the run neither finished nor asked for a person, or its history was broken.
    Within a transaction that is rolled back after the test each run finds the database as the first one did. An engine
    that is open already is used, with its failures and stubs.
    """
    with opened_or_new() as t:
        sweep = Sweep(t, workflow, input, invariant, answers or {})
        before = t.reached.copy()
        sweep.try_point(None)
        sweep.require_held()
        reached = t.reached - before
        chosen = [name for name in sorted(reached) if points is None or name in points]
        for name in chosen:
            for at in range(1, reached[name] + 1):
                sweep.try_point((name, at))
    sweep.require_held()
    if sweep.crashes == 0:
        raise AssertionError(f"{workflow.definition.name} passed no crash point: nothing is shown")
    return sweep.crashes


@dataclass
class Sweep:
    """The runs of one workflow, each with a crash in another place."""

    engine: Engine
    workflow: type[Workflow[Any, Any]]
    input: Any
    invariant: Callable[[Run], Any]
    answers: Answers
    crashes: int = 0
    number: int = 0
    failures: list[str] = field(default_factory=list)

    def try_point(self, point: Point | None) -> None:
        """Carry a new run to its end, with a crash at this occurrence of a point, and look at it."""
        self.number += 1
        with self.engine._commits.isolated():
            data = self.input(self.number) if callable(self.input) else self.input
            if point:
                self.engine._crashes.arm(*point)
            try:
                run, stuck = self._finish(data)
            finally:
                self.engine._crashes.disarm()
            problem = stuck or self._problem(run)
        if problem:
            where = f"crash at {point[0]}, occurrence {point[1]}" if point else "without a crash"
            self.failures.append(f"{where}: {problem}")

    def require_held(self) -> None:
        """Raise AssertionError with everything that went wrong so far."""
        if self.failures:
            raise AssertionError(
                f"{self.workflow.definition.name}: {len(self.failures)} of {self.number} runs went wrong\n  "
                + "\n  ".join(self.failures)
            )

    def _finish(self, data: Any) -> tuple[Run, str]:
        """Carry a run to its end, and return it with what keeps it from one."""
        key = uuid7().hex  # whoever dies while starting a run starts it again, with the same key
        run: Run | None = None
        for _ in range(ROUNDS_MAX):
            try:
                run = run or self.engine.start(self.workflow, data, idempotency_key=key)
                if self._rests(run):
                    return run, ""
                if not self._move_on(run):
                    break
            except Crashed:
                self.engine._bury()
                self.crashes += 1
        assert run is not None
        waits = "; ".join(map(str, self.engine.waits(run))) or "nothing"
        return run, f"it is stuck: {standing(run)}, pending: {waits}"

    def _rests(self, run: Run) -> bool:
        self.engine._rest()
        run.refresh_from_db()
        return run.finished_at is not None or run.state == RunState.DEAD_LETTER

    def _move_on(self, run: Run) -> bool:
        """Do what the run waits for: answer it, or else put the clock forward. Return whether there was anything."""
        done = self.answers(self.engine, run) if callable(self.answers) else self._answer(run, self.answers)
        if done:
            return True
        instant = self.engine.next_instant()
        if instant is not None:
            self.engine._set_clock(instant)
        return instant is not None

    def _answer(self, run: Run, answers: Mapping[str, Any]) -> bool:
        for holder in self._family(run):
            for wait in self.engine.waits(holder):
                if wait.step in answers and wait.kind not in ("sleep", Child.kind):
                    answer_wait(wait, _value(answers[wait.step], wait))
                    return True
        return False

    def _family(self, run: Run) -> Iterator[Run]:
        yield run
        for child in self.engine.children(run):
            yield from self._family(child)

    def _problem(self, run: Run) -> str:
        """Return what is wrong with a run that has come to rest, or ''."""
        family = [each.pk for each in self._family(run)]
        rows = Run.objects.filter(Q(pk__in=family) | Q(parent__in=family))  # the branches, too
        fault = next(iter(verify_history(rows.order_by("id"))), None)
        if fault:
            return f"the history of run {fault.run_id} is broken at event {fault.seq}: {fault.problem}"
        try:
            held = self.invariant(run)
        except Exception as error:  # noqa: BLE001 - whatever an invariant raises is reported with the others
            return f"{type(error).__name__}: {error}"
        return "the invariant does not hold" if held is False else ""


def _value(answer: Any, wait: PendingWait) -> Any:
    return answer(wait) if callable(answer) and not isinstance(answer, type) else answer
