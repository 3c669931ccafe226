"""Starting a run: validated, idempotent, inside the caller's transaction."""

import uuid
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from pydantic import BaseModel, ValidationError

from workflows import clock
from workflows.crashpoints import crashpoint
from workflows.definition import Definition, find_definition
from workflows.doorbell import ring
from workflows.engine.keys import take_key
from workflows.engine.migration import remember
from workflows.engine.plan import at_position
from workflows.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    ObjectParkedError,
    RunArchivedError,
    UnknownWorkflowError,
)
from workflows.history import Chain, output_digest
from workflows.ids import uuid7
from workflows.models import ArchivedRun, Run, VirtualObjectState
from workflows.statements import insert_rows, insert_unless_present
from workflows.states import RunState, WaitingFor

crashpoint.register("engine.started", "the run is committed, no worker knows of it yet")


def start_workflow(
    name: str,
    data: dict[str, Any],
    *,
    idempotency_key: str | None = None,
    scope: str = "",
    correlation_id: str | None = None,
    priority: int | None = None,
    deadline: float | None = None,
) -> tuple[Run, bool]:
    """Start a run of the workflow of this name; return it and whether it is new.

    scope: whose idempotency key it is; keys of different scopes never meet.
    Raises UnknownWorkflowError, InvalidInputError, IdempotencyConflictError, RunArchivedError, ObjectParkedError; nothing
    is stored then.
    """
    definition = find_definition(name)
    if definition is None:
        raise UnknownWorkflowError(f"there is no workflow named {name!r}")
    return start_run(
        definition,
        parse_input(definition, data),
        idempotency_key=idempotency_key,
        scope=scope,
        correlation_id=correlation_id,
        priority=priority,
        deadline=deadline,
    )


def parse_input(definition: Definition, data: Any) -> BaseModel:
    """Return the input as the workflow's model. Raises InvalidInputError with the fields named."""
    return read_input(definition.input_model, data, f"the input of {definition.name}")


def read_input(model: type[BaseModel], data: Any, what: str) -> BaseModel:
    """Return the data as the model. Raises InvalidInputError with the fields named."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidInputError(f"{what} is not valid", [dict(e) for e in errors]) from None


def start_run(
    definition: Definition,
    data: BaseModel,
    *,
    idempotency_key: str | None = None,
    scope: str = "",
    correlation_id: str | None = None,
    priority: int | None = None,
    deadline: float | None = None,
    **columns: Any,
) -> tuple[Run, bool]:
    """Start a run of a definition; `columns` are further ones of its row, for the engine itself."""
    definition.require_sound()
    stored = data.model_dump(mode="json")
    digest = output_digest(stored)
    run = new_run(
        definition,
        input=stored,
        input_hash=digest,
        scope=scope,
        idempotency_key=idempotency_key,
        correlation_id=correlation_id or uuid.uuid4().hex,
        object_key=definition.key_for(data),
        **columns,
    )
    if priority is not None:
        run.priority = priority
    if deadline or definition.deadline:
        run.deadline_at = run.created_at + timedelta(seconds=deadline or definition.deadline or 0)
    remember(definition)
    first = _insert_keyed(run, definition) if run.object_key else _insert_alone(run)
    if first is not None:
        return first, False
    transaction.on_commit(lambda: crashpoint("engine.started"))
    ring(run)
    return run, True


def _insert_alone(run: Run) -> Run | None:
    """Insert a run that needs no key, in one statement; or return the run that has its idempotency key."""
    chain = _begin_history(run)
    if insert_unless_present(run, chain.take()):
        return None
    first = _first_run(run)
    if first is None:
        raise IntegrityError(f"run {run.pk} could not be inserted")
    return first


def _insert_keyed(run: Run, definition: Definition) -> Run | None:
    """Insert a run and let it take its key, or queue for it; or return the run that has its idempotency key."""
    with transaction.atomic():
        first = _first_run(run)
        if first is not None:
            return first
        try:
            with transaction.atomic():
                insert_run(run, definition)
        except IntegrityError:
            # Another start with this idempotency key committed between the look and the insert.
            first = _first_run(run)
            if first is None:
                raise
            return first
    return None


def new_run(definition: Definition, **columns: Any) -> Run:
    """Return a run that is ready for its first operation, not saved."""
    first = at_position(definition, 0)
    assert first is not None
    at = clock.now()
    defaults = {"queue": first.step.queue, "operation": first.operation_id, "priority": definition.priority}
    return Run(
        id=uuid7(),
        workflow=definition.name,
        version=definition.version,
        fingerprint=definition.fingerprint,
        created_at=at,
        wake_at=clock.at_once(),
        **{**defaults, **columns},
    )


def insert_run(run: Run, definition: Definition, **forked: Any) -> None:
    """Insert a new run with the beginning of its history; it takes its key, or queues for it.

    forked: what the history says of the run that it was forked from.
    """
    if run.object_key and definition.on_dead_letter == "park":
        _refuse_parked(run.object_key)
    if not take_key(run):
        run.state, run.waiting_for, run.wake_at = RunState.WAITING, WaitingFor.KEY, None
    chain = _begin_history(run, **forked)
    insert_rows([run])
    chain.save()


def _begin_history(run: Run, **forked: Any) -> Chain:
    chain = Chain(run)
    chain.add(
        "run_started",
        run.created_at,
        workflow=run.workflow,
        version=run.version,
        input=run.input_hash,
        key=run.object_key,
    )
    if forked:
        chain.add("run_forked", run.created_at, **forked)
    run.history_seq, run.history_hash = chain.seq, chain.hash
    return chain


def _refuse_parked(key: str) -> None:
    stopped = VirtualObjectState.objects.filter(key=key, holder__state=RunState.DEAD_LETTER).first()
    if stopped is not None:
        raise ObjectParkedError(
            f"{key} takes nothing new: run {stopped.holder_id} holds it and waits for a person"
        )


def _first_run(run: Run) -> Run | None:
    """Return the run that was started with this one's idempotency key.

    Raises IdempotencyConflictError, or RunArchivedError: that run is not here any more, and the key stays used up.
    """
    key = run.idempotency_key
    if key is None:
        return None
    same = {"workflow": run.workflow, "scope": run.scope, "idempotency_key": key}
    first = Run.objects.filter(**same).first()
    if first and run.input_hash != first.input_hash and run.input_hash != _hash_at_start(first):
        raise IdempotencyConflictError(
            f"idempotency key {key!r} was used for run {first.pk} with another input", str(first.pk)
        )
    archived = None if first else ArchivedRun.objects.filter(**same).order_by("-pk").first()
    if archived:
        text = f"run {archived.run_id}, which ended {archived.state} and is archived in {archived.file}"
        raise RunArchivedError(f"idempotency key {key!r} was used for {text}", str(archived.run_id))
    return first


def _hash_at_start(run: Run) -> Any:
    """Return the digest of the input that the run was started with; a person may have edited it since."""
    return run.events.filter(seq=1).values_list("data__input", flat=True).first()
