"""Turning the outcome of an operation into what is written: its row, the run's next operation, and the event.

One commit records the outcome and, with it, the beginning of the next operation (its attempt is counted before its code
runs). A crash leaves either "not done", and the next claim finds the same operation, or "done and the next is visible".
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from workflows import clock
from workflows.commands import CommandError
from workflows.crashpoints import crashpoint
from workflows.engine.branches import join_branches
from workflows.engine.children import tell_parent
from workflows.engine.course import Course
from workflows.engine.keys import pass_key_on, write_state
from workflows.engine.outcomes import (
    CalledOff,
    Done,
    Failed,
    FannedOut,
    Halted,
    Joined,
    Outcome,
    Parked,
    Skipped,
    StillWaiting,
    Stored,
    Submitted,
    TryLater,
)
from workflows.engine.plan import Planned
from workflows.engine.session import Session
from workflows.engine.transactions import in_transaction
from workflows.engine.troubles import open_dead_letter
from workflows.engine.unbegun import leave_out_siblings
from workflows.engine.waits import when_to_look
from workflows.history import output_digest
from workflows.models import Payload, Step, Wait
from workflows.states import Control, DeadLetterReason, RunState, StepState, WaitingFor, WaitState

LATE_SECONDS = 1.0  # until then nobody was late: the sweeper looks once a second


def record(session: Session, outcome: Outcome, *, may_continue: bool) -> None:
    """Commit the outcome of the current operation and what comes next.

    Afterwards `session.planned` is the operation to carry out now, or None when this worker is done with the run.
    Raises FencedError when another worker has taken the run over; nothing is written then.
    """
    crashpoint("engine.before_record")
    Recording(session, may_continue).apply(outcome)


def tell_parent_of_branch(session: Session) -> None:
    """Wake the run of a branch that has ended, if it was the last one.

    Outside the branch's own transaction: there two last ones would each find the other under way.
    """
    if session.run.branch and session.run.finished_at is not None:
        join_branches(session.run.parent_id)


def park(
    session: Session, reason: DeadLetterReason, code: str, message: str, *, uncertain: bool = False
) -> None:
    """Hand the run to a person before anything was tried."""
    Recording(session, may_continue=False).apply(
        Parked(reason, CommandError(code=code, message=message), uncertain)
    )


class Recording(Course):
    """One outcome on its way into the session and the database."""

    parked: Parked | None = None

    def apply(self, outcome: Outcome) -> None:
        session, run = self.session, self.run
        run.recoveries = 0
        session.renew(self.at)
        match outcome:
            case Done(output):
                self._done(output)
            case Skipped():
                self._skipped()
            case Failed(error):
                self._failed(error)
            case Submitted(waits):
                self._suspend(waits)
            case FannedOut(branches):
                self._fan_out(branches)
            case Joined():
                self._close_fan_out()
                self.go_on(None)
            case StillWaiting():
                self._still_wait()
            case CalledOff():
                self._called_off()
            case Halted():
                self._halt()
            case TryLater():
                self._try_later(outcome)
            case Parked():
                self._park(outcome)
        self._write()

    def _write(self) -> None:
        """Commit. More than the one statement is needed only where the run's end or trouble concerns other rows."""
        session, run = self.session, self.run
        ended = run.finished_at is not None
        concerns_others = ended and (run.object_key or run.parent_id)
        if self.parked is None and session.written is None and not concerns_others:
            session.commit()
            return
        in_transaction(session, self._write_all)
        if not session.in_transaction:
            tell_parent_of_branch(session)

    def _write_all(self) -> None:
        session, run = self.session, self.run
        session.commit()
        if self.parked is not None:
            open_dead_letter(session, self.parked, self.at)
        if run.finished_at is not None:
            session.heir = pass_key_on(run, session.written)
            tell_parent(run)
            if run.branch and run.state == RunState.FAILED:
                leave_out_siblings(run)
        elif session.written is not None:
            write_state(run, session.written)
        session.written = None

    def _done(self, output: Stored) -> None:
        session, planned = self.session, self.session.current
        row = self._close(StepState.SUCCEEDED)
        row.output, row.large, row.error = (None if output.large else output.value), output.large, None
        if output.large:
            session.payloads.append(
                Payload(run_id=row.run_id, operation_id=row.operation_id, data=output.value)
            )
        session.remember(output)
        session.chain.add(
            "step_succeeded",
            self.at,
            step=row.operation_id,
            attempt=row.attempt,
            output=output_digest(output.value),
            **self._written(),
            **self._late(),
        )
        if planned.undoes:
            self._set_undone(planned)
        self.go_on(output.value)

    def _written(self) -> dict[str, Any]:
        """Return what the history says of the virtual object that the step has written."""
        written = self.session.written
        if written is None:
            return {}
        return {"version": written.version + 1, "state": output_digest(written.state)}

    def _late(self) -> dict[str, float]:
        """Return what the history says of a timer that was not looked at in time: the workers were away, or busy."""
        seconds = self.session.late_by.total_seconds()
        return {"late_by": round(seconds, 3)} if seconds > LATE_SECONDS else {}

    def _set_undone(self, planned: Planned) -> None:
        undone = Step.objects.get(run_id=self.run.home_id, operation_id=planned.undoes)
        undone.state = StepState.UNDONE
        self.session.touch(undone)

    def _skipped(self) -> None:
        row = self._close(StepState.SKIPPED)
        self.session.chain.add("step_skipped", self.at, step=row.operation_id)
        self.go_on(None)

    def _failed(self, error: CommandError) -> None:
        session, run = self.session, self.run
        if run.compensating:
            self._park(Parked(DeadLetterReason.COMPENSATION_FAILED, error))
            return
        planned = session.current
        if not planned.fans_out:
            row = self._fail_row(error)
            row.uncertain = row.uncertain or session.half_done()
        described = {**error.model_dump(), "step": planned.step.name}
        if run.branch:
            self.finish(RunState.FAILED, error=described)
            return
        self.compensate(described)

    def _called_off(self) -> None:
        """The operation ends without an outcome, and the run with it."""
        row = self._close(StepState.SKIPPED)
        row.uncertain = row.uncertain or self.session.half_done()
        if row.uncertain:
            row.state = StepState.FAILED
        self.session.chain.add("step_called_off", self.at, step=row.operation_id)
        self.obey_stop()

    def _halt(self) -> None:
        session, run = self.session, self.run
        if self.must_stop:
            self._leave_off()
            self.obey_stop()
            return
        session.clear_control = True
        run.attempt -= 1  # it was counted, and has not begun
        pausing = session.control == Control.PAUSE
        if pausing:
            session.chain.add("run_paused", self.at, **(run.request or {}))
        session.handed_over = not pausing
        session.let_go(RunState.PAUSED if pausing else RunState.READY, wake_at=clock.at_once())

    def _leave_off(self) -> None:
        """End the row of an operation that was tried before, and is not tried again."""
        session, run = self.session, self.run
        if run.attempt > 1 and not session.current.fans_out:
            row = session.touch(session.row)
            row.state = StepState.FAILED if row.uncertain or row.error else StepState.SKIPPED
            row.finished_at = self.at
            session.chain.add("step_called_off", self.at, step=row.operation_id)
        run.attempt -= 1  # it was counted, and has not begun

    def _suspend(self, waits: list[Wait]) -> None:
        session = self.session
        row = session.touch(session.row)
        row.state, row.attempt = StepState.WAITING, self.run.attempt
        row.uncertain = (
            row.uncertain or session.written is not None
        )  # should it fail, there is something to undo
        Wait.objects.bulk_create(waits)
        commands = [[wait.kind, wait.reference] for wait in waits]
        session.chain.add(
            "step_waiting",
            self.at,
            step=row.operation_id,
            attempt=row.attempt,
            commands=commands,
            **self._written(),
        )
        self._wait_for(waits)

    def _still_wait(self) -> None:
        session = self.session
        if session.current.fans_out:
            session.let_go(RunState.WAITING, waiting_for=WaitingFor.BRANCHES, wake_at=None)
            return
        # The caller holds the run's lock. A command that ends from now on wakes it after this commit; one that ended
        # since the waits were read is seen when they are read again.
        self._wait_for(session.waits())

    def _wait_for(self, waits: list[Wait]) -> None:
        """Let go until something more has ended: what can end by the clock alone is due at its instant."""
        why, wake_at = when_to_look(waits, self.at)
        self.session.handed_over = wake_at is not None and wake_at <= self.at
        if self.session.handed_over:
            wake_at = clock.at_once()
        self.session.let_go(RunState.WAITING, waiting_for=why, wake_at=wake_at)

    def _fan_out(self, branches: int) -> None:
        session = self.session
        self._close_fan_out()
        session.chain.add("step_branched", self.at, step=session.current.operation_id, branches=branches)
        session.let_go(RunState.WAITING, waiting_for=WaitingFor.BRANCHES, wake_at=None)

    def _close_fan_out(self) -> None:
        """End the row that stands for a fan-out, which it has only when an attempt at it had failed."""
        row = self.session.row
        if row.pk is not None and row.state != StepState.SUCCEEDED:
            self.session.touch(row)
            row.state, row.attempt, row.finished_at, row.error = (
                StepState.SUCCEEDED,
                self.run.attempt,
                self.at,
                None,
            )

    def _try_later(self, outcome: TryLater) -> None:
        session, error = self.session, outcome.error
        row = session.touch(session.row)
        row.state, row.attempt, row.error = StepState.WAITING, self.run.attempt, error.model_dump()
        row.uncertain = row.uncertain or outcome.uncertain
        due = self.at + timedelta(seconds=outcome.delay)
        session.chain.add(
            "step_retry_scheduled",
            self.at,
            step=row.operation_id,
            attempt=row.attempt,
            due=due.isoformat(),
            **error.model_dump(),
            **self._late(),
        )
        session.let_go(RunState.WAITING, waiting_for=WaitingFor.RETRY, wake_at=due)

    def _park(self, outcome: Parked) -> None:
        session, run, error = self.session, self.run, outcome.error
        if run.compensating and outcome.reason == DeadLetterReason.RETRIES_EXHAUSTED:
            outcome = replace(outcome, reason=DeadLetterReason.COMPENSATION_FAILED)
        stopped, step = run.operation, ""
        if session.planned is not None:
            step = session.current.step.name
            if not session.current.fans_out:
                row = self._fail_row(error)
                row.uncertain = row.uncertain or outcome.uncertain
        session.chain.add(
            "dead_letter_opened", self.at, step=stopped, reason=outcome.reason, **error.model_dump()
        )
        described = {**error.model_dump(), "step": step}
        if not run.compensating:  # else the failure that started the compensation stays in view
            run.error = described
        session.planned = None
        run.state, run.waiting_for, run.wake_at, run.lease_until = (
            RunState.DEAD_LETTER,
            WaitingFor.NOTHING,
            None,
            None,
        )
        self.parked = outcome

    def _close(self, state: StepState) -> Step:
        """End the current operation's row, and the waits that only the clock ends."""
        session = self.session
        if session.resuming and not session.current.fans_out:
            pending = Wait.objects.filter(
                run=self.run, operation_id=session.current.operation_id, attempt=self.run.attempt
            )
            pending.filter(state=WaitState.PENDING, kind="sleep", due_at__lte=self.at).update(
                state=WaitState.DONE
            )
        row = session.touch(session.row)
        row.state, row.attempt, row.finished_at = state, self.run.attempt, self.at
        return row

    def _fail_row(self, error: CommandError) -> Step:
        row = self._close(StepState.FAILED)
        row.error = error.model_dump()
        self.session.chain.add(
            "step_failed",
            self.at,
            step=row.operation_id,
            attempt=row.attempt,
            **error.model_dump(),
            **self._late(),
        )
        return row
