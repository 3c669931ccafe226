"""One worker's hold on a run: every change of the run's state is one fenced commit here.

A commit records the outcome of an operation and, with it, the beginning of the next one (its attempt is counted
before its code runs). A crash leaves either "not done", and the operation is found RUNNING at the next claim, or
"done and the next is visible".
"""

from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, IntegerField, Q, Value, When
from django.db.models.functions import Now
from pydantic import BaseModel

from workflows.commands import Command, CommandError, Operation, Sleep
from workflows.crashpoints import crashpoint
from workflows.definition import Definition
from workflows.engine.keys import release_key
from workflows.engine.outcomes import Done, Failed, Outcome, Parked, StillWaiting, Submitted, TryLater
from workflows.engine.plan import Planned, next_operation, operation_id
from workflows.history import Chain, output_digest
from workflows.leases import Claim, claim, guard
from workflows.models import DeadLetter, Run, Step, Wait
from workflows.statements import insert_rows
from workflows.states import CLAIMABLE, DeadLetterReason, RunState, StepState, WaitingFor, WaitState

crashpoint.register("engine.before_record", "the step's code has run, its outcome is not recorded")
crashpoint.register("engine.in_record", "inside the transaction that records an outcome")

STEP_KEY = ("run", "operation_id")
STEP_COLUMNS = ("state", "attempt", "half_done", "output", "error", "started_at", "finished_at")


def claim_run(run_id: Any) -> Claim[Run] | None:
    """Claim the run if its wake-up instant has come and nobody else holds it."""
    return claim(
        Run,
        run_id,
        settings.WORKFLOWS["lease_seconds"],
        Q(wake_at__lte=Now(), state__in=list(CLAIMABLE)),
        state=Case(
            When(compensating=True, then=Value(RunState.COMPENSATING)), default=Value(RunState.RUNNING)
        ),
        waiting_for=WaitingFor.NOTHING,
        rung_at=None,
        # A lease that was still set has expired in somebody's hands.
        recoveries=Case(
            When(lease_until__isnull=False, then=F("recoveries") + 1),
            default=F("recoveries"),
            output_field=IntegerField(),
        ),
    )


class Session:
    """The run, its steps and its history in memory, and the commits that may change them."""

    def __init__(self, held: Claim[Run], definition: Definition) -> None:
        self.claim = held
        self.run = held.row
        self.definition = definition
        self.queue = self.run.queue
        self.compensating = self.run.compensating
        self.rows = {row.operation_id: row for row in Step.objects.filter(run=self.run)}
        self.chain = Chain(self.run)
        self.current: Planned | None = next_operation(definition, self.rows, self.compensating)
        self.handed_over = False
        self._outputs: dict[str, Any] = {}
        self._dirty: dict[str, Step] = {}
        self._columns: dict[str, Any] = {}

    @property
    def planned(self) -> Planned:
        """The operation to carry out now; only to be asked for while there is one."""
        if self.current is None:
            raise RuntimeError(f"run {self.run.pk} has no current operation")
        return self.current

    @property
    def row(self) -> Step:
        """The row of the current operation."""
        return self.rows[self.planned.operation_id]

    @property
    def operation(self) -> Operation:
        return Operation(self.run.pk, self.row.operation_id, self.row.attempt, self.run.correlation_id)

    @cached_property
    def input(self) -> BaseModel:
        return self.definition.input_model.model_validate(self.run.input)

    def output_of(self, name: str) -> Any:
        """Return the output of an earlier step as an object of its declared type; None for one that failed half-way."""
        if self.rows[f"{name}#0"].half_done:
            return None
        if name not in self._outputs:
            step = self.definition.steps[self.definition.positions[name]]
            self._outputs[name] = step.output.validate_python(self.rows[operation_id(step)].output)
        return self._outputs[name]

    def waits(self) -> list[Wait]:
        """Return the commands of the current attempt, in the order in which the step returned them."""
        waits = Wait.objects.filter(
            run=self.run, operation_id=self.row.operation_id, attempt=self.row.attempt
        )
        return list(waits.order_by("index"))

    def begin(self) -> None:
        """Count the attempt at the current operation; the caller commits it with the claim."""
        self._begin(self.claim.now())
        self._save(recoveries=self.run.recoveries)

    def record(self, outcome: Outcome, *, may_continue: bool) -> None:
        """Commit the outcome of the current operation and what comes next.

        Afterwards `current` is the operation to carry out now, or None when this worker is done with the run.
        Raises FencedError when another worker has taken the run over; nothing is written then.
        """
        crashpoint("engine.before_record")
        with transaction.atomic():
            at = self.claim.now()
            match outcome:
                case Done(value):
                    self._done(value, at, may_continue)
                case Failed(error):
                    self._failed(error, at, may_continue)
                case Submitted(waits):
                    self._suspend(waits, at)
                case StillWaiting():
                    self._still_wait(at)
                case TryLater(error, delay):
                    self._try_later(error, delay, at)
                case Parked(reason, error):
                    self._park(reason, error, at)
            self._save(recoveries=0)
            crashpoint("engine.in_record")

    def park(self, reason: DeadLetterReason, code: str, message: str) -> None:
        """Hand the run to a person before anything was tried."""
        self.record(Parked(reason, CommandError(code=code, message=message)), may_continue=False)

    def _done(self, value: Any, at: datetime, may_continue: bool) -> None:
        planned, row = self.planned, self.row
        if row.state == StepState.WAITING:  # what ends a sleep is the clock; nobody else says so in its row
            Wait.objects.filter(
                run=self.run, operation_id=row.operation_id, attempt=row.attempt, state=WaitState.PENDING
            ).update(state=WaitState.DONE)
        self._close(row, StepState.SUCCEEDED, at, output=value)
        self.chain.add(
            "step_succeeded", at, step=row.operation_id, attempt=row.attempt, output=output_digest(value)
        )
        if planned.undoes:
            self._touch(self.rows[planned.undoes]).state = StepState.UNDONE
        self._go_on(at, may_continue)

    def _failed(self, error: CommandError, at: datetime, may_continue: bool) -> None:
        if self.compensating:
            self._park(DeadLetterReason.COMPENSATION_FAILED, error, at)
            return
        self._fail_row(error, at)
        self.row.half_done = self._is_half_done()
        self.compensating = True
        self.run.error = {**error.model_dump(), "step": self.row.name}
        self._columns |= {"error": self.run.error, "compensating": True}
        self.chain.add("compensation_started", at, step=self.row.operation_id, **error.model_dump())
        self._go_on(at, may_continue)

    def _is_half_done(self) -> bool:
        """Tell whether some command of the failed operation succeeded: what it did must be undone."""
        done = Wait.objects.filter(run=self.run, operation_id=self.row.operation_id, state=WaitState.DONE)
        return done.exclude(kind=Sleep.kind).exists()

    def _go_on(self, at: datetime, may_continue: bool) -> None:
        """Turn to the next operation: here, by another worker, or not at all because there is none."""
        planned = next_operation(self.definition, self.rows, self.compensating)
        self.current = planned
        if planned is None:
            self._finish(at)
            return
        self._columns |= {
            "position": planned.position,
            "queue": planned.step.queue,
            "state": self._active_state(),
        }
        self.run.position, self.run.queue, self.run.compensating = (
            planned.position,
            planned.step.queue,
            self.compensating,
        )
        if may_continue and planned.step.queue == self.queue:
            self._begin(at)
        else:
            self.current = None
            self.handed_over = True
            self._columns |= {
                "state": self._idle_state(RunState.READY),
                "wake_at": at,
                "lease_until": None,
            }

    def _begin(self, at: datetime) -> None:
        planned = self.planned
        row = self.rows.get(planned.operation_id)
        if row is None:
            name = planned.step.name
            row = Step(run=self.run, operation_id=planned.operation_id, name=name, seq=len(self.rows) + 1)
            self.rows[row.operation_id] = row
        self._touch(row).state = StepState.RUNNING
        row.attempt += 1
        row.started_at = row.started_at or at
        if planned.undoes:
            self._touch(self.rows[planned.undoes]).state = StepState.UNDOING
        self.chain.add("step_started", at, step=row.operation_id, attempt=row.attempt)

    def submit(self, commands: list[Command], alone: bool) -> list[Wait]:
        """Have the commands insert what is to be carried out; the caller's transaction records that the run waits."""
        operation, at = self.operation, self.claim.now()
        return [
            Wait(
                run=self.run,
                operation_id=operation.id,
                attempt=operation.attempt,
                index=index,
                alone=alone,
                kind=command.kind,
                reference=command.submit(operation, index),
                due_at=_due(command, at),
            )
            for index, command in enumerate(commands)
        ]

    def _suspend(self, waits: list[Wait], at: datetime) -> None:
        Wait.objects.bulk_create(waits)
        row = self._touch(self.row)
        row.state = StepState.WAITING
        commands = [[wait.kind, wait.reference] for wait in waits]
        self.chain.add("step_waiting", at, step=row.operation_id, attempt=row.attempt, commands=commands)
        self._wait_for(waits, at)

    def _still_wait(self, at: datetime) -> None:
        # The guard locks the run. A command that ends from now on wakes it after this commit; one that ended since the
        # waits were read is seen when they are read again.
        guard(self.claim)
        self._wait_for(self.waits(), at)

    def _wait_for(self, waits: list[Wait], at: datetime) -> None:
        """Let go until the last command has ended, or until the last sleep is over where there are only sleeps."""
        pending = [wait for wait in waits if wait.state == WaitState.PENDING]
        if any(wait.kind != Sleep.kind for wait in pending):
            self._wait(WaitingFor.COMMAND, None)
            return
        wake_at = max((wait.due_at for wait in pending if wait.due_at), default=at)
        self._wait(WaitingFor.SLEEP, wake_at)
        self.handed_over = wake_at <= at  # nothing to wait for any more

    def _try_later(self, error: CommandError, delay: float, at: datetime) -> None:
        row = self._touch(self.row)
        row.state, row.error = StepState.WAITING, error.model_dump()
        due = at + timedelta(seconds=delay)
        self.chain.add(
            "step_retry_scheduled",
            at,
            step=row.operation_id,
            attempt=row.attempt,
            due=due.isoformat(),
            **error.model_dump(),
        )
        self._wait(WaitingFor.RETRY, due)

    def _wait(self, why: WaitingFor, wake_at: datetime | None) -> None:
        """Let go of the run until `wake_at`, or until something wakes it."""
        self.current = None
        state = self._idle_state(RunState.WAITING)
        self._columns |= {"state": state, "waiting_for": why, "wake_at": wake_at, "lease_until": None}

    def _park(self, reason: DeadLetterReason, error: CommandError, at: datetime) -> None:
        stopped = self.current.operation_id if self.current else ""
        if stopped in self.rows:
            self._fail_row(error, at)
        described = {**error.model_dump(), "step": self.current.step.name if self.current else ""}
        DeadLetter.objects.create(run=self.run, operation_id=stopped, reason=reason, error=described)
        self.chain.add("dead_letter_opened", at, step=stopped, reason=reason, **error.model_dump())
        self.current = None
        self._columns |= {"state": RunState.DEAD_LETTER, "wake_at": None, "lease_until": None}
        if not self.compensating:  # else the failure that started the compensation stays in view
            self._columns["error"] = described

    def _finish(self, at: datetime) -> None:
        undone = [row for row in self.rows.values() if row.state == StepState.UNDONE]
        if not self.compensating:
            state = RunState.SUCCEEDED
            self._columns["output"] = self.rows[operation_id(self.definition.steps[-1])].output
        else:
            state = RunState.COMPENSATED if undone else RunState.FAILED
        self.chain.add("run_finished", at, state=state)
        self._columns |= {"state": state, "finished_at": at, "wake_at": None, "lease_until": None}

    def _active_state(self) -> RunState:
        return RunState.COMPENSATING if self.compensating else RunState.RUNNING

    def _idle_state(self, otherwise: RunState) -> RunState:
        return RunState.COMPENSATING if self.compensating else otherwise

    def _touch(self, row: Step) -> Step:
        self._dirty[row.operation_id] = row
        return row

    def _close(self, row: Step, state: StepState, at: datetime, output: Any = None) -> None:
        self._touch(row)
        row.state, row.finished_at, row.output, row.error = state, at, output, None

    def _fail_row(self, error: CommandError, at: datetime) -> None:
        row = self.row
        self._close(row, StepState.FAILED, at)
        row.error = error.model_dump()
        self.chain.add("step_failed", at, step=row.operation_id, attempt=row.attempt, **error.model_dump())

    def _save(self, *, recoveries: int) -> None:
        """Write everything gathered since the last call; the first statement proves that the run is still ours."""
        guard(self.claim, recoveries=recoveries, **self._columns, **self.chain.head())
        insert_rows(list(self._dirty.values()), unique=STEP_KEY, update=STEP_COLUMNS)
        self.chain.save()
        if "finished_at" in self._columns:
            release_key(self.run)
        self._dirty, self._columns = {}, {}


def _due(command: Command, at: datetime) -> datetime | None:
    if not isinstance(command, Sleep):
        return None
    return command.until or at + timedelta(seconds=command.seconds or 0)
