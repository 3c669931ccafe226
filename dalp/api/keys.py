"""Keys over REST: which there are, making one, handing one over, taking one out of service. Never key material."""

from typing import Annotated, Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema
from pydantic import AfterValidator, ConfigDict, Field

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER, actor, caller, scope
from dalp.api.decisions import Decision, carried_out
from dalp.api.idempotency import once
from dalp.api.pagination import (
    FilterText,
    Page,
    decode_cursor,
    encode_cursor,
    instant,
    refuse_unknown,
    without_nul,
)
from dalp.api.presenting import present_run
from dalp.api.problems import not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from dalp.assets.values import Amount
from dalp.assets.workflows import start_rotation
from keyguard import create_key, lifecycle
from keyguard.models import Key
from keyguard.policies.models import Question
from keyguard.states import KeyState, KeyVerb
from keyguard.uris import backend_in

router = Router(tags=["keys"], auth=VIEWER)

ACTING: dict[str, Any] = {
    "auth": OPERATOR,
    "response": {202: schemas.Key, **WRITE, 503: schemas.Problem},
    "openapi_extra": idempotency_key(required=False),
}
STARTING: dict[str, Any] = {
    "auth": OPERATOR,
    "openapi_extra": idempotency_key(required=True),
}
Text = Annotated[str, AfterValidator(without_nul)]


class KeyFilters(Page):
    """Which keys to list."""

    alias: FilterText | None = None
    address: FilterText | None = None
    state: KeyState | None = None
    backend: FilterText | None = None


class NewKey(Schema):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    alias: Text = Field(
        min_length=1, max_length=64, description="A-Z, a-z, 0-9 and ._:/-; not beginning with 0x"
    )
    backend: Text = Field("database", max_length=20, description="where it is to live: `vault` or `vault:`")


class Rotate(Decision):
    """Why a key is handed over, and how."""

    backend: Text = Field(
        "", max_length=20, description="where the new key lives; empty: where the old one does"
    )
    fund_wei: Amount | None = Field(None, description="sent to the new address, on each of the key's chains")


def present(key: Key) -> dict[str, Any]:
    """Return a key as the API shows it."""
    return {
        "id": str(key.pk),
        "alias": key.alias,
        "address": key.address,
        "public_key": f"0x{bytes(key.public_key).hex()}",
        "backend": key.backend,
        "uri": str(key.uri),
        "origin": key.origin,
        "state": key.state,
        "state_reason": key.state_reason,
        "not_before": instant(key.not_before),
        "not_after": instant(key.not_after),
        "replaces": None if key.replaces_id is None else str(key.replaces_id),
        "created_at": instant(key.created_at),
    }


def present_started(started: Any) -> dict[str, Any]:
    """Return what was started: a run, or the question that people must answer first."""
    if isinstance(started, Question):
        return {"run": None, "question_id": str(started.pk)}
    return {"run": present_run(started), "question_id": None}


def find(key_id: UUID) -> Key:
    """Return a key, or raise the problem 404."""
    key = Key.objects.filter(pk=key_id).first()
    if key is None:
        raise not_found("key")
    return key


def paged(request: HttpRequest, rows: "QuerySet[Key]", page: Page) -> dict[str, Any]:
    """Return one page, newest first. The ids of keys are random, so the cursor stands for the instant of its key."""
    refuse_unknown(request, page)
    if page.created_after is not None:
        rows = rows.filter(created_at__gt=page.created_after)
    if page.cursor is not None:
        last = Key.objects.filter(pk=decode_cursor(page.cursor)).first()
        if last is None:
            return {"items": [], "next_cursor": None}
        rows = rows.filter(Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, pk__lt=last.pk))
    found = list(rows.order_by("-created_at", "-pk")[: page.limit + 1])
    shown = found[: page.limit]
    more = len(found) > page.limit
    return {
        "items": [present(key) for key in shown],
        "next_cursor": encode_cursor(shown[-1].pk) if more else None,
    }


@router.get("/keys", response={200: Listing[schemas.Key], **READ}, summary="The keys, newest first")
def list_keys(request: HttpRequest, filters: Query[KeyFilters]) -> dict[str, Any]:
    """List keys."""
    wanted = filters.model_dump(include={"alias", "state", "backend"}, exclude_none=True)
    if filters.address is not None:
        wanted["address__iexact"] = filters.address
    return paged(request, Key.objects.filter(**wanted), filters)


@router.get("/keys/{uuid:key_id}", response={200: schemas.Key, **READ}, summary="One key")
def show_key(request: HttpRequest, key_id: UUID) -> dict[str, Any]:
    """Show a key."""
    return present(find(key_id))


@router.post(
    "/keys", response={202: schemas.Key, **WRITE, 503: schemas.Problem}, summary="Make a key", **STARTING
)
def make_key(request: HttpRequest, payload: NewKey) -> HttpResponse:
    """Make a key; needs an Idempotency-Key. The process that answers must reach the KEK and the backend."""
    body = payload.model_dump(mode="json")
    return once(request, body, lambda _key: present(create_key(payload.alias, backend_in(payload.backend))))


@router.post(
    "/keys/{uuid:key_id}/rotate",
    response={202: schemas.Rotation, **WRITE, 503: schemas.Problem},
    summary="Hand everything that a key may do over to a new key",
    **STARTING,
)
def rotate(request: HttpRequest, key_id: UUID, payload: Rotate) -> HttpResponse:
    """Start the run `key.rotate`; needs an Idempotency-Key. Where others must approve it: the id of the question."""
    row = find(key_id)

    def start(key: str) -> dict[str, Any]:
        started = start_rotation(
            row,
            actor(caller(request)),
            payload.reason,
            backend=backend_in(payload.backend),
            fund_wei=payload.fund_wei,
            idempotency_key=key,
            scope=scope(caller(request)),
            correlation_id=request.correlation_id,  # type: ignore[attr-defined]
        )
        return present_started(started)

    return once(request, payload.model_dump(mode="json"), start)


@router.post("/keys/{uuid:key_id}/suspend", summary="Have a key sign nothing for now", **ACTING)
def suspend(request: HttpRequest, key_id: UUID, payload: Decision) -> HttpResponse:
    """Suspend a key. Giving it back is for people at the console."""
    return change(request, key_id, payload, KeyVerb.SUSPEND)


@router.post("/keys/{uuid:key_id}/revoke", summary="Have a key sign nothing any more", **ACTING)
def revoke(request: HttpRequest, key_id: UUID, payload: Decision) -> HttpResponse:
    """Retire a key, for ever. What its address holds stays there: hand it over first (`rotate`)."""
    return change(request, key_id, payload, KeyVerb.RETIRE)


def change(request: HttpRequest, key_id: UUID, payload: Decision, verb: KeyVerb) -> HttpResponse:
    """Take a key out of service, which takes nobody's approval; one that is so already stays so."""
    key = find(key_id)

    def act() -> dict[str, Any]:
        key.refresh_from_db()
        if key.state != lifecycle.STATES[verb]:
            lifecycle.act(key, verb, actor(caller(request)), payload.reason)
        return present(find(key_id))

    return carried_out(request, payload, act)
