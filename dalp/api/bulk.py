"""One decision about many dead letters, over REST."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema
from pydantic import AwareDatetime, Field, JsonValue, model_validator

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER
from dalp.api.decisions import Decision, by, carried_out, require
from dalp.api.idempotency import once
from dalp.api.pagination import FilterText, Page, instant, paginate, refuse_unknown
from dalp.api.problems import not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from workflows import count_items, start_bulk, stop_bulk
from workflows.models import BulkItem, BulkJob, DeadLetter

router = Router(tags=["dead letters"], auth=VIEWER)

IDS_MAX = 10_000


class StartBulk(Decision):
    """What to decide, and about which dead letters: those that are open now and that all given filters name."""

    action: Literal["replay", "complete", "skip", "compensate", "discard", "kill"]
    ids: list[UUID] | None = Field(None, min_length=1, max_length=IDS_MAX)
    fingerprint: FilterText | None = None
    workflow: FilterText | None = None
    created_before: AwareDatetime | None = None
    value: JsonValue = Field(None, description="the output, for `complete`")
    per_second: int = Field(50, ge=1, le=1000)

    @model_validator(mode="after")
    def chooses(self) -> "StartBulk":
        """Refuse a decision about everything, and a value that nobody would take."""
        if not (self.ids or self.fingerprint or self.workflow or self.created_before):
            raise ValueError("give ids, fingerprint, workflow or created_before")
        if self.value is not None and self.action != "complete":
            raise ValueError("a value is for the action complete")
        return self


class ItemFilters(Schema):
    """A part of a job's items, in their order."""

    state: BulkItem.State | None = None
    limit: int = Field(1000, ge=1, le=5000)
    cursor: int = Field(0, ge=0, lt=2**63)


def present_job(job: BulkJob) -> dict[str, Any]:
    """Return a job and how many of its items are in which state."""
    return {
        "id": str(job.pk),
        "action": job.action,
        "actor": job.actor,
        "reason": job.reason,
        "state": job.state,
        "per_second": job.per_second,
        "total": job.total,
        "counts": count_items(job),
        "created_at": instant(job.created_at),
        "finished_at": instant(job.finished_at),
    }


def present_item(item: BulkItem) -> dict[str, Any]:
    """Return what became of one dead letter."""
    return {
        "dead_letter_id": str(item.dead_letter_id),
        "state": item.state,
        "detail": item.detail,
        "done_at": instant(item.done_at),
    }


def chosen(payload: StartBulk) -> "QuerySet[DeadLetter]":
    """Return the dead letters that the filters name."""
    letters = DeadLetter.objects.all()
    if payload.ids is not None:
        letters = letters.filter(pk__in=payload.ids)
    if payload.created_before is not None:
        before: datetime = payload.created_before
        letters = letters.filter(created_at__lt=before)
    named = payload.model_dump(include={"fingerprint", "workflow"}, exclude_none=True)
    return letters.filter(**named)


@router.post(
    "/dead-letters/bulk",
    auth=OPERATOR,
    summary="Decide about many dead letters",
    response={202: schemas.BulkJob, **WRITE},
    openapi_extra=idempotency_key(required=True),
)
def start(request: HttpRequest, payload: StartBulk) -> HttpResponse:
    """Freeze the list of those that are open now, and work it off at that pace; needs an Idempotency-Key."""
    parameters = {"value": payload.value} if payload.action == "complete" else {}

    def begin(_key: str) -> dict[str, Any]:
        job = start_bulk(
            payload.action,
            chosen(payload),
            parameters=parameters,
            per_second=payload.per_second,
            **by(request, payload),
        )
        return present_job(job)

    return once(request, payload.model_dump(mode="json"), begin)


@router.get(
    "/dead-letters/bulk", response={200: Listing[schemas.BulkJob], **READ}, summary="Bulk jobs, newest first"
)
def list_jobs(request: HttpRequest, page: Query[Page]) -> dict[str, Any]:
    """List the jobs."""
    return paginate(request, BulkJob.objects.all(), page, present_job)


@router.get(
    "/dead-letters/bulk/{uuid:job_id}", response={200: schemas.BulkJob, **READ}, summary="One bulk job"
)
def show_job(request: HttpRequest, job_id: UUID) -> dict[str, Any]:
    """Show a job with the number of its items in each state."""
    job = BulkJob.objects.filter(pk=job_id).first()
    if job is None:
        raise not_found("bulk job")
    return present_job(job)


@router.get(
    "/dead-letters/bulk/{uuid:job_id}/items",
    response={200: Listing[schemas.BulkItem], **READ},
    summary="What became of each dead letter of a bulk job",
)
def list_items(request: HttpRequest, job_id: UUID, page: Query[ItemFilters]) -> dict[str, Any]:
    """List a job's items in their order."""
    refuse_unknown(request, page)
    require(BulkJob, job_id, "bulk job")
    items = BulkItem.objects.filter(job_id=job_id, pk__gt=page.cursor).order_by("pk")
    found = list((items.filter(state=page.state) if page.state else items)[: page.limit + 1])
    shown = found[: page.limit]
    return {
        "items": [present_item(item) for item in shown],
        "next_cursor": str(shown[-1].pk) if len(found) > page.limit else None,
    }


@router.post(
    "/dead-letters/bulk/{uuid:job_id}/stop",
    auth=OPERATOR,
    summary="Leave the rest of a bulk job alone",
    response={202: schemas.BulkJob, **WRITE},
    openapi_extra=idempotency_key(required=False),
)
def stop(request: HttpRequest, job_id: UUID, payload: Decision) -> HttpResponse:
    """Stop a job; what it has done stays done."""
    require(BulkJob, job_id, "bulk job")
    return carried_out(request, payload, lambda: present_job(stop_bulk(job_id, **by(request, payload))))
