"""Starting a run: validated, idempotent, inside the caller's transaction."""

import hashlib
import json
import uuid
from typing import Any

from django.db import IntegrityError, transaction
from pydantic import BaseModel, ValidationError

from workflows.crashpoints import crashpoint
from workflows.definition import Definition, find_definition
from workflows.doorbell import ring
from workflows.engine.keys import take_key
from workflows.errors import IdempotencyConflictError, InvalidInputError, UnknownWorkflowError
from workflows.history import Chain
from workflows.ids import uuid7
from workflows.leases import db_now
from workflows.models import Run
from workflows.states import RunState, WaitingFor

crashpoint.register("engine.started", "the run is committed, no worker knows of it yet")


def start_workflow(
    name: str,
    data: dict[str, Any],
    *,
    idempotency_key: str | None = None,
    scope: str = "",
    correlation_id: str | None = None,
) -> tuple[Run, bool]:
    """Start a run of the workflow of this name; return it and whether it is new.

    scope: whose idempotency key it is; keys of different scopes never meet.
    Raises UnknownWorkflowError, InvalidInputError, IdempotencyConflictError; nothing is stored then.
    """
    definition = find_definition(name)
    if definition is None:
        raise UnknownWorkflowError(f"there is no workflow named {name!r}")
    try:
        parsed = definition.input_model.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidInputError(f"the input of {name} is not valid", [dict(e) for e in errors]) from None
    return start_run(
        definition, parsed, idempotency_key=idempotency_key, scope=scope, correlation_id=correlation_id
    )


def start_run(
    definition: Definition,
    data: BaseModel,
    *,
    idempotency_key: str | None,
    scope: str,
    correlation_id: str | None,
) -> tuple[Run, bool]:
    stored = data.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    with transaction.atomic():
        if idempotency_key is not None:
            first = _first_run(definition, scope, idempotency_key, digest)
            if first:
                return first, False
        run = Run(
            id=uuid7(),
            workflow=definition.name,
            version=definition.version,
            fingerprint=definition.fingerprint,
            queue=definition.steps[0].queue,
            input=stored,
            input_hash=digest,
            scope=scope,
            idempotency_key=idempotency_key,
            correlation_id=correlation_id or uuid.uuid4().hex,
            object_key=definition.key_for(data),
        )
        try:
            with transaction.atomic():
                _insert(run)
        except IntegrityError:
            # Another start with this key committed between the look and the insert: its run is the answer.
            if idempotency_key is None or not (
                first := _first_run(definition, scope, idempotency_key, digest)
            ):
                raise
            return first, False
        transaction.on_commit(lambda: crashpoint("engine.started"))
        ring(run)
    return run, True


def _insert(run: Run) -> None:
    mine = take_key(run)
    run.state = RunState.READY if mine else RunState.WAITING
    run.waiting_for = WaitingFor.NOTHING if mine else WaitingFor.KEY
    run.wake_at = db_now() if mine else None
    run.save(force_insert=True)
    run.refresh_from_db(fields=["created_at", "wake_at"])
    chain = Chain(run)
    chain.add(
        "run_started",
        run.created_at,
        workflow=run.workflow,
        version=run.version,
        input=run.input_hash,
        key=run.object_key,
    )
    Run.objects.filter(pk=run.pk).update(**chain.head())
    chain.save()
    run.history_seq, run.history_hash = chain.seq, chain.hash


def _first_run(definition: Definition, scope: str, key: str, digest: str) -> Run | None:
    first = Run.objects.filter(workflow=definition.name, scope=scope, idempotency_key=key).first()
    if first and first.input_hash != digest:
        raise IdempotencyConflictError(
            f"idempotency key {key!r} was used for run {first.pk} with another input", str(first.pk)
        )
    return first
