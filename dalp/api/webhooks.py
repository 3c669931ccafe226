"""Webhooks over REST: register and remove receivers, see what they were sent, send it again. No URL and no old secret."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Query, Router, Schema
from pydantic import ConfigDict, Field

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER, actor, caller
from dalp.api.decisions import Word, carried_out
from dalp.api.idempotency import is_answered, once
from dalp.api.pagination import FilterText, Page, instant, paginate
from dalp.api.problems import invalid, not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from dalp.webhooks import addresses, registering, replaying
from dalp.webhooks.events import DEFAULT_TYPES, TYPES
from dalp.webhooks.models import Delivery, DeliveryState, Webhook
from dalp.webhooks.outbox import with_counts

router = Router(tags=["webhooks"], auth=VIEWER)

ACTING: dict[str, Any] = {"auth": OPERATOR, "openapi_extra": idempotency_key(required=False)}
MAKING: dict[str, Any] = {
    "auth": OPERATOR,
    "response": {201: schemas.WebhookWithSecret, **WRITE},
    "openapi_extra": idempotency_key(required=True),
}


class RegisterWebhook(Schema):
    """Who is to be told of what."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=addresses.URL_LENGTH_MAX, description="https, and public")
    events: list[str] = Field(
        list(DEFAULT_TYPES),
        min_length=1,
        max_length=2 * len(TYPES),
        json_schema_extra={"items": {"type": "string", "enum": list(TYPES)}},
    )
    description: str = Field("", max_length=200)


class WebhookFilters(Page):
    """Which webhooks to list."""

    enabled: bool | None = None


class DeliveryFilters(Page):
    """Which deliveries to list."""

    state: DeliveryState | None = None
    type: FilterText | None = None
    transaction_id: UUID | None = None


def webhooks() -> "QuerySet[Webhook]":
    """Return all webhooks with what showing them needs."""
    return with_counts(Webhook.objects.all())


def present(webhook: Any) -> dict[str, Any]:
    """Return a webhook as the API shows it."""
    return {
        "id": str(webhook.pk),
        "host": webhook.host,
        "events": webhook.events,
        "description": webhook.description,
        "enabled": webhook.enabled,
        "disabled_because": webhook.disabled_because,
        "pending": webhook.pending,
        "pending_since": instant(webhook.pending_since),
        "dead": webhook.dead,
        "paused_until": instant(webhook.paused_until),
        "delivered_at": instant(webhook.delivered_at),
        "last_error": webhook.last_error,
        "last_error_at": instant(webhook.last_error_at),
        "created_at": instant(webhook.created_at),
    }


def present_delivery(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as the API shows it."""
    is_pending = delivery.state == DeliveryState.PENDING
    return {
        "id": str(delivery.message_id),
        "webhook_id": str(delivery.webhook_id),
        "transaction_id": None if delivery.transaction_id is None else str(delivery.transaction_id),
        "type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_at": instant(delivery.next_at) if is_pending else None,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": instant(delivery.created_at),
        "settled_at": instant(delivery.settled_at),
    }


def find(webhook_id: UUID) -> Any:
    """Return a webhook, or raise the problem 404."""
    webhook = webhooks().filter(pk=webhook_id).first()
    if webhook is None:
        raise not_found("webhook")
    return webhook


def with_secret(
    request: HttpRequest, body: dict[str, Any], make: Callable[[], tuple[UUID, str]]
) -> HttpResponse:
    """Answer with the webhook and its new secret; a repetition gets null for it, for it is stored nowhere readable."""
    made: dict[str, str] = {}

    def start(_key: str) -> dict[str, Any]:
        pk, made["secret"] = make()
        return {**present(find(pk)), "secret": None}

    answer = once(request, body, start, status=201)
    if not made:
        return answer
    return JsonResponse({**json.loads(answer.content), **made}, status=201)


@router.post("/webhooks", summary="Be told of transactions", **MAKING)
def register(request: HttpRequest, payload: RegisterWebhook) -> HttpResponse:
    """Register a receiver. The answer has the secret that its deliveries are signed with, and no later one has."""
    unknown = sorted(set(payload.events) - set(TYPES))
    if unknown:
        raise invalid({"events": [f"no such event: {name[:60]}" for name in unknown[:10]]})
    if not is_answered(request):
        try:
            addresses.check(payload.url)
        except addresses.AddressRefusedError as error:
            raise invalid({"url": [str(error)]}) from None

    def make() -> tuple[UUID, str]:
        webhook, secret = registering.register(actor=actor(caller(request)), **payload.model_dump())
        return webhook.pk, secret

    return with_secret(request, payload.model_dump(mode="json"), make)


@router.get("/webhooks", response={200: Listing[schemas.Webhook], **READ}, summary="Who is told")
def list_webhooks(request: HttpRequest, filters: Query[WebhookFilters]) -> dict[str, Any]:
    """List webhooks."""
    wanted = filters.model_dump(include={"enabled"}, exclude_none=True)
    return paginate(request, webhooks().filter(**wanted), filters, present)


@router.get("/webhooks/{uuid:webhook_id}", response={200: schemas.Webhook, **READ}, summary="One webhook")
def show_webhook(request: HttpRequest, webhook_id: UUID) -> dict[str, Any]:
    """Show a webhook."""
    return present(find(webhook_id))


@router.delete(
    "/webhooks/{uuid:webhook_id}",
    auth=OPERATOR,
    response={204: None, **READ},
    summary="Tell it nothing more",
)
def remove(request: HttpRequest, webhook_id: UUID) -> HttpResponse:
    """Remove a webhook, with what was to be sent to it."""
    registering.remove(find(webhook_id), actor=actor(caller(request)), reason="over the API")
    return HttpResponse(status=204)


@router.post("/webhooks/{uuid:webhook_id}/rotate-secret", summary="Give it another secret", **MAKING)
def rotate_secret(request: HttpRequest, webhook_id: UUID, payload: Word) -> HttpResponse:
    """Replace the secret. For 24 hours deliveries are signed with both."""
    webhook = find(webhook_id)

    def make() -> tuple[UUID, str]:
        reason = payload.reason.strip() or "over the API"
        return webhook.pk, registering.rotate(webhook, actor=actor(caller(request)), reason=reason)

    return with_secret(request, payload.model_dump(), make)


@router.post(
    "/webhooks/{uuid:webhook_id}/test",
    response={202: schemas.Delivery, **WRITE},
    summary="Send it an event for a trial",
    **ACTING,
)
def send_test(request: HttpRequest, webhook_id: UUID, payload: Word) -> HttpResponse:
    """Have an event `webhook.test` delivered."""
    webhook = find(webhook_id)

    def act() -> dict[str, Any]:
        reason = payload.reason.strip() or "over the API"
        return present_delivery(
            Delivery.objects.get(
                pk=replaying.send_test(webhook, actor=actor(caller(request)), reason=reason).pk
            )
        )

    return carried_out(request, payload, act)


@router.get(
    "/webhooks/{uuid:webhook_id}/deliveries",
    response={200: Listing[schemas.Delivery], **READ},
    summary="What it was sent, newest first",
)
def list_deliveries(
    request: HttpRequest, webhook_id: UUID, filters: Query[DeliveryFilters]
) -> dict[str, Any]:
    """List the deliveries of a webhook."""
    wanted = filters.model_dump(include={"state", "type", "transaction_id"}, exclude_none=True)
    rows = Delivery.objects.filter(webhook=find(webhook_id), **wanted).defer("body")
    return paginate(request, rows, filters, present_delivery)


@router.post(
    "/webhooks/deliveries/{uuid:delivery_id}/replay",
    response={202: schemas.Delivery, **WRITE},
    summary="Send it again",
    **ACTING,
)
def replay(request: HttpRequest, delivery_id: UUID, payload: Word) -> HttpResponse:
    """Have a delivery sent now, whatever became of it before: under the same id, with the same bytes."""
    delivery = Delivery.objects.filter(message_id=delivery_id).first()
    if delivery is None:
        raise not_found("delivery")

    def act() -> dict[str, Any]:
        reason = payload.reason.strip() or "over the API"
        replaying.replay(delivery, actor=actor(caller(request)), reason=reason)
        return present_delivery(Delivery.objects.get(pk=delivery.pk))

    return carried_out(request, payload, act)
