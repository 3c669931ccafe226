"""Who calls: a bearer token with a role and a tenant. Sessions of the admin are never accepted here."""

from datetime import timedelta
from typing import cast

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from dalp.api.problems import ProblemError, not_found
from dalp.models import ApiToken, Role
from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT

# `last_used_at` is for people; writing it at every request would make each GET a write.
LAST_USED_GRAIN = timedelta(minutes=1)


def note_use(token: ApiToken) -> None:
    """Record that the token was used, at most once a minute."""
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > LAST_USED_GRAIN:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)


class TokenAuth(HttpBearer):
    """Admits the holders of a token that may do what `role` may; of the default tenant alone unless it says otherwise."""

    def __init__(self, role: Role, *, every_tenant: bool = False) -> None:
        super().__init__()
        self.role, self.every_tenant = role, every_tenant

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
        if not self.every_tenant and found.tenant != DEFAULT_TENANT:
            # Nothing is looked up for it: what is there and what is not are one and the same, by the time it takes, too.
            raise not_found("resource of your tenant")
        note_use(found)
        return found


# Workflows, and all that comes of them, are the platform's own; keys, and what they send, are each tenant's.
VIEWER = TokenAuth(Role.VIEWER)
OPERATOR = TokenAuth(Role.OPERATOR)
TENANT_VIEWER = TokenAuth(Role.VIEWER, every_tenant=True)
TENANT_OPERATOR = TokenAuth(Role.OPERATOR, every_tenant=True)


def caller(request: HttpRequest) -> ApiToken:
    """Return the token that the request came with."""
    return cast("ApiToken", getattr(request, "auth", None))


def addresses_of(token: ApiToken) -> "QuerySet[Key, str]":
    """Return the addresses of the keys of the caller's tenant, to be put into a query's WHERE."""
    return Key.objects.filter(tenant=token.tenant).values_list("address", flat=True)


def scope(token: ApiToken) -> str:
    """Return the name space of a caller's idempotency keys: two callers' keys never meet."""
    return f"token:{token.pk}"


def actor(token: ApiToken) -> str:
    """Return the caller as the history names it."""
    return f"{token.name} ({token.prefix})"[:100]
