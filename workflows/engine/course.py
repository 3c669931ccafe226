"""Where a run goes when its operation has ended: to the next one, on the way back to the undo before, or to its end."""

from typing import Any

from workflows import clock
from workflows.engine.draining import is_draining
from workflows.engine.plan import Planned, at_position, pending_undos
from workflows.engine.session import Session
from workflows.history import output_digest
from workflows.models import Step
from workflows.states import Control, RunState, StepState, WaitingFor


class Course:
    """A run that is turned, in the session; nothing is written yet."""

    def __init__(self, session: Session, may_continue: bool) -> None:
        self.session = session
        self.run = session.run
        self.may_continue = may_continue
        self.at = clock.now()

    @property
    def must_stop(self) -> bool:
        """Whether somebody has asked for what it has done to be undone."""
        return not self.run.compensating and self.session.control in (Control.CANCEL, Control.COMPENSATE)

    def go_on(self, output: Any) -> None:
        """Turn to the next operation: here, by another worker, or not at all because there is none."""
        session, run = self.session, self.run
        if run.branch:
            self.finish(RunState.SUCCEEDED)
            return
        if self.must_stop:
            self.obey_stop()
            return
        planned = (
            self._undo()
            if run.compensating
            else at_position(session.definition, session.current.position + 1)
        )
        if planned is None:
            self._finish_whole(output)
            return
        session.turn_to(planned)
        run.waiting_for = WaitingFor.NOTHING
        run.queue = planned.step.queue
        if self.may_continue and run.queue == session.queue and not is_draining():
            run.attempt, run.operation_at = 1, self.at
            run.state = RunState.COMPENSATING if run.compensating else RunState.RUNNING
        else:
            self.hand_over()

    def hand_over(self) -> None:
        self.session.handed_over = True
        self.session.let_go(RunState.READY, wake_at=clock.at_once())

    def compensate(self, error: dict[str, Any]) -> None:
        """Turn the run round: from here on it undoes."""
        session, run = self.session, self.run
        run.compensating, run.error = True, error
        session.chain.add("compensation_started", self.at, **error)
        self.go_on(None)

    def obey_stop(self) -> None:
        """Begin the compensation that somebody asked for: the operation at hand has ended, and no further one begins."""
        session, run = self.session, self.run
        request = run.request or {}
        cancelled = session.control == Control.CANCEL
        if not cancelled:
            session.clear_control = True
        why = {
            "code": request.get("code") or ("RUN_CANCELLED" if cancelled else "RUN_COMPENSATED"),
            "message": f"{request.get('actor', 'somebody')}: {request.get('reason', '')}",
            "step": session.planned.step.name if session.planned else "",
        }
        if run.branch:
            self.finish(RunState.CANCELLED, error=why)
        else:
            self.compensate(why)

    def _undo(self) -> Planned | None:
        """Return the undo that is to be done now, with the changes that are not written yet."""
        session = self.session
        rows = {row.operation_id: row for row in Step.objects.filter(run=self.run).defer("output", "error")}
        rows |= session.touched
        return next(pending_undos(session.definition, rows.values()), None)

    def _finish_whole(self, output: Any) -> None:
        session, run = self.session, self.run
        if not run.compensating:
            self.finish(RunState.SUCCEEDED, output=_output_of_run(session, output))
            return
        if run.control == Control.CANCEL or session.control == Control.CANCEL:
            self.finish(RunState.CANCELLED)
            return
        undone = Step.objects.filter(run=run, state=StepState.UNDONE).exists() or any(
            row.state == StepState.UNDONE for row in session.touched.values()
        )
        self.finish(RunState.COMPENSATED if undone else RunState.FAILED)

    def finish(self, state: RunState, *, output: Any = None, error: dict[str, Any] | None = None) -> None:
        session, run = self.session, self.run
        session.planned = None
        digest = {} if output is None else {"output": output_digest(output)}
        session.chain.add("run_finished", self.at, state=state, **digest)
        run.state, run.output, run.finished_at = state, output, self.at
        run.error = error or run.error
        run.waiting_for, run.wake_at, run.lease_until = WaitingFor.NOTHING, None, None


def _output_of_run(session: Session, last: Any) -> Any:
    """Return the last step's output; of a group of parallel steps those of all, by their names."""
    members = session.definition.members(len(session.definition.groups) - 1)
    if len(members) == 1 and members[0].each is None:
        return last
    outputs = {step.name: _dumped(step, session.output_of(step.name)) for step in members}
    return outputs[members[0].name] if len(members) == 1 else outputs


def _dumped(step: Any, value: Any) -> Any:
    if step.each is not None and value is not None:
        return [None if each is None else step.output.dump_python(each, mode="json") for each in value]
    return None if value is None else step.output.dump_python(value, mode="json")
