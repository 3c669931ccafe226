"""Networks, how they are used, their nodes and their recent headers.

An endpoint's URL holds the provider's key: it is entered and never shown again.
"""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from signer.admin.chain_forms import ChainForm
from signer.admin.reasoned import Reasoned
from signer.cells import Shown, alarm
from signer.counting import counted
from signer.forms import EndpointForm
from signer.models import Block, Chain, Endpoint
from signer.sentences import ago, why_unused
from signer.states import IN_FLIGHT, WAITING
from workflows.cells import ReadOnly


class EndpointInline(TabularInline):  # type: ignore[misc]
    """The nodes of a chain."""

    model = Endpoint
    form = EndpointForm
    fields = ("host", "url", "heads_url", "position", "weight", "shown_use", "shown_head", "shown_latency")
    readonly_fields = ("host", "shown_use", "shown_head", "shown_latency")
    extra = 0
    hide_title = True

    @display(description="Used")
    def shown_use(self, endpoint: Endpoint) -> str:
        unused = why_unused(endpoint, timezone.now())
        return alarm(unused) if unused else "yes"

    @display(description="Head")
    def shown_head(self, endpoint: Endpoint) -> str:
        if endpoint.head_number is None or endpoint.head_seen_at is None:
            return "not seen yet"
        return f"{endpoint.head_number}, since {ago(endpoint.head_seen_at)}"

    @display(description="Latency")
    def shown_latency(self, endpoint: Endpoint) -> str:
        return "-" if endpoint.latency_ms is None else f"{endpoint.latency_ms} ms"


@admin.register(Chain)
class ChainAdmin(Reasoned, Shown, ModelAdmin):  # type: ignore[misc]
    """The networks. Registered by `manage.py add_chain`, which asks the nodes who they are first."""

    form = ChainForm
    verb = "edit_chain"
    list_display = ("name", "chain_id", "shown_head", "in_flight", "waiting", "shown_hosts", "confirmations")
    search_fields = ("name", "chain_id")
    fieldsets = (
        ("Now", {"fields": ("shown_head", "in_flight", "waiting", "shown_lease")}),
        ("What it is", {"fields": ("name", "chain_id", "genesis_hash", "fee_market")}),
        (
            "How it is used",
            {
                "fields": (
                    ("confirmations", "finality"),
                    "block_time_ms",
                    ("max_in_flight", "max_in_flight_adaptive"),
                    ("max_fee_per_gas_wei", "ceiling_percent"),
                    "foreign_nonces",
                    "l1_fee_oracle",
                    "reason",
                )
            },
        ),
    )
    readonly_fields = (
        "shown_head", "in_flight", "waiting", "shown_lease", "chain_id", "genesis_hash", "fee_market",
    )  # fmt: skip
    inlines = (EndpointInline,)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Chain]:
        chains: QuerySet[Chain] = super().get_queryset(request).prefetch_related("endpoints")
        return chains.annotate(
            in_flight_count=counted("chain", IN_FLIGHT), waiting_count=counted("chain", WAITING)
        )

    @display(description="Head", ordering="head_number")
    def shown_head(self, chain: Chain) -> str:
        if chain.head_number is None or chain.head_seen_at is None:
            return "not seen yet"
        return f"{chain.head_number}, seen {ago(chain.head_seen_at)} ago"

    @display(description="Endpoints")
    def shown_hosts(self, chain: Chain) -> str:
        return ", ".join(endpoint.host for endpoint in chain.endpoints.all()) or alarm("none")

    def about(self, chain: Chain) -> dict[str, str]:
        return {"chain": str(chain)}


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
