"""Runs over REST: following them, and what people may do to one."""

from typing import Annotated, Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Path, Query, Router, Schema
from pydantic import ConfigDict, Field, JsonValue

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER, actor, caller
from dalp.api.decisions import Decision, by, carried_out, require
from dalp.api.idempotency import once
from dalp.api.pagination import FilterText, Page, instant, paginate, refuse_unknown
from dalp.api.presenting import present_run, present_run_in_full, runs
from dalp.api.problems import not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from workflows import (
    cancel_run,
    compensate_run,
    fork_run,
    kill_run,
    pause_run,
    resume_run,
    send_signal,
)
from workflows.models import Event, Run, Signal
from workflows.states import RunState

router = Router(tags=["runs"], auth=VIEWER)

CONTROL: dict[str, Any] = {"auth": OPERATOR, "response": {202: schemas.Run, **WRITE}}
OPTIONAL_KEY = idempotency_key(required=False)


class RunFilters(Page):
    """Which runs to list. The branches of a run are listed only when it is named as their parent."""

    state: RunState | None = None
    workflow: FilterText | None = None
    correlation_id: FilterText | None = None
    parent_id: UUID | None = None


class SendSignal(Schema):
    """A message to a run."""

    model_config = ConfigDict(extra="forbid")

    payload: JsonValue = None
    dedup_id: str | None = Field(
        None, min_length=1, max_length=255, description="the same again changes nothing"
    )


class ForkRun(Decision):
    """Where a new run begins, and with what input if not the old run's."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)

    from_step: str = Field(alias="from", min_length=1, max_length=120, description="the name of a step")
    input: dict[str, JsonValue] | None = None


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


def present_signal(signal: Signal) -> dict[str, Any]:
    """Return a signal as the API shows it."""
    return {
        "id": str(signal.pk),
        "run_id": str(signal.run_id),
        "name": signal.name,
        "dedup_id": signal.dedup_id,
        "sender": signal.sender,
        "created_at": instant(signal.created_at),
    }


@router.get("/runs", response={200: Listing[schemas.Run], **READ}, summary="Runs, newest first")
def list_runs(request: HttpRequest, filters: Query[RunFilters]) -> dict[str, Any]:
    """List runs; `created_after` is an instant with its offset."""
    names = {"state", "workflow", "correlation_id", "parent_id"}
    wanted = filters.model_dump(include=names, exclude_none=True)
    if filters.parent_id is None:
        wanted["branch"] = ""
    return paginate(request, runs().filter(**wanted), filters, present_run)


@router.get("/runs/{uuid:run_id}", response={200: schemas.Run, **READ}, summary="One run with its steps")
def show_run(request: HttpRequest, run_id: UUID) -> dict[str, Any]:
    """Show a run."""
    run = runs().filter(pk=run_id).first()
    if run is None:
        raise not_found("run")
    return present_run_in_full(run)


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
    require(Run, run_id, "run")
    found = list(Event.objects.filter(run_id=run_id, seq__gt=page.cursor).order_by("seq")[: page.limit + 1])
    shown = found[: page.limit]
    return {
        "run_id": str(run_id),
        "items": [present_event(event) for event in shown],
        "next_cursor": str(shown[-1].seq) if len(found) > page.limit else None,
    }


@router.post(
    "/runs/{uuid:run_id}/signals/{name}",
    auth=OPERATOR,
    summary="Send a run a signal",
    response={202: schemas.Signal, **WRITE},
    openapi_extra=OPTIONAL_KEY,
)
def signal(
    request: HttpRequest,
    run_id: UUID,
    # Names with a colon are the engine's own: what ends a wait for a completion token.
    name: Annotated[str, Path(pattern=r"^[^\x00:/]{1,100}$")],
    payload: SendSignal,
) -> HttpResponse:
    """Send a signal. One that comes before the run waits for it is kept; one `dedup_id` counts once."""
    require(Run, run_id, "run")

    def act() -> dict[str, Any]:
        sender = actor(caller(request))
        sent = send_signal(run_id, name, payload.payload, dedup_id=payload.dedup_id, sender=sender)
        return present_signal(sent)

    return carried_out(request, payload, act)


def control(request: HttpRequest, run_id: UUID, payload: Decision, do: Any) -> HttpResponse:
    """Do something to a run and show it."""
    require(Run, run_id, "run")

    def act() -> dict[str, Any]:
        do(run_id, **by(request, payload))
        return present_run(runs().get(pk=run_id))

    return carried_out(request, payload, act)


@router.post(
    "/runs/{uuid:run_id}/cancel", summary="Stop a run and undo it", openapi_extra=OPTIONAL_KEY, **CONTROL
)
def cancel(request: HttpRequest, run_id: UUID, payload: Decision) -> HttpResponse:
    """Finish the step at hand, undo what was done, end CANCELLED."""
    return control(request, run_id, payload, cancel_run)


@router.post(
    "/runs/{uuid:run_id}/pause", summary="Keep a run from going on", openapi_extra=OPTIONAL_KEY, **CONTROL
)
def pause(request: HttpRequest, run_id: UUID, payload: Decision) -> HttpResponse:
    """Finish the step at hand and begin no other; timers keep their instants."""
    return control(request, run_id, payload, pause_run)


@router.post(
    "/runs/{uuid:run_id}/resume", summary="Let a paused run go on", openapi_extra=OPTIONAL_KEY, **CONTROL
)
def resume(request: HttpRequest, run_id: UUID, payload: Decision) -> HttpResponse:
    """Go on where it was."""
    return control(request, run_id, payload, resume_run)


@router.post(
    "/runs/{uuid:run_id}/compensate",
    summary="Give a run up and undo it",
    openapi_extra=OPTIONAL_KEY,
    **CONTROL,
)
def compensate(request: HttpRequest, run_id: UUID, payload: Decision) -> HttpResponse:
    """Finish the step at hand, undo what was done, end COMPENSATED or FAILED."""
    return control(request, run_id, payload, compensate_run)


@router.post(
    "/runs/{uuid:run_id}/kill", summary="End a run, undoing nothing", openapi_extra=OPTIONAL_KEY, **CONTROL
)
def kill(request: HttpRequest, run_id: UUID, payload: Decision) -> HttpResponse:
    """End at once, CANCELLED, with its branches and children. What was sent stays sent."""
    return control(request, run_id, payload, kill_run)


@router.post(
    "/runs/{uuid:run_id}/fork",
    summary="Start a new run from a step of this one",
    openapi_extra=idempotency_key(required=True),
    **CONTROL,
)
def fork(request: HttpRequest, run_id: UUID, payload: ForkRun) -> HttpResponse:
    """Start a run of the newest definition at that step, with the outputs before it; needs an Idempotency-Key.

    A run that waits for a person is ended, undoing nothing; one that has ended stays as it is; a live one is refused.
    """
    require(Run, run_id, "run")

    def start(_key: str) -> dict[str, Any]:
        new = fork_run(run_id, payload.from_step, input=payload.input, **by(request, payload))
        return present_run(runs().get(pk=new.pk))

    return once(request, payload.model_dump(mode="json", by_alias=True), start)
