"""Workflows over REST: the definitions, runs, their history, and the dead letters."""

from collections import defaultdict
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Query, Router, Schema
from pydantic import ConfigDict, Field, field_validator

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER, actor, caller, scope
from dalp.api.idempotency import once
from dalp.api.pagination import FilterText, Page, instant, paginate, refuse_unknown
from dalp.api.problems import not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from workflows import definitions, find_definition, replay_dead_letter, start_workflow
from workflows.models import DeadLetter, Event, Run, Step, Wait
from workflows.states import DeadLetterState, RunState

router = Router(tags=["workflows"], auth=VIEWER)


class RunFilters(Page):
    """Which runs to list."""

    state: RunState | None = None
    workflow: FilterText | None = None
    correlation_id: FilterText | None = None


class DeadLetterFilters(Page):
    """Which dead letters to list."""

    state: DeadLetterState | None = None
    run_id: UUID | None = None


class StartRun(Schema):
    """What to start: the input of the workflow, by its input schema."""

    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any]


class Decision(Schema):
    """Why somebody intervenes."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=1000)

    @field_validator("reason")
    @classmethod
    def says_something(cls, reason: str) -> str:
        """Refuse a reason of nothing but spaces."""
        if not reason.strip():
            raise ValueError("must say why")
        return reason.strip()


def transactions_by_operation(waits: "list[Wait]") -> dict[str, list[str]]:
    """Return the transactions of each operation's latest attempt, in the order in which the step asked for them."""
    latest: dict[str, int] = defaultdict(int)
    for wait in waits:
        latest[wait.operation_id] = max(latest[wait.operation_id], wait.attempt)
    found: dict[str, list[str]] = defaultdict(list)
    for wait in sorted(waits, key=lambda wait: wait.index):
        if wait.kind == "transaction" and wait.attempt == latest[wait.operation_id]:
            found[wait.operation_id].append(wait.reference)
    return found


def present_step(step: Step, transactions: list[str]) -> dict[str, Any]:
    """Return a step as the API shows it. `transaction_id` is the first when the step sent several."""
    return {
        "name": step.name,
        "operation_id": step.operation_id,
        "state": step.state,
        "attempt": step.attempt,
        "output": step.output,
        "error": step.error,
        "transaction_id": transactions[0] if transactions else None,
        "transaction_ids": transactions,
        "started_at": instant(step.started_at),
        "finished_at": instant(step.finished_at),
    }


def present_run(run: Run) -> dict[str, Any]:
    """Return a run as the API shows it."""
    transactions = transactions_by_operation(list(run.waits.all()))
    steps = sorted(run.steps.all(), key=lambda step: step.seq)
    return {
        "id": str(run.pk),
        "workflow": run.workflow,
        "version": run.version,
        "state": run.state,
        "waiting_for": run.waiting_for,
        "input": run.input,
        "output": run.output,
        "error": run.error,
        "correlation_id": run.correlation_id,
        "created_at": instant(run.created_at),
        "finished_at": instant(run.finished_at),
        "steps": [present_step(step, transactions.get(step.operation_id, [])) for step in steps],
    }


def present_event(event: Event) -> dict[str, Any]:
    """Return an entry of a run's history as the API shows it."""
    return {
        "seq": event.seq,
        "kind": event.kind,
        "at": instant(event.at),
        "data": event.data,
        "previous_hash": event.previous_hash,
        "hash": event.hash,
    }


def present_dead_letter(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as the API shows it."""
    return {
        "id": str(letter.pk),
        "run_id": str(letter.run_id),
        "operation_id": letter.operation_id,
        "reason": letter.reason,
        "error": letter.error,
        "state": letter.state,
        "created_at": instant(letter.created_at),
        "resolved_at": instant(letter.resolved_at),
        "resolved_by": letter.resolved_by,
        "resolution": letter.resolution,
        "note": letter.note,
    }


def runs() -> "QuerySet[Run]":
    """Return all runs with what showing them needs, in three queries whatever their number."""
    return Run.objects.prefetch_related("steps", "waits")


@router.get(
    "/workflows",
    response={200: Listing[schemas.Definition], **READ},
    summary="The workflows that can be started",
)
def list_workflows(request: HttpRequest) -> dict[str, Any]:
    """List every definition with its steps and the JSON schema of its input."""
    items = [
        {
            "name": definition.name,
            "version": definition.version,
            "steps": [{"name": step.name, "effect": step.effect} for step in definition.steps],
            "input_schema": definition.input_model.model_json_schema(),
        }
        for definition in sorted(definitions(), key=lambda definition: (definition.name, definition.version))
    ]
    return {"items": items, "next_cursor": None}


@router.post(
    "/workflows/{name}/runs",
    auth=OPERATOR,
    response={202: schemas.Run, **WRITE},
    openapi_extra=idempotency_key(required=True),
    summary="Start a run",
)
def start_run(request: HttpRequest, name: str, payload: StartRun) -> HttpResponse:
    """Start a run of the workflow; needs an Idempotency-Key."""
    if find_definition(name) is None:
        raise not_found("workflow")

    def start(key: str) -> dict[str, Any]:
        run, _ = start_workflow(
            name,
            payload.input,
            idempotency_key=key,
            scope=scope(caller(request)),
            correlation_id=request.correlation_id,  # type: ignore[attr-defined]
        )
        return present_run(run)

    return once(request, payload.model_dump(mode="json"), start)


@router.get("/runs", response={200: Listing[schemas.Run], **READ}, summary="Runs, newest first")
def list_runs(request: HttpRequest, filters: Query[RunFilters]) -> dict[str, Any]:
    """List runs; `created_after` is an instant with its offset."""
    wanted = filters.model_dump(include={"state", "workflow", "correlation_id"}, exclude_none=True)
    return paginate(request, runs().filter(**wanted), filters, present_run)


@router.get("/runs/{uuid:run_id}", response={200: schemas.Run, **READ}, summary="One run with its steps")
def show_run(request: HttpRequest, run_id: UUID) -> dict[str, Any]:
    """Show a run."""
    run = runs().filter(pk=run_id).first()
    if run is None:
        raise not_found("run")
    return present_run(run)


class HistoryPage(Schema):
    """A part of a history. Unlike other lists it runs from the oldest on: each event proves the one before."""

    limit: int = Field(1000, ge=1, le=5000)
    cursor: int = Field(0, ge=0, le=2**31 - 1)


@router.get(
    "/runs/{uuid:run_id}/history",
    response={200: schemas.History, **READ},
    summary="The events of a run, in their order",
)
def show_history(request: HttpRequest, run_id: UUID, page: Query[HistoryPage]) -> dict[str, Any]:
    """Show the hash chain of a run from its first event on."""
    refuse_unknown(request, page)
    run = Run.objects.filter(pk=run_id).first()
    if run is None:
        raise not_found("run")
    found = list(Event.objects.filter(run=run, seq__gt=page.cursor).order_by("seq")[: page.limit + 1])
    shown = found[: page.limit]
    return {
        "run_id": str(run.pk),
        "items": [present_event(event) for event in shown],
        "next_cursor": str(shown[-1].seq) if len(found) > page.limit else None,
    }


@router.get(
    "/dead-letters",
    response={200: Listing[schemas.DeadLetter], **READ},
    summary="Runs that need a person, newest first",
)
def list_dead_letters(request: HttpRequest, filters: Query[DeadLetterFilters]) -> dict[str, Any]:
    """List dead letters, open and resolved."""
    wanted = filters.model_dump(include={"state", "run_id"}, exclude_none=True)
    return paginate(request, DeadLetter.objects.filter(**wanted), filters, present_dead_letter)


@router.post(
    "/dead-letters/{uuid:letter_id}/replay",
    auth=OPERATOR,
    summary="Try the failed step again",
    response={202: schemas.DeadLetter, **WRITE},
    openapi_extra=idempotency_key(required=False),
)
def replay(request: HttpRequest, letter_id: UUID, payload: Decision) -> HttpResponse:
    """Give the run's failed step new attempts; needs a reason.

    An Idempotency-Key is taken but not required: a dead letter is resolved once, so a second replay is refused anyway.
    """
    if not DeadLetter.objects.filter(pk=letter_id).exists():
        raise not_found("dead letter")

    def act(_key: str) -> dict[str, Any]:
        letter = replay_dead_letter(letter_id, actor=actor(caller(request)), reason=payload.reason)
        return present_dead_letter(letter)

    if "Idempotency-Key" not in request.headers:
        return JsonResponse(act(""), status=202)
    return once(request, payload.model_dump(mode="json"), act)
