"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): a request that starts something starts it once.

The record of the key is committed in the transaction that starts the thing: there is never one without the other.
A request that fails leaves no record, so its key may be used again with corrected input.
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse

from dalp.api.auth import caller
from dalp.api.problems import ProblemError
from dalp.models import ApiToken, IdempotencyRecord

# How long a second request waits for the first one before it is told to come back. PostgreSQL only: SQLite has one
# writer at a time, so there the first has ended by the time the second looks.
IN_FLIGHT_WAIT_MS = 1000
INSERT = """
SET LOCAL lock_timeout = '{milliseconds}ms';
INSERT INTO dalp_idempotencyrecord (token_id, method, path, key, body_sha256)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING;
SET LOCAL lock_timeout TO DEFAULT
"""
KEY = re.compile(r'"?([\x21\x23-\x7e][\x20\x21\x23-\x7e]{0,254})"?', re.ASCII)


def key_of(request: HttpRequest) -> str:
    """Return the request's key, with or without the draft's quotation marks; raises ProblemError 400."""
    given = request.headers.get("Idempotency-Key", "").strip()
    if not given:
        raise ProblemError(
            400,
            "API_IDEMPOTENCY_KEY_MISSING",
            "This request starts something and needs the header Idempotency-Key.",
            "Send a fresh key, a UUID for instance, and the same one when you repeat the request.",
        )
    match = KEY.fullmatch(given)
    if match is None:
        raise ProblemError(
            400,
            "API_IDEMPOTENCY_KEY_INVALID",
            "The Idempotency-Key is not 1 to 255 printable ASCII characters.",
            "Send a UUID.",
        )
    return match[1]


def digest(payload: Any) -> str:
    """Return the digest of a body; white space and the order of names make no difference."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def take_key(token: ApiToken, request: HttpRequest, key: str, body_sha256: str) -> IdempotencyRecord | None:
    """Record the key as this request's; return None, or the record of the first request that came with it.

    The unique constraint makes a second inserter wait until the first commits or rolls back; raises ProblemError 409
    when that takes too long.
    """
    method = request.method or ""
    if connection.vendor == "postgresql":
        taken = _insert(token, method, request.path, key, body_sha256)
        return None if taken else _records_of(token, request, key).get()
    record = IdempotencyRecord(
        token=token, method=method, path=request.path, key=key, body_sha256=body_sha256
    )
    IdempotencyRecord.objects.bulk_create([record], ignore_conflicts=True)
    found = _records_of(token, request, key).get()
    return None if found.status is None else found


def _insert(token: ApiToken, *values: str) -> bool:
    """Insert the record and return whether there was none: one message to the database."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(INSERT.format(milliseconds=IN_FLIGHT_WAIT_MS), [token.pk, *values])
            cursor.nextset()
            return bool(cursor.rowcount)
    except OperationalError as error:
        if "lock timeout" not in str(error):
            raise
        raise ProblemError(
            409,
            "API_IDEMPOTENCY_IN_FLIGHT",
            "The first request with this Idempotency-Key is still being worked on.",
            "Repeat the request in a second.",
            retryable=True,
        ) from None


def _records_of(token: ApiToken, request: HttpRequest, key: str) -> "QuerySet[IdempotencyRecord]":
    """Return the record of this key, by this caller, for this path; or nothing."""
    method = request.method or ""
    return IdempotencyRecord.objects.filter(token=token, method=method, path=request.path, key=key)


def first_answer(record: IdempotencyRecord, body_sha256: str) -> HttpResponse:
    """Return the answer that the first request got; raises ProblemError 422 when that had another body."""
    if record.body_sha256 != body_sha256:
        first = (record.body or {}).get("id", "")
        raise ProblemError(
            422,
            "API_IDEMPOTENCY_KEY_REUSED",
            f"This Idempotency-Key was used with another body; that request started {first}.",
            "Use a new key for a new request.",
        )
    response = JsonResponse(record.body, status=record.status or 200)
    response["Idempotent-Replayed"] = "true"
    return response


def is_answered(request: HttpRequest) -> bool:
    """Return whether a request with this key has been answered: then nothing needs to be asked outside for it."""
    return _records_of(caller(request), request, key_of(request)).filter(status__isnull=False).exists()


def once(
    request: HttpRequest, payload: Any, start: Callable[[str], dict[str, Any]], status: int = 202
) -> HttpResponse:
    """Answer with what `start(key)` returns, or with the first answer when the key has been used.

    payload: the body as sent, JSON-able. `start` runs in the transaction that records the key; no network in it.
    """
    key, body_sha256, token = key_of(request), digest(payload), caller(request)
    with transaction.atomic():
        first = take_key(token, request, key, body_sha256)
        if first is not None:
            return first_answer(first, body_sha256)
        body = json.loads(json.dumps(start(key), cls=DjangoJSONEncoder))
        _records_of(token, request, key).update(status=status, body=body)
    return JsonResponse(body, status=status)
