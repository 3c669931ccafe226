"""What a person may decide about a stopped operation, other than to try it again.

The outcome is given by a person in place of the step's code and then recorded as every outcome is, so that the run goes
on, ends, or turns round exactly as it would have. Each decision is one transaction with the resolution of the dead
letter, the act and the history event.
"""

from typing import Any

from django.db import transaction
from pydantic import ValidationError

from workflows.doorbell import ring
from workflows.engine.acts import note_act
from workflows.engine.branches import is_over, join_branches
from workflows.engine.control import ask_to_stop
from workflows.engine.ending import call_off, end_at_once, failure
from workflows.engine.keys import take_key
from workflows.engine.letters import lock_run, open_session, take_letter
from workflows.engine.needs import needs_output
from workflows.engine.outcomes import Done, Joined, Skipped, Stored, to_json
from workflows.engine.plan import find_operation, operation_id
from workflows.engine.recording import Recording
from workflows.engine.replay import refuse_cycle
from workflows.engine.transactions import in_one_transaction
from workflows.errors import BadOutputError, InvalidInputError, NotPossibleError
from workflows.leases import Claim, release
from workflows.models import DeadLetter, Run, Step
from workflows.states import Control, RunState, StepState, WaitingFor
from workflows.steps import StepDefinition


def _take(dead_letter_id: Any, resolution: str, actor: str, reason: str) -> Claim[Run]:
    held = take_letter(dead_letter_id, resolution, actor, reason)
    note_act(actor, resolution, f"run:{held.row.pk}", reason, dead_letter=str(dead_letter_id))
    return held


@in_one_transaction
def complete_dead_letter(dead_letter_id: Any, *, value: Any = None, actor: str, reason: str) -> DeadLetter:
    """Take the stopped operation as done with this output, and let the run go on behind it.

    value: of the step's output type, as JSON. An undo then counts as undone.
    Raises DeadLetter.DoesNotExist, NotReplayableError (dealt with already), InvalidInputError (not such an output),
    NotPossibleError (a list of items at once, or something of it is still under way).
    """
    decision = Decision(_take(dead_letter_id, "complete", actor, reason))
    decision.require_nothing_under_way()
    output = decision.read_output(value)
    decision.settle("dead_letter_completed", actor, reason)
    decision.apply(Done(output))
    decision.announce()
    return DeadLetter.objects.get(pk=dead_letter_id)


@in_one_transaction
def skip_dead_letter(dead_letter_id: Any, *, actor: str, reason: str) -> DeadLetter:
    """Leave the stopped operation out, and let the run go on behind it; the step's output is None.

    What an undo that is left out was to take back, stays. Raises DeadLetter.DoesNotExist, NotReplayableError (dealt
    with already), NotPossibleError (a later step can't do without the output, or something of it is still under way).
    """
    decision = Decision(_take(dead_letter_id, "skip", actor, reason))
    decision.require_nothing_under_way()
    decision.require_dispensable()
    decision.settle("dead_letter_skipped", actor, reason)
    decision.skip()
    decision.announce()
    return DeadLetter.objects.get(pk=dead_letter_id)


@in_one_transaction
def compensate_dead_letter(dead_letter_id: Any, *, actor: str, reason: str) -> DeadLetter:
    """Give the stopped operation up and undo what the run has done; the operation, too, when it may have happened.

    A branch fails, and the run that it belongs to stops and undoes.
    Raises DeadLetter.DoesNotExist, NotReplayableError (dealt with already), NotPossibleError (it undoes already, or
    something of it is still under way).
    """
    held = _take(dead_letter_id, "compensate", actor, reason)
    if held.row.branch:
        _give_branch_up(held.row, actor, reason)
    elif not is_over(held.row.pk):  # a worker died while it made them: they are stopped, and waited for
        release(held)
        ask_to_stop(held.row.pk, Control.COMPENSATE, "RUN_COMPENSATED", actor, reason)
    else:
        decision = Decision(held)
        decision.require_nothing_under_way()
        decision.turn_round(actor, reason)
        decision.announce()
    return DeadLetter.objects.get(pk=dead_letter_id)


def _give_branch_up(run: Run, actor: str, reason: str) -> None:
    _require_nothing_under_way(run)
    end_at_once(run, RunState.FAILED, "dead_letter_compensated", _trouble(run), actor, reason)
    if lock_run(run.parent_id).finished_at is None:
        ask_to_stop(run.parent_id, Control.COMPENSATE, "RUN_COMPENSATED", actor, reason, branch_too=True)


@in_one_transaction
def discard_dead_letter(dead_letter_id: Any, *, actor: str, reason: str) -> DeadLetter:
    """End the run FAILED, undoing nothing. The run that a branch belongs to goes on as after any failure.

    Raises DeadLetter.DoesNotExist, NotReplayableError (dealt with already).
    """
    run = _take(dead_letter_id, "discard", actor, reason).row
    end_at_once(run, RunState.FAILED, "run_discarded", _trouble(run), actor, reason)
    return DeadLetter.objects.get(pk=dead_letter_id)


@in_one_transaction
def kill_dead_letter(dead_letter_id: Any, *, actor: str, reason: str) -> DeadLetter:
    """End the run CANCELLED, undoing nothing: `kill_run` for one of several who decide about a dead letter at once."""
    run = _take(dead_letter_id, "kill", actor, reason).row
    error = failure("RUN_KILLED", actor, reason, run)
    end_at_once(run, RunState.CANCELLED, "run_killed", error, actor, reason)
    return DeadLetter.objects.get(pk=dead_letter_id)


def _trouble(run: Run) -> dict[str, Any]:
    """Return why the run stopped: that stays in view when it is ended."""
    letter = run.dead_letters.order_by("-id").first()
    return run.error or (letter.error if letter else {})


def _require_nothing_under_way(run: Run) -> None:
    unstoppable = call_off(run)
    if unstoppable:
        named = ", ".join(f"{wait.kind} {wait.reference}" for wait in unstoppable[:5])
        raise NotPossibleError(
            f"{run.operation} of run {run.pk} has asked for what can't be called off: {named}; wait for its end"
        )


class Decision(Recording):
    """An outcome that a person gives to the operation at which a run stopped."""

    def __init__(self, held: Claim[Run]) -> None:
        super().__init__(open_session(held), may_continue=False)

    def require_nothing_under_way(self) -> None:
        """Refuse to decide while something that the operation asked for may still happen."""
        _require_nothing_under_way(self.run)

    def settle(self, kind: str, actor: str, reason: str) -> None:
        """Say who decided, and forget the trouble; the outcome follows."""
        self.note(kind, actor, reason)
        if not self.run.compensating:  # else it is what started the compensation
            self.run.error = None

    def note(self, kind: str, actor: str, reason: str) -> None:
        """Say in the history who decided."""
        self.session.chain.add(kind, self.at, step=self.run.operation, actor=actor, reason=reason)

    def read_output(self, value: Any) -> Stored:
        """Return the value as the step's output, checked like one. Raises InvalidInputError, NotPossibleError."""
        planned = self.session.current
        if planned.fans_out:
            raise NotPossibleError(
                f"{planned.operation_id} has an output for each item: skip it, or replay and complete single items"
            )
        step, text = planned.step, f"this is no output of {planned.operation_id}"
        try:
            step.output.validate_python(value)
            return to_json(step, value)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidInputError(text, [dict(each) for each in errors], "value") from None
        except BadOutputError as error:
            raise InvalidInputError(text, [{"loc": (), "msg": error.message}], "value") from None

    def require_dispensable(self) -> None:
        """Refuse to leave out what a later step needs."""
        for step in self._left_out():
            item = step.each is not None and not self.session.current.fans_out
            who = needs_output(self.session.definition, step, item=item)
            if who is not None:
                raise NotPossibleError(
                    f"{step.name} can't be skipped: {who}; complete it with a value instead"
                )

    def _left_out(self) -> list[StepDefinition]:
        planned, definition = self.session.current, self.session.definition
        if planned.undoes:
            return []
        return definition.members(planned.position) if planned.fans_out else [planned.step]

    def skip(self) -> None:
        """Record that the operation was left out."""
        if not self.session.current.fans_out:
            self.apply(Skipped())
            return
        if Run.objects.filter(parent=self.run).exclude(branch="").exists():
            raise NotPossibleError(
                f"some branches of {self.run.operation} exist already: replay it, or compensate"
            )
        for step in self._left_out():
            self.session.touch(self._skipped_row(step))
        self.apply(Joined())

    def _skipped_row(self, step: StepDefinition) -> Step:
        operation = operation_id(step.name)
        planned = find_operation(self.session.definition, operation)
        assert planned is not None
        return Step(
            run=self.run,
            operation_id=operation,
            name=step.name,
            seq=planned.seq,
            state=StepState.SKIPPED,
            finished_at=self.at,
        )

    def turn_round(self, actor: str, reason: str) -> None:
        """Begin the compensation."""
        session, run = self.session, self.run
        if run.compensating:
            raise NotPossibleError(f"run {run.pk} undoes already: replay, complete or skip {run.operation}")
        if run.attempt > 0 and not session.current.fans_out:
            row = session.touch(session.row)
            row.state, row.uncertain = StepState.FAILED, row.uncertain or session.half_done()
        run.recoveries = 0
        session.renew(self.at)
        self.note("dead_letter_compensated", actor, reason)
        self.compensate({**_trouble(run), "step": session.current.step.name})
        self._write()

    def hand_over(self) -> None:
        """Let a worker go on; a run that gave its key away queues up for it again."""
        if take_key(self.run):
            super().hand_over()
        else:
            refuse_cycle(self.run)
            self.session.let_go(RunState.WAITING, waiting_for=WaitingFor.KEY, wake_at=None)

    def announce(self) -> None:
        """Tell those who go on, once all is committed."""
        session, run = self.session, self.run
        if session.handed_over:
            ring(run)
        if session.heir is not None:
            ring(session.heir)
        if run.branch and run.finished_at is not None:
            transaction.on_commit(lambda: join_branches(run.parent_id), robust=True)
