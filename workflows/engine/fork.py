"""Forking: a new run of the newest definition that begins at a step, with the outcomes of an older run behind it.

The new run is one of its own: its operations have other keys than those of the old run, so what it carries out again
happens again. What was copied it undoes when it fails, unless the old run succeeded or another fork has done so: then
somebody counts on it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ValidationError

from workflows.definition import Definition, find_definition
from workflows.doorbell import ring
from workflows.engine.acts import note_act
from workflows.engine.cycles import require_no_cycle
from workflows.engine.ending import call_off, end_at_once, failure
from workflows.engine.letters import lock_run, resolve_letters
from workflows.engine.migration import remember, shape_of
from workflows.engine.plan import Planned, at_position, find_operation, operation_id
from workflows.engine.start import insert_run, new_run, parse_input
from workflows.engine.transactions import in_one_transaction
from workflows.errors import InvalidInputError, NotPossibleError, PermanentError, UnknownWorkflowError
from workflows.history import output_digest
from workflows.models import Payload, Run, Step, Wait
from workflows.states import TERMINAL, RunState, StepState, WaitState

FORKED = "RUN_FORKED"
CHUNK = 1000


@in_one_transaction
def fork_run(
    run_id: Any,
    from_step: str,
    *,
    actor: str,
    reason: str,
    input: BaseModel | dict[str, Any] | None = None,
) -> Run:
    """Start a run of the newest definition at a step, with what lies before it copied; return the new run.

    from_step: a step's name; one that is carried out for a list begins with the whole list. input: instead of the old
    run's. A run that waits for a person is ended, undoing nothing, and the new one takes its place: in the queue for
    its key as a new one, with a run that waits for it as if it had been the one from the start. One that has ended
    stays as it is.
    Raises Run.DoesNotExist, UnknownWorkflowError, InvalidInputError, ObjectParkedError, NotPossibleError (it is live,
    or a branch, or was forked already, or it doesn't have behind it what it would need).
    """
    origin = _lock(run_id)
    definition = find_definition(origin.workflow)
    if definition is None:
        raise UnknownWorkflowError(f"no workflow named {origin.workflow!r} is known here")
    definition.require_sound()
    planned = _beginning(definition, from_step)
    past = _Past(origin, definition, planned)
    past.require_complete()
    run = _new(origin, definition, planned, input)
    if origin.state == RunState.DEAD_LETTER:
        _take_its_place(origin, run, actor, reason)
    elif run.parent_id is not None:
        run.parent_id = None  # nobody waits for it any more
    remember(definition)
    insert_run(
        run,
        definition,
        origin=str(origin.pk),
        step=planned.operation_id,
        actor=actor,
        reason=reason,
        copied=past.digests(),
    )
    past.copy_to(run)
    note_act(actor, "fork", f"run:{origin.pk}", reason, step=from_step, fork=str(run.pk))
    ring(run)
    return run


def _lock(run_id: Any) -> Run:
    """Lock the run, and before it the one that waits for it."""
    parent_id = Run.objects.values_list("parent_id", flat=True).get(pk=run_id)
    if parent_id is not None:
        lock_run(parent_id)
    run = lock_run(run_id)
    if run.branch:
        raise NotPossibleError(f"run {run.pk} is the branch {run.branch} of run {run.parent_id}: fork that")
    if (run.error or {}).get("code") == FORKED:
        fork = run.forks.order_by("pk").first()
        raise NotPossibleError(
            f"run {run.pk} was forked already, into {fork.pk if fork else 'another'}: fork that"
        )
    if run.state not in TERMINAL and run.state != RunState.DEAD_LETTER:
        raise NotPossibleError(f"run {run.pk} is {run.state}: cancel it first, or wait for its end")
    return run


def _beginning(definition: Definition, from_step: str) -> Planned:
    name = from_step.partition("#")[0].removesuffix("*")
    position = definition.group_of.get(name)
    planned = None if position is None else at_position(definition, position)
    if planned is None:
        text = f"{definition.name} has no step {from_step!r}; it has {', '.join(s.name for s in definition.steps)}"
        raise InvalidInputError(text, [{"loc": (), "msg": text}], "from")
    return planned


def _new(origin: Run, definition: Definition, planned: Planned, given: Any) -> Run:
    data = parse_input(definition, origin.input if given is None else given)
    stored = data.model_dump(mode="json")
    run = new_run(
        definition,
        input=stored,
        input_hash=output_digest(stored),
        scope=origin.scope,
        correlation_id=origin.correlation_id,
        priority=origin.priority,
        object_key=definition.key_for(data),
        operation=planned.operation_id,
        position=planned.position,
        queue=planned.step.queue,
        forked_from=origin,
        parent_id=origin.parent_id,
    )
    if definition.deadline:
        run.deadline_at = run.created_at + timedelta(seconds=definition.deadline)
    return run


def _take_its_place(origin: Run, run: Run, actor: str, reason: str) -> None:
    """End the run that waits for a person; who waits for it waits for the new one from now on."""
    unstoppable = call_off(origin)
    if unstoppable:
        named = ", ".join(f"{wait.kind} {wait.reference}" for wait in unstoppable[:5])
        raise NotPossibleError(
            f"what run {origin.pk} has asked for can't be called off: {named}; wait for its end"
        )
    waiting = Wait.objects.filter(kind="run", reference=str(origin.pk), state=WaitState.PENDING)
    if waiting.update(reference=str(run.pk)) == 0:
        run.parent_id = None
    elif run.object_key != origin.object_key:
        _refuse_cycle(run)
    resolve_letters(origin, "fork", actor, reason)
    error = failure(FORKED, actor, reason, origin)
    end_at_once(origin, RunState.CANCELLED, "run_superseded", error, actor, reason, fork=str(run.pk))


def _refuse_cycle(run: Run) -> None:
    try:
        require_no_cycle(run.parent_id, run.object_key)
    except PermanentError as error:
        raise NotPossibleError(error.message) from None


@dataclass
class _Past:
    """What the old run has behind it, as far as the new one needs it."""

    origin: Run
    definition: Definition
    planned: Planned

    def __post_init__(self) -> None:
        before = self.definition.groups[: self.planned.position]
        self.steps = [self.definition.steps[place] for group in before for place in group]
        self.rows = Step.objects.filter(run=self.origin, name__in=[step.name for step in self.steps])

    def require_complete(self) -> None:
        """Refuse a step that the old run never came to, or whose past is undone or doesn't suit the definition."""
        self._require_reached()
        done = [StepState.SUCCEEDED, StepState.SKIPPED]
        other = self.rows.exclude(state__in=done).order_by("seq").first()
        if other is not None:
            raise NotPossibleError(
                f"{other.operation_id} is {other.state} in run {self.origin.pk}: fork from there"
            )
        present = set(self.rows.values_list("name", flat=True).distinct())
        old = {step["name"]: step for step in shape_of(self.origin.fingerprint)}
        for step in self.steps:
            each = step.each is not None
            known = old.get(step.name)
            if (step.name not in present and (known is None or not each)) or (
                known and known["each"] != each
            ):
                raise NotPossibleError(
                    f"{step.name} was added or changed since run {self.origin.pk}: fork from there"
                )
        if self.origin.fingerprint != self.definition.fingerprint:
            self._require_types()

    def _require_reached(self) -> None:
        """Groups follow one another, so whatever lies before the furthest one that was begun is complete."""
        names = {
            self.origin.operation.partition("#")[0].removesuffix("*"),
            (self.origin.error or {}).get("step"),
        }
        names |= set(Step.objects.filter(run=self.origin).values_list("name", flat=True).distinct())
        groups = self.definition.group_of
        furthest = max((groups[name] for name in names if name in groups), default=0)
        if self.planned.position > furthest and self.origin.state != RunState.SUCCEEDED:
            raise NotPossibleError(f"run {self.origin.pk} never came to {self.planned.step.name}")

    def _require_types(self) -> None:
        places = self.definition.places
        for row, output in self._outputs():
            if row.state == StepState.SUCCEEDED:
                try:
                    self.definition.steps[places[row.name]].output.validate_python(output)
                except ValidationError:
                    text = f"the output of {row.operation_id} is not what {row.name} returns today: fork from there"
                    raise NotPossibleError(text) from None

    def _outputs(self) -> Iterator[tuple[Step, Any]]:
        for row in self.rows.order_by("name", "index").iterator(CHUNK):
            yield row, self._payload(row) if row.large else row.output

    def _payload(self, row: Step) -> Any:
        return Payload.objects.get(run=self.origin, operation_id=row.operation_id).data

    def digests(self) -> dict[str, str]:
        """Return a digest for each step; for one with a list, of the digests of its items."""
        listed = {step.name for step in self.steps if step.each is not None}
        single: dict[str, str] = {}
        lists = {name: hashlib.sha256() for name in sorted(listed)}
        for row, output in self._outputs():
            digest = f"{row.state} {output_digest(output)}"
            if row.name in listed:
                lists[row.name].update(f"{row.operation_id} {digest}\n".encode())
            else:
                single[row.operation_id] = (
                    digest.partition(" ")[2] if row.state == StepState.SUCCEEDED else row.state
                )
        return single | {f"{name}*": digest.hexdigest() for name, digest in lists.items()}

    def copy_to(self, run: Run) -> None:
        """Copy the rows, and the outputs that are kept beside them."""
        others = Run.objects.filter(forked_from=self.origin).exclude(pk=run.pk)
        borrowed = self.origin.state == RunState.SUCCEEDED or others.exists()
        for chunk in _chunks(self.rows.order_by("name", "index").iterator(CHUNK)):
            large = {row.operation_id for row in chunk if row.large}
            Step.objects.bulk_create([self._copy(row, run, borrowed) for row in chunk])
            Payload.objects.bulk_create(
                Payload(run=run, operation_id=each.operation_id, data=each.data)
                for each in Payload.objects.filter(run=self.origin, operation_id__in=large)
            )

    def _copy(self, row: Step, run: Run, borrowed: bool) -> Step:
        planned = find_operation(self.definition, operation_id(row.name, row.index))
        assert planned is not None
        row.pk, row.run, row.seq = None, run, planned.seq
        row.borrowed = row.borrowed or borrowed
        return row


def _chunks(rows: Iterable[Step]) -> Iterator[list[Step]]:
    chunk: list[Step] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
