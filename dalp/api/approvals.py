"""What runs wait for from people and from other systems: approvals, and completion tokens."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Query, Router, Schema
from pydantic import ConfigDict, Field, JsonValue, model_validator

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER, actor, caller
from dalp.api.decisions import Word, carried_out, require
from dalp.api.pagination import FilterText, Page, instant, paginate
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from workflows import CommandError, complete_operation, vote
from workflows.models import Approval, Vote

router = Router(tags=["approvals"], auth=VIEWER)

VOTING: dict[str, Any] = {
    "auth": OPERATOR,
    "response": {202: schemas.Approval, **WRITE},
    "openapi_extra": idempotency_key(required=False),
}


class ApprovalFilters(Page):
    """Which approvals to list."""

    state: Approval.State | None = None
    group: FilterText | None = None
    run_id: UUID | None = None


class Failure(Schema):
    """Why what the run waited for has failed."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(min_length=1, max_length=100)
    message: str = Field("", max_length=2000)


class Completion(Schema):
    """How an operation ended outside: with a value, or with an error."""

    model_config = ConfigDict(extra="forbid")

    value: JsonValue = None
    error: Failure | None = None

    @model_validator(mode="after")
    def one_of_both(self) -> "Completion":
        """Refuse an end that is both."""
        if self.error is not None and "value" in self.model_fields_set:
            raise ValueError("give a value or an error, not both")
        return self


def present_vote(given: Vote) -> dict[str, Any]:
    """Return one person's word."""
    return {
        "actor": given.actor,
        "approved": given.approved,
        "reason": given.reason,
        "at": instant(given.created_at),
    }


def present_approval(approval: Approval) -> dict[str, Any]:
    """Return a question to people, with what was said so far."""
    return {
        "id": str(approval.pk),
        "run_id": str(approval.run_id),
        "workflow": approval.run.workflow,
        "operation_id": approval.operation_id,
        "group": approval.group,
        "needed": approval.needed,
        "show": approval.show,
        "state": approval.state,
        "votes": [present_vote(given) for given in approval.votes.all()],
        "due_at": instant(approval.due_at),
        "created_at": instant(approval.created_at),
        "decided_at": instant(approval.decided_at),
    }


@router.get(
    "/approvals",
    response={200: Listing[schemas.Approval], **READ},
    summary="What waits for people, newest first",
)
def list_approvals(request: HttpRequest, filters: Query[ApprovalFilters]) -> dict[str, Any]:
    """List approvals, open and decided."""
    wanted = filters.model_dump(include={"state", "group", "run_id"}, exclude_none=True)
    approvals = Approval.objects.select_related("run").prefetch_related("votes").filter(**wanted)
    return paginate(request, approvals, filters, present_approval)


def say(request: HttpRequest, approval_id: UUID, payload: Word, *, approve: bool) -> HttpResponse:
    """Record the caller's word. Who may is decided by the groups of the token, not by its role."""
    require(Approval, approval_id, "approval")

    def act() -> dict[str, Any]:
        token = caller(request)
        vote(
            approval_id,
            actor=actor(token),
            groups=token.groups,
            approve=approve,
            reason=payload.reason.strip(),
        )
        return present_approval(Approval.objects.select_related("run").get(pk=approval_id))

    return carried_out(request, payload, act)


@router.post("/approvals/{uuid:approval_id}/approve", summary="Let the run go on", **VOTING)
def approve(request: HttpRequest, approval_id: UUID, payload: Word) -> HttpResponse:
    """Say yes. The run goes on when as many members of the group have said so as it needs."""
    return say(request, approval_id, payload, approve=True)


@router.post("/approvals/{uuid:approval_id}/reject", summary="Refuse it", **VOTING)
def reject(request: HttpRequest, approval_id: UUID, payload: Word) -> HttpResponse:
    """Say no. One is enough: the step has failed for good, and the run is undone."""
    return say(request, approval_id, payload, approve=False)


@router.post(
    "/completions/{token}",
    auth=None,
    tags=["completions"],
    summary="End what a run waits for",
    response={202: schemas.Completed, **WRITE},
)
def complete(request: HttpRequest, token: str, payload: Completion) -> HttpResponse:
    """Hand back the token that a step gave away, with what came of it. The token is all the permission it needs.

    The first call counts; the same again is accepted and changes nothing.
    """
    error = None if payload.error is None else CommandError(**payload.error.model_dump())
    complete_operation(token, payload.value, error=error)
    return JsonResponse({"accepted": True}, status=202)
