"""What came of sendings, written down. Each commit is guarded by the receiver's epoch: a stale courier writes nothing."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from dalp.webhooks.judging import PAUSE_MAX_SECONDS, Answer, Outcome, Verdict, judge, paused_until
from dalp.webhooks.models import Delivery, DeliveryState, Webhook
from signer.incidents import close_incident, open_incident
from signer.states import IncidentKind
from workflows import Claim, guard

log = structlog.get_logger()

Answers = Sequence[tuple[Delivery, Answer]]
ENDED = {
    Outcome.DELIVERED: DeliveryState.DELIVERED,
    Outcome.DEAD: DeliveryState.DEAD,
    Outcome.GONE: DeliveryState.DEAD,
}
GONE_BECAUSE = "it answered 410 Gone: it wants nothing more"


def record(held: Claim[Webhook], answers: Answers, spread: Callable[[], float]) -> bool:
    """Write down what became of deliveries; return whether more may be sent to the receiver now. Raises FencedError."""
    now = held.now()
    verdicts = [
        (
            delivery,
            answer,
            judge(answer, delivery.attempts, delivery.failing_since, now, spread()),
        )
        for delivery, answer in answers
    ]
    health = _health(held.row, [answer for _, answer in answers], now)
    if any(verdict.outcome == Outcome.GONE for _, _, verdict in verdicts):
        health |= {"enabled": False, "disabled_because": GONE_BECAUSE}
    with transaction.atomic():
        guard(held, **health)
        for delivery, answer, verdict in verdicts:
            _write(delivery, answer, verdict, now)
        _tell(held.row, [verdict.outcome for _, _, verdict in verdicts])
    for name, value in health.items():
        setattr(held.row, name, value)
    return held.row.enabled and (held.row.paused_until is None or held.row.paused_until <= now)


def _health(webhook: Webhook, answers: Sequence[Answer], now: datetime) -> dict[str, Any]:
    """Return what answers say about the receiver as a whole."""
    health: dict[str, Any] = {}
    pause = webhook.paused_until
    is_paused = pause is not None and pause > now
    failed = [answer for answer in answers if not answer.is_taken]
    if failed:
        health |= {"last_error": failed[-1].words, "last_error_at": now}
    if len(failed) < len(answers):
        health |= {"delivered_at": now}
        # What was on its way with the one for which it asked for a pause takes nothing back of that.
        health |= {} if is_paused else {"failures": 0, "paused_until": None}
    # ... and what was on its way with the one that found it away finds that out no second time.
    before = max(webhook.failures - is_paused, 0)
    pauses = [paused_until(answer, before, now) for answer in failed if answer.is_away]
    if pauses:
        pauses += [pause] if pause is not None else []
        health |= {"failures": before + 1, "paused_until": max(pauses)}
    return health


def _write(delivery: Delivery, answer: Answer, verdict: Verdict, now: datetime) -> None:
    """Write down what became of one. Where a person has replayed it meanwhile, that stands: it is sent once more."""
    values: dict[str, Any] = {"attempts": delivery.attempts + 1, "last_status": answer.status}
    if not answer.is_taken:
        log.info(
            "webhook_not_taken", message=str(delivery.message_id), status=answer.status, why=answer.words
        )
        values |= {"last_error": answer.words, "failing_since": delivery.failing_since or now}
    if verdict.outcome in ENDED:
        values |= {"state": ENDED[verdict.outcome], "settled_at": now}
    else:
        values |= {"next_at": verdict.next_at}
    unchanged = {"state": DeliveryState.PENDING, "attempts": delivery.attempts}
    if not Delivery.objects.filter(pk=delivery.pk, **unchanged).update(**values):
        log.info("webhook_delivery_changed_meanwhile", message=str(delivery.message_id))


def _tell(webhook: Webhook, outcomes: Sequence[Outcome]) -> None:
    """Tell people of what does not pass by itself. Joins the caller's transaction."""
    if Outcome.GONE in outcomes:
        _open(webhook, f"{GONE_BECAUSE}. Nothing is sent to it any more.")
    elif Outcome.DEAD in outcomes:
        _open(
            webhook,
            "it has not taken an event for 24 hours. The event is given up until somebody replays it.",
        )


def _open(webhook: Webhook, what: str) -> None:
    text = f"The {webhook} ({webhook.description or 'no description'}): {what}"
    open_incident(IncidentKind.WEBHOOK_FAILED, subject_of(webhook), text, webhook=str(webhook.pk))


def subject_of(webhook: Webhook) -> str:
    """Return what incidents about a webhook are opened and closed under."""
    return f"webhook {webhook.pk}"


def all_is_well(webhook: Webhook) -> None:
    """Close what people were told, when the receiver takes events and none is given up. Joins the caller's transaction."""
    if not Delivery.objects.filter(webhook=webhook, state=DeliveryState.DEAD).exists():
        close_incident(
            IncidentKind.WEBHOOK_FAILED, subject_of(webhook), "it takes events, and none is given up"
        )


def cannot_be_signed(held: Claim[Webhook]) -> None:
    """Leave a receiver alone whose secret no key here opens, and tell people. Raises FencedError."""
    now = held.now()
    what = "its secret cannot be read, because SECRET_KEY was changed. Its events wait."
    with transaction.atomic():
        guard(
            held, last_error=what, last_error_at=now, paused_until=now + timedelta(seconds=PAUSE_MAX_SECONDS)
        )
        _open(held.row, what)
