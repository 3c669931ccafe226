"""Dead letters over REST: what needs a person, in groups of those alike, and what a person decides about one."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema
from pydantic import Field, JsonValue

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER
from dalp.api.decisions import Decision, by, carried_out, require
from dalp.api.pagination import FilterText, Page, instant, paginate, refuse_unknown
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from workflows import (
    LetterGroup,
    compensate_dead_letter,
    complete_dead_letter,
    discard_dead_letter,
    grouped_letters,
    replay_dead_letter,
    skip_dead_letter,
)
from workflows.models import DeadLetter
from workflows.states import DeadLetterState

router = Router(tags=["dead letters"], auth=VIEWER)

DECIDING: dict[str, Any] = {
    "auth": OPERATOR,
    "response": {202: schemas.DeadLetter, **WRITE},
    "openapi_extra": idempotency_key(required=False),
}


class DeadLetterFilters(Page):
    """Which dead letters to list."""

    state: DeadLetterState | None = None
    run_id: UUID | None = None
    workflow: FilterText | None = None
    fingerprint: FilterText | None = None


class GroupFilters(Schema):
    """Of which dead letters to show the groups."""

    state: DeadLetterState = DeadLetterState.OPEN
    workflow: FilterText | None = None
    limit: int = Field(100, ge=1, le=500)


class Replay(Decision):
    """Why the step is tried again, and with what."""

    input: JsonValue = Field(None, description="instead of the run's input; of a branch, instead of its item")


class Completion(Decision):
    """Why the step is taken as done, and with what output."""

    value: JsonValue = Field(None, description="of the step's output type")


def present_dead_letter(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as the API shows it."""
    return {
        "id": str(letter.pk),
        "run_id": str(letter.run_id),
        "workflow": letter.workflow,
        "operation_id": letter.operation_id,
        "reason": letter.reason,
        "error": letter.error,
        "fingerprint": letter.fingerprint,
        "state": letter.state,
        "created_at": instant(letter.created_at),
        "resolved_at": instant(letter.resolved_at),
        "resolved_by": letter.resolved_by,
        "resolution": letter.resolution,
        "note": letter.note,
    }


def present_group(group: LetterGroup) -> dict[str, Any]:
    """Return a group of dead letters that are one trouble as the API shows it."""
    return {
        "fingerprint": group.fingerprint,
        "count": group.count,
        "first_at": instant(group.first_at),
        "last_at": instant(group.last_at),
        "sample": present_dead_letter(group.sample),
    }


@router.get(
    "/dead-letters",
    response={200: Listing[schemas.DeadLetter], **READ},
    summary="Runs that need a person, newest first",
)
def list_dead_letters(request: HttpRequest, filters: Query[DeadLetterFilters]) -> dict[str, Any]:
    """List dead letters, open and resolved."""
    names = {"state", "run_id", "workflow", "fingerprint"}
    wanted = filters.model_dump(include=names, exclude_none=True)
    return paginate(request, DeadLetter.objects.filter(**wanted), filters, present_dead_letter)


@router.get(
    "/dead-letters/groups",
    response={200: Listing[schemas.LetterGroup], **READ},
    summary="Dead letters that are one trouble, the most frequent first",
)
def list_groups(request: HttpRequest, filters: Query[GroupFilters]) -> dict[str, Any]:
    """Show how many dead letters differ only in numbers and names, since when, and the newest of each group."""
    refuse_unknown(request, filters)
    wanted = filters.model_dump(include={"state", "workflow"}, exclude_none=True)
    groups = grouped_letters(DeadLetter.objects.filter(**wanted), limit=filters.limit)
    return {"items": [present_group(group) for group in groups], "next_cursor": None}


def decide(
    request: HttpRequest, letter_id: UUID, payload: Decision, how: Callable[..., DeadLetter], **more: Any
) -> HttpResponse:
    """Carry a decision out and show what became of the dead letter.

    An Idempotency-Key is taken but not required: a dead letter is resolved once, so a second decision is refused anyway.
    """
    require(DeadLetter, letter_id, "dead letter")

    def act() -> dict[str, Any]:
        return present_dead_letter(how(letter_id, **by(request, payload), **more))

    return carried_out(request, payload, act)


@router.post("/dead-letters/{uuid:letter_id}/replay", summary="Try the failed step again", **DECIDING)
def replay(request: HttpRequest, letter_id: UUID, payload: Replay) -> HttpResponse:
    """Give the run's failed step new attempts, with its input as it was or another one; needs a reason."""
    return decide(request, letter_id, payload, replay_dead_letter, input=payload.input)


@router.post("/dead-letters/{uuid:letter_id}/complete", summary="Take the failed step as done", **DECIDING)
def complete(request: HttpRequest, letter_id: UUID, payload: Completion) -> HttpResponse:
    """Give the step its output by hand, and let the run go on behind it; an undo counts as undone."""
    return decide(request, letter_id, payload, complete_dead_letter, value=payload.value)


@router.post("/dead-letters/{uuid:letter_id}/skip", summary="Leave the failed step out", **DECIDING)
def skip(request: HttpRequest, letter_id: UUID, payload: Decision) -> HttpResponse:
    """Let the run go on behind the step, whose output is null; refused where a later step needs it."""
    return decide(request, letter_id, payload, skip_dead_letter)


@router.post("/dead-letters/{uuid:letter_id}/compensate", summary="Give the run up and undo it", **DECIDING)
def compensate(request: HttpRequest, letter_id: UUID, payload: Decision) -> HttpResponse:
    """Undo what the run has done, and the failed step, too, when it may have happened."""
    return decide(request, letter_id, payload, compensate_dead_letter)


@router.post("/dead-letters/{uuid:letter_id}/discard", summary="Give the run up, undoing nothing", **DECIDING)
def discard(request: HttpRequest, letter_id: UUID, payload: Decision) -> HttpResponse:
    """End the run FAILED."""
    return decide(request, letter_id, payload, discard_dead_letter)
