"""The platform's own rows in the admin, and what it tells the engine's pages about transactions."""

import re
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django_celery_results.models import GroupResult, TaskResult
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from dalp.console import groups, keys, limits, policies, questions, trail  # noqa: F401 - they register their pages
from dalp.console.keys import ActForm
from dalp.models import ApiToken, IdempotencyRecord
from signer.models import Attempt
from workflows import admin as workflows_admin
from workflows.admin.acting import Acting, row_at
from workflows.cells import ReadOnly

HASH = re.compile(r"0x[0-9a-f]{64}")


def transactions_with_hash(term: str) -> Iterable[str]:
    """Return the id of the transaction that the hash belongs to, whichever of its attempts had it."""
    if not HASH.fullmatch(term.lower()):
        return ()
    found = Attempt.objects.filter(hash=term.lower()).values_list("transaction_id", flat=True)
    return [str(identifier) for identifier in found]


workflows_admin.REFERENCE_VIEWS["transaction"] = "admin:signer_transaction_change"
workflows_admin.REFERENCE_FINDERS.append(transactions_with_hash)


@admin.register(ApiToken)
class ApiTokenAdmin(Acting, ModelAdmin):  # type: ignore[misc]
    """API tokens: who has one, when it was last used, and taking it away. They are made by create_api_token."""

    list_display = ("name", "prefix", "owner", "tenant", "role", "created_at", "last_used_at", "shown_state")
    list_filter = ("role", "tenant")
    search_fields = ("name", "prefix", "owner")
    fields = readonly_fields = (
        "name",
        "owner",
        "prefix",
        "tenant",
        "role",
        "created_at",
        "last_used_at",
        "revoked_at",
    )
    actions_detail = ("revoke",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a token made here would have to be shown on a page."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what a token did stays attached to it; revoke it instead."""
        return False

    @display(description="State", label={"live": "success", "revoked": "danger"})
    def shown_state(self, token: ApiToken) -> str:
        """Return whether it still opens the door."""
        return "revoked" if token.revoked_at else "live"

    def has_revoke_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may revoke the token, and it is live."""
        token = row_at(ApiToken, object_id).first()
        return (
            token is not None and not token.revoked_at and bool(request.user.has_perm("dalp.change_apitoken"))
        )

    @action(description="Revoke", url_path="revoke", icon="block", permissions=["revoke"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Revoke the token; the next request with it is refused."""

        def act(pk: Any, *, actor: str, reason: str) -> None:
            if ApiToken.objects.filter(pk=pk, revoked_at=None).update(revoked_at=timezone.now()):
                self.log_change(request, ApiToken.objects.get(pk=pk), f"Revoked: {reason}")

        form = ActForm(request.POST or None, person=request.user)
        text = "The next request with it is refused, and it never opens the door again."
        return self.ask(request, object_id, "Revoke", text, act, form, danger=True)


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """First answers to requests with a key."""

    list_display = ("key", "method", "path", "status", "token", "created_at")
    search_fields = ("key", "path")
    list_select_related = ("token",)


# Of the last two there are no pages: second factors are seen and changed by their owners alone.
for model in (TaskResult, GroupResult, TOTPDevice, StaticDevice):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


@admin.register(TaskResult)
class OperationalTaskAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Results of operational tasks. Steps of runs are not here; they are in their run."""

    list_display = ("task_name", "status", "date_done", "worker")
    list_filter = ("task_name", "status")
    search_fields = ("task_id", "task_name")
    fields = ("task_name", "task_id", "status", "date_created", "date_done", "worker", "result", "traceback")
