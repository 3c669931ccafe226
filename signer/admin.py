"""Transactions in the admin: what is where, why it waits, and what was sent. To look at; only endpoints are edited.

An endpoint's URL holds the provider's key: it is entered and never shown again. Raw transactions are not shown.
"""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from signer import queue
from signer.models import Attempt, Block, Chain, Endpoint, Lane, Transaction
from signer.states import IN_FLIGHT, WAITING, SubState

COLOURS = {
    "RECEIVED": "info",
    "QUEUED": "info",
    "PREPARING": "info",
    "PENDING_APPROVAL": "warning",
    "SIGNING": "info",
    "BROADCASTING": "info",
    "CONFIRMING": "info",
    "COMPLETED": "success",
    "FAILED": "danger",
    "DEAD_LETTER": "danger",
    "CANCELLED": "warning",
    "EXPIRED": "warning",
    "ACTIVE": "success",
    "BLOCKED": "danger",
    "SIGNED": "info",
    "SENT": "success",
    "REJECTED": "danger",
}


class ReadOnly:
    """Refuses what would change a row: the states are the signer's to write."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EndpointForm(forms.ModelForm):  # type: ignore[type-arg]
    """Takes a URL and shows none."""

    url = forms.URLField(
        label="URL",
        required=False,
        assume_scheme="https",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Stored and never shown again. Leave empty to keep the present one.",
    )

    class Meta:
        model = Endpoint
        fields = ("url", "position")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["url"] = ""

    def clean_url(self) -> str:
        url = self.cleaned_data["url"] or self.instance.url
        if not url:
            raise forms.ValidationError("A new endpoint needs a URL.")
        return str(url)


class EndpointInline(TabularInline):  # type: ignore[misc]
    """The nodes of a chain."""

    model = Endpoint
    form = EndpointForm
    fields = ("host", "url", "position")
    readonly_fields = ("host",)
    extra = 0


@admin.register(Chain)
class ChainAdmin(ModelAdmin):  # type: ignore[misc]
    """The networks. Registered by `manage.py add_chain`, which asks the nodes who they are first."""

    list_display = ("name", "chain_id", "confirmations", "fee_market", "head_number", "head_seen_at")
    search_fields = ("name", "chain_id")
    fields = (
        "chain_id",
        "name",
        "genesis_hash",
        "fee_market",
        "confirmations",
        "block_time_ms",
        "max_in_flight",
        "max_fee_per_gas_wei",
        "head_number",
        "head_seen_at",
    )
    readonly_fields = ("chain_id", "genesis_hash", "fee_market", "head_number", "head_seen_at")
    inlines = (EndpointInline,)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Lane)
class LaneAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Who sends, how far it is, and what holds it up."""

    list_display = ("address", "chain", "show_state", "next_nonce", "waiting", "in_flight", "blocked_reason")
    list_filter = ("state", "chain")
    list_select_related = ("chain",)
    search_fields = ("address__iexact", "id__iexact")
    fields = (
        "id",
        "chain",
        "address",
        "show_state",
        "blocked_reason",
        "next_nonce",
        "waiting",
        "in_flight",
        "in_redis",
        "epoch",
        "lease_owner",
        "lease_until",
        "looked_at",
        "created_at",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lane]:
        lanes: QuerySet[Lane] = super().get_queryset(request)
        return lanes.annotate(
            waiting_count=Count("transactions", filter=Q(transactions__state__in=WAITING)),
            in_flight_count=Count("transactions", filter=Q(transactions__state__in=IN_FLIGHT)),
        )

    @display(description="State", label=COLOURS, ordering="state")
    def show_state(self, lane: Lane) -> str:
        return lane.state

    @display(description="Waiting", ordering="waiting_count")
    def waiting(self, lane: Any) -> int:
        return int(lane.waiting_count)

    @display(description="In flight", ordering="in_flight_count")
    def in_flight(self, lane: Any) -> int:
        return int(lane.in_flight_count)

    @display(description="Waiting, as Redis knows")
    def in_redis(self, lane: Lane) -> str:
        count = queue.waiting(lane.pk)
        return "Redis does not answer" if count is None else str(count)


class AttemptInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """Everything that was signed for a transaction."""

    model = Attempt
    fields = (
        "seq",
        "purpose",
        "hash",
        "state",
        "max_fee_per_gas_wei",
        "max_priority_fee_per_gas_wei",
        "gas_limit",
        "send_count",
        "first_sent_at",
        "last_sent_at",
        "last_error",
        "last_error_message",
    )
    readonly_fields = fields
    extra = 0


@admin.register(Transaction)
class TransactionAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Every transaction, newest first."""

    list_display = (
        "created_at",
        "label",
        "show_state",
        "why",
        "chain",
        "sender",
        "nonce",
        "to",
        "correlation_id",
    )
    list_filter = ("state", "sub_state", "chain", "kind")
    list_select_related = ("chain", "lane")
    search_fields = (
        "id__iexact",
        "attempts__hash__iexact",
        "lane__address__iexact",
        "to__iexact",
        "correlation_id__iexact",
        "idempotency_key__startswith",
    )
    date_hierarchy = "created_at"
    show_full_result_count = False  # the table only grows
    fields = (
        "id",
        "label",
        "show_state",
        "why",
        "error",
        "chain",
        "lane",
        "nonce",
        "kind",
        "to",
        "value",
        "data_start",
        "gas_limit",
        "speed",
        "valid_until",
        "winner",
        "block_number",
        "block_hash",
        "correlation_id",
        "scope",
        "idempotency_key",
        "created_at",
        "broadcast_at",
        "settled_at",
    )
    readonly_fields = fields
    inlines = (AttemptInline,)

    @display(description="State", label=COLOURS, ordering="state")
    def show_state(self, row: Transaction) -> str:
        return row.state

    @display(description="Why", ordering="sub_state")
    def why(self, row: Transaction) -> str:
        return str(SubState(row.sub_state).label)

    @display(description="From", ordering="lane__address")
    def sender(self, row: Transaction) -> str:
        return row.lane.address

    @display(description="Data")
    def data_start(self, row: Transaction) -> str:
        return row.data if len(row.data) <= 600 else f"{row.data[:600]}… ({len(row.data) // 2 - 1} bytes)"


@admin.register(Attempt)
class AttemptAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Every signed hash, for finding one."""

    list_display = ("hash", "transaction", "seq", "purpose", "nonce", "state", "send_count", "last_error")
    list_filter = ("state", "purpose", "last_error")
    search_fields = ("hash__iexact", "transaction__id__iexact")
    show_full_result_count = False
    fields = (
        "transaction",
        "hash",
        *AttemptInline.fields[:2],
        "nonce",
        *AttemptInline.fields[3:],
        "epoch",
        "receipt",
        "created_at",
    )
    readonly_fields = fields


@admin.register(Block)
class BlockAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The recent headers, and those that a fork put aside."""

    list_display = ("number", "hash", "parent_hash", "chain", "canonical", "seen_at")
    list_filter = ("canonical", "chain")
    search_fields = ("hash__iexact", "number")
    ordering = ("-number",)
    show_full_result_count = False
    fields = ("chain", "number", "hash", "parent_hash", "canonical", "seen_at")
    readonly_fields = fields
