"""Who calls: a bearer token with a role. Sessions of the admin are never accepted here."""

from datetime import timedelta
from typing import cast

from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from dalp.api.problems import ProblemError
from dalp.models import ApiToken, Role

# `last_used_at` is for people; writing it at every request would make each GET a write.
LAST_USED_GRAIN = timedelta(minutes=1)


def note_use(token: ApiToken) -> None:
    """Record that the token was used, at most once a minute."""
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > LAST_USED_GRAIN:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)


class TokenAuth(HttpBearer):
    """Admits the holders of a token that may do what `role` may."""

    def __init__(self, role: Role) -> None:
        super().__init__()
        self.role = role

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken | None:
        """Return the caller's token, None for an unknown or revoked one; raises ProblemError 403."""
        found = ApiToken.find(token)
        if found is None:
            return None
        if not found.may(self.role):
            raise ProblemError(
                403,
                "API_FORBIDDEN",
                f"This needs the role {self.role}; the token has {found.role}.",
                "Use a token with that role.",
            )
        note_use(found)
        return found


VIEWER = TokenAuth(Role.VIEWER)
OPERATOR = TokenAuth(Role.OPERATOR)


def caller(request: HttpRequest) -> ApiToken:
    """Return the token that the request came with."""
    return cast("ApiToken", getattr(request, "auth", None))


def scope(token: ApiToken) -> str:
    """Return the name space of a caller's idempotency keys: two callers' keys never meet."""
    return f"token:{token.pk}"


def actor(token: ApiToken) -> str:
    """Return the caller as the history names it."""
    return f"{token.name} ({token.prefix})"[:100]
