"""Lists: `limit`, an opaque `cursor`, newest first. Ids are ordered by time, so the cursor is the last id seen."""

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from ninja import Schema
from pydantic import AfterValidator, AwareDatetime, Field

from dalp.api.problems import invalid

M = TypeVar("M", bound=Model)


def without_nul(text: str) -> str:
    """Refuse what PostgreSQL would not compare with."""
    if "\x00" in text:
        raise ValueError("must not hold a NUL character")
    return text


FilterText = Annotated[str, Field(max_length=255), AfterValidator(without_nul)]


class Page(Schema):
    """The parameters that every list takes."""

    limit: int = Field(50, ge=1, le=200)
    cursor: FilterText | None = None
    created_after: AwareDatetime | None = None


def encode_cursor(identifier: UUID | int) -> str:
    """Return the cursor of the page that follows this id."""
    return base64.urlsafe_b64encode(int(identifier).to_bytes(16)).decode().rstrip("=")


def decode_cursor(cursor: str) -> UUID:
    """Return the id in a cursor, which to a column of numbers is a number; raises ProblemError 422."""
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise invalid({"cursor": ["is not a cursor of this list"]}) from None


def refuse_unknown(request: HttpRequest, page: Schema) -> None:
    """Refuse parameters that the list does not take: a misspelt filter would silently not filter."""
    unknown = set(request.GET) - set(type(page).model_fields)
    if unknown:
        raise invalid({name[:100]: ["is not a parameter of this list"] for name in sorted(unknown)[:10]})


def paginate(
    request: HttpRequest, rows: "QuerySet[M]", page: Page, present: Callable[[M], dict[str, Any]]
) -> dict[str, Any]:
    """Return one page of `rows`, newest first, with the cursor of the next one or null."""
    refuse_unknown(request, page)
    if page.created_after is not None:
        rows = rows.filter(created_at__gt=page.created_after)
    if page.cursor is not None:
        rows = rows.filter(pk__lt=decode_cursor(page.cursor))
    found = list(rows.order_by("-pk")[: page.limit + 1])
    more = len(found) > page.limit
    shown = found[: page.limit]
    return {
        "items": [present(row) for row in shown],
        "next_cursor": encode_cursor(shown[-1].pk) if more else None,
    }


def instant(value: datetime | None) -> str | None:
    """Return an instant as RFC 3339 text that is always as long, so that texts sort as instants do; or null."""
    return None if value is None else value.isoformat(timespec="microseconds").replace("+00:00", "Z")
