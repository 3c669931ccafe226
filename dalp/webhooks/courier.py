"""Sending what is due: each receiver by one worker at a time, several of its transactions at once.

A receiver is leased as a lane is: the claim raises its epoch, and what came of a sending is recorded under that epoch.
Dying before the POST leaves the delivery as it was. Dying after it, before the record, has it sent again, with the same
id and the same bytes: at least once. No database connection is used while a thread waits for a receiver, and a receiver
that is slow or away holds up no other: each has at most WINDOW of the threads, and one that is away has one.
"""

import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import structlog
from django.db import transaction

from dalp.webhooks import signing
from dalp.webhooks.judging import Answer
from dalp.webhooks.models import Delivery, Webhook
from dalp.webhooks.outbox import next_of, receptive, waiting_webhooks
from dalp.webhooks.posting import post
from dalp.webhooks.recording import all_is_well, cannot_be_signed, record
from dalp.webhooks.sealing import SecretUnreadableError, unseal
from workflows import Claim, FencedError, claim, crashpoint, keep, release
from workflows.engine.draining import is_draining

log = structlog.get_logger()

crashpoint.register("webhooks.before_post", "a delivery is about to be sent")
crashpoint.register("webhooks.after_post", "the receiver has answered, and nothing of it is recorded")

LEASE_SECONDS = 30
# How long one task takes up receivers. Then it waits for the last answers, and others have their turn.
SLICE_SECONDS = 20
LOOK_SECONDS = 0.5
WINDOW = 4
ROUTES_MAX = 16
BATCH = 64
Routes = dict[UUID, "Route"]


def deliver() -> int:
    """Send what is due, to every receiver that nobody else sends to; return how many answers were recorded."""
    routes: Routes = {}
    with ThreadPoolExecutor(ROUTES_MAX * WINDOW, thread_name_prefix="webhook") as threads:
        try:
            return _deliver(routes, threads)
        finally:
            for route in routes.values():  # none is left but after an error; their leases run out
                route.drop()


def _deliver(routes: Routes, threads: ThreadPoolExecutor) -> int:
    recorded, looked_at = 0, float("-inf")
    until = time.monotonic() + SLICE_SECONDS
    while True:
        goes_on = time.monotonic() < until and not is_draining()
        if goes_on and time.monotonic() - looked_at > LOOK_SECONDS:
            looked_at = time.monotonic()
            _take_up(routes)
        for route in list(routes.values()):
            if goes_on:
                route.send(threads)
            if not route.flying:
                route.end()
                del routes[route.held.row.pk]
        if not routes:
            return recorded
        recorded += _note_answers(routes)


def _take_up(routes: Routes) -> None:
    """Claim receivers that something is due for, as many as there is room for."""
    room = ROUTES_MAX - len(routes)
    for pk in list(waiting_webhooks(routes.keys()).values_list("pk", flat=True)[:room]):
        held = claim(Webhook, pk, LEASE_SECONDS, where=receptive())
        if held is None:
            continue  # another courier was first
        try:
            routes[pk] = Route(held)
        except SecretUnreadableError:
            cannot_be_signed(held)
            release(held)


def _note_answers(routes: Routes) -> int:
    """Wait for answers, and record those that have come; return how many."""
    flying = [future for route in routes.values() for future in route.flying]
    done, _ = wait(flying, LOOK_SECONDS, FIRST_COMPLETED)
    if not done:
        return 0
    crashpoint("webhooks.after_post")
    count = 0
    for route in list(routes.values()):
        try:
            count += route.note(done)
        except FencedError:  # another courier has it, or it was deleted; it may be sent again, under its id
            route.drop()
            del routes[route.held.row.pk]
    return count


class Route:
    """One receiver in the hands of this courier: what is to be sent to it next, and what is on its way."""

    def __init__(self, held: Claim[Webhook]) -> None:
        """Raises SecretUnreadableError."""
        self.held = held
        self.keys = signing_keys(held.row, held.now())
        self.ready: deque[Delivery] = deque()
        self.flying: dict[Future[Answer], Delivery] = {}
        self.stands = False
        self.succeeded = False
        # A name server may take longer to answer than the lease lasts.
        self._kept = keep(held)
        self._kept.__enter__()

    def send(self, threads: ThreadPoolExecutor) -> None:
        """Have as many sent at once as this receiver may have on their way."""
        window = 1 if self.held.row.failures else WINDOW
        while not self.stands and len(self.flying) < window and (delivery := self._next()):
            timestamp, body = int(self.held.now().timestamp()), delivery.body.encode()
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "DALP-Webhooks/1",
                **signing.headers(delivery.message_id, timestamp, body, self.keys),
            }
            crashpoint("webhooks.before_post")
            self.flying[threads.submit(post, self.held.row.url, headers, body)] = delivery

    def _next(self) -> Delivery | None:
        if not self.ready:
            under_way = [delivery.pk for delivery in self.flying.values()]
            self.ready.extend(next_of(self.held.row).exclude(pk__in=under_way)[:BATCH])
        return self.ready.popleft() if self.ready else None

    def note(self, done: Iterable["Future[Answer]"]) -> int:
        """Record the answers that have come, all in one commit; return how many. Raises FencedError."""
        answers = [(self.flying.pop(future), future.result()) for future in done if future in self.flying]
        if answers:
            self.stands |= not record(self.held, answers, _spread)
            self.succeeded |= any(answer.is_taken for _, answer in answers)
        return len(answers)

    def end(self) -> None:
        """Give the receiver back."""
        self.drop()
        with transaction.atomic():
            if self.succeeded:
                all_is_well(self.held.row)
            release(self.held)

    def drop(self) -> None:
        """Let go of it without a word."""
        self.flying.clear()
        self._kept.__exit__(None, None, None)


def signing_keys(webhook: Webhook, now: datetime) -> Sequence[bytes]:
    """Return what a webhook's deliveries are signed with: while it is being replaced, the old key too.

    Raises SecretUnreadableError.
    """
    keys = [unseal(webhook.secret_sealed)]
    if webhook.previous_until is not None and webhook.previous_until > now:
        with suppress(SecretUnreadableError):  # which may be why it was replaced
            keys.append(unseal(webhook.previous_secret_sealed))
    return keys


def _spread() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 - no secret: it spreads what failed together
