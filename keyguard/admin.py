"""Keys and signing records in the admin: to look at, not to change. No key material, no signature, no raw bytes.

The list of allowed delegates may be added to and taken from by whoever has Django's permission for it.
"""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from keyguard.models import AllowedDelegate, HandOver, HsmToken, Kek, KekDrill, SigningRecord


class ReadOnly:
    """Refuses what would change a row; the commands and the signing path are the only ways in."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(SigningRecord)
class SigningRecordAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Everything that was signed or refused."""

    list_display = ("created_at", "shown_key", "kind", "state", "shown_outcome", "chain_id", "nonce", "to")
    list_filter = ("state", "kind", "chain_id", "error")
    list_select_related = ("key", "policy")
    search_fields = (
        "key__address__iexact",
        "key__alias",
        "to__iexact",
        "hash__iexact",
        "idempotency_key__startswith",
        "subject__iexact",
        "caller",
    )
    date_hierarchy = "created_at"
    show_full_result_count = False  # the table only grows
    fields = (
        "id",
        "idempotency_key",
        "key",
        "kind",
        "state",
        "error",
        "why",
        "policy",
        "subject",
        "caller",
        "chain_id",
        "nonce",
        "to",
        "value",
        "payload_hash",
        "digest",
        "hash",
        "created_at",
        "signed_at",
    )
    readonly_fields = fields

    @display(description="Key", ordering="key__alias")
    def shown_key(self, record: SigningRecord) -> str:
        return record.key.alias

    @display(description="Outcome", ordering="error")
    def shown_outcome(self, record: SigningRecord) -> str:
        """Return why it was refused, or the hash."""
        refused = f"{record.error}: {record.why}" if record.why else record.error
        style = "min-width: 16rem; white-space: normal; overflow-wrap: anywhere"
        return format_html('<div class="text-xs" style="{}">{}</div>', style, refused or record.hash or "-")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SigningRecord]:
        """Leave out what no page shows: the signed bytes, a megabyte where they carry blobs."""
        records: QuerySet[SigningRecord] = super().get_queryset(request)
        return records.defer("raw", "signature")


@admin.register(HandOver)
class HandOverAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Everything that a custody was asked to execute, and what it says of it."""

    list_display = ("created_at", "key", "state", "chain_id", "to", "hash", "reason", "error")
    list_filter = ("state", "chain_id")
    list_select_related = ("key",)
    search_fields = ("external_id__startswith", "key__address__iexact", "key__alias", "hash__iexact")
    date_hierarchy = "created_at"
    show_full_result_count = False  # the table only grows
    fields = (
        "id",
        "external_id",
        "key",
        "state",
        "chain_id",
        "to",
        "value",
        "payload_hash",
        "hash",
        "reason",
        "error",
        "created_at",
        "asked_at",
        "answered_at",
    )
    readonly_fields = fields


class KekDrillInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """Its backups on paper, and when somebody tried them (`manage.py kek_ceremony`)."""

    model = KekDrill
    fields = ("at", "kind", "threshold", "shares", "custodians", "actor")
    readonly_fields = fields
    extra = 0


@admin.register(Kek)
class KekAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The key encryption keys by their check values; they themselves are kept elsewhere."""

    list_display = ("id", "provider", "kcv", "state", "created_at")
    list_filter = ("state", "provider")
    search_fields = ("id__iexact", "kcv", "provider_ref__startswith")
    fields = ("id", "provider", "provider_ref", "version", "kcv", "state", "created_at")
    readonly_fields = fields
    inlines = (KekDrillInline,)


@admin.register(HsmToken)
class HsmTokenAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The tokens that somebody logged in to, and whether the PIN waits for a person (`manage.py try_hsm_pin`)."""

    list_display = ("label", "pin_refused_at")
    fields = ("label", "pin_refused_at")
    readonly_fields = fields


@admin.register(AllowedDelegate)
class AllowedDelegateAdmin(ModelAdmin):  # type: ignore[misc]
    """The contracts that accounts may be handed to. One that has changed is another one: remove it and add it anew."""

    list_display = ("address", "chain_id", "note", "created_at")
    list_filter = ("chain_id",)
    search_fields = ("address__iexact", "note")
    fields = ("chain_id", "address", "note")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
