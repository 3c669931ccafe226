"""Lanes over REST: what each address does on a chain and what holds it up; pause, resume, resync."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from eth_utils.address import is_hex_address, to_checksum_address
from ninja import Query, Router
from pydantic import Field

from dalp.api import schemas
from dalp.api.auth import TENANT_OPERATOR, TENANT_VIEWER, actor, addresses_of, caller
from dalp.api.decisions import Word, carried_out
from dalp.api.pagination import FilterText, Page, instant, paginate
from dalp.api.problems import not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from dalp.models import ApiToken
from signer import Lane, drain_lane, lane_difference, pause_lane, resume_lane, resync_lane
from signer.counting import counted, oldest_waiting
from signer.states import IN_FLIGHT, WAITING, LaneState

router = Router(tags=["lanes"], auth=TENANT_VIEWER)

ACTING: dict[str, Any] = {
    "auth": TENANT_OPERATOR,
    "response": {202: schemas.Lane, **WRITE, 503: schemas.Problem},
    "openapi_extra": idempotency_key(required=False),
}


class Resync(Word):
    """Whether the difference is only to be shown, or mended too."""

    confirm: bool = Field(False, strict=True)


class LaneFilters(Page):
    """Which lanes to list."""

    chain_id: int | None = Field(None, gt=0, lt=2**63)
    address: FilterText | None = None
    state: LaneState | None = None


def lanes(token: ApiToken) -> "QuerySet[Lane]":
    """Return the lanes of the caller's tenant with what showing them needs."""
    own = Lane.objects.filter(address__in=addresses_of(token))
    return own.select_related("chain").annotate(
        waiting=counted("lane", WAITING), in_flight=counted("lane", IN_FLIGHT), oldest_at=oldest_waiting()
    )


def present(lane: Any) -> dict[str, Any]:
    """Return a lane as the API shows it."""
    return {
        "id": str(lane.pk),
        "chain_id": lane.chain_id,
        "address": lane.address,
        "state": lane.state,
        "state_reason": lane.state_reason,
        "in_custody": lane.in_custody,
        "next_nonce": lane.next_nonce,
        "in_flight": lane.in_flight,
        "in_flight_cap": lane.in_flight_cap or lane.chain.max_in_flight,
        "waiting": lane.waiting,
        "oldest_waits_since": instant(lane.oldest_at),
        "created_at": instant(lane.created_at),
    }


def find(request: HttpRequest, chain_id: int, address: str) -> Any:
    """Return the lane of an address, in whatever case it is written, or raise the problem 404."""
    known = (
        lanes(caller(request)).filter(chain_id=chain_id, address=to_checksum_address(address))
        if is_hex_address(address)
        else None
    )
    lane = known.first() if known is not None else None
    if lane is None:
        raise not_found("lane")
    return lane


@router.get("/lanes", response={200: Listing[schemas.Lane], **READ}, summary="The nonces of each address")
def list_lanes(request: HttpRequest, filters: Query[LaneFilters]) -> dict[str, Any]:
    """List lanes."""
    wanted = filters.model_dump(include={"chain_id", "state"}, exclude_none=True)
    if filters.address is not None:
        wanted["address__iexact"] = filters.address
    return paginate(request, lanes(caller(request)).filter(**wanted), filters, present)


@router.get("/lanes/{int:chain_id}/{address}", response={200: schemas.Lane, **READ}, summary="One lane")
def show_lane(request: HttpRequest, chain_id: int, address: str) -> dict[str, Any]:
    """Show a lane."""
    return present(find(request, chain_id, address))


def stand(
    request: HttpRequest, chain_id: int, address: str, payload: Word, act: Callable[..., None]
) -> HttpResponse:
    """Change whether a lane gives out nonces."""
    lane = find(request, chain_id, address)

    def change() -> dict[str, Any]:
        act(lane, actor=actor(caller(request)), reason=payload.reason.strip() or "over the API")
        return present(find(request, chain_id, address))

    return carried_out(request, payload, change)


@router.post("/lanes/{int:chain_id}/{address}/pause", summary="Give out no more nonces", **ACTING)
def pause(request: HttpRequest, chain_id: int, address: str, payload: Word) -> HttpResponse:
    """Pause a lane. What has a nonce is seen through."""
    return stand(request, chain_id, address, payload, pause_lane)


@router.post("/lanes/{int:chain_id}/{address}/drain", summary="Pause it when nothing is in flight", **ACTING)
def drain(request: HttpRequest, chain_id: int, address: str, payload: Word) -> HttpResponse:
    """Drain a lane: before its key is changed."""
    return stand(request, chain_id, address, payload, drain_lane)


@router.post("/lanes/{int:chain_id}/{address}/resume", summary="Give out nonces again", **ACTING)
def resume(request: HttpRequest, chain_id: int, address: str, payload: Word) -> HttpResponse:
    """Resume a lane. What blocked it blocks it again where it is still so."""
    return stand(request, chain_id, address, payload, resume_lane)


@router.post(
    "/lanes/{int:chain_id}/{address}/resync",
    auth=TENANT_OPERATOR,
    response={200: schemas.Resync, **WRITE, 503: schemas.Problem},
    summary="Compare with the chain; with `confirm` correct the next nonce",
)
def resync(request: HttpRequest, chain_id: int, address: str, payload: Resync) -> HttpResponse:
    """Answer with the difference between lane and chain. Acts only with `"confirm": true`; twice is as good as once."""
    lane = find(request, chain_id, address)
    if payload.confirm:
        reason = payload.reason.strip() or "over the API"
        found = resync_lane(lane, actor=actor(caller(request)), reason=reason)
    else:
        found = lane_difference(lane)
    shown = present(find(request, chain_id, address))
    return JsonResponse({"confirmed": payload.confirm, "difference": found.as_dict(), "lane": shown})
