"""What people decide over REST: always with a reason, and once per Idempotency-Key where one is sent."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import Model
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Schema
from pydantic import ConfigDict, Field, field_validator

from dalp.api.auth import actor, caller
from dalp.api.idempotency import once
from dalp.api.problems import not_found

M = TypeVar("M", bound=Model)


class Word(Schema):
    """What somebody says to what he does, where he need not."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1000)


class Decision(Schema):
    """Why somebody intervenes."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=1000)

    @field_validator("reason")
    @classmethod
    def says_something(cls, reason: str) -> str:
        """Refuse a reason of nothing but spaces."""
        if not reason.strip():
            raise ValueError("must say why")
        return reason.strip()


def by(request: HttpRequest, payload: Decision) -> dict[str, str]:
    """Return who decides and why, as the engine wants it."""
    return {"actor": actor(caller(request)), "reason": payload.reason}


def carried_out(
    request: HttpRequest, payload: Schema, act: Callable[[], dict[str, Any]], status: int = 202
) -> HttpResponse:
    """Answer with what `act` returns; with an Idempotency-Key only the first time, and then with that answer again.

    The key is not required: what is decided a second time is refused by the state of the thing, or changes nothing.
    """
    if "Idempotency-Key" not in request.headers:
        return JsonResponse(act(), status=status)
    return once(request, payload.model_dump(mode="json", by_alias=True), lambda _key: act(), status)


def require(rows: "type[M]", identifier: Any, what: str) -> None:
    """Raise the problem 404 when there is no such row."""
    if not rows._default_manager.filter(pk=identifier).exists():
        raise not_found(what)
