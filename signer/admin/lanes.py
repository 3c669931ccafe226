"""Lanes: who sends, how far it is, and what holds it up."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display

from signer import queue
from signer.admin.acts import LaneActs
from signer.admin.money import LowFilter, MoneyCells
from signer.cells import Shown, alarm
from signer.counting import counted, oldest_waiting
from signer.models import Lane
from signer.sentences import ago
from signer.states import IN_FLIGHT, WAITING, LaneState
from workflows.cells import ReadOnly


@admin.register(Lane)
class LaneAdmin(LaneActs, MoneyCells, Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Who sends, how far it is, and what holds it up."""

    list_display = (
        "shown_lane", "shown_state", "blocked", "shown_next_nonce", "in_flight", "waiting", "oldest", "shown_money",
    )  # fmt: skip
    list_filter = ("state", LowFilter, "chain")
    list_select_related = ("chain", "money")
    search_fields = ("address__iexact", "id__iexact")
    search_help_text = "address, lane id"
    fieldsets = (
        ("Now", {"fields": ("shown_state", "blocked", "shown_next_nonce", "in_flight", "waiting", "oldest")}),
        (
            "Money",
            {"fields": ("shown_balance", "shown_lasts", "shown_spent", "shown_threshold", "shown_top_up")},
        ),
        ("What it is", {"fields": ("address", "shown_chain", "id", "created_at")}),
        ("Who works on it", {"fields": ("shown_lease", "epoch", "looked_at", "in_redis")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lane]:
        lanes: QuerySet[Lane] = super().get_queryset(request)
        return lanes.annotate(
            in_flight_count=counted("lane", IN_FLIGHT),
            waiting_count=counted("lane", WAITING),
            oldest_at=oldest_waiting(),
        )

    @display(description="Address and chain", ordering="address")
    def shown_lane(self, lane: Lane) -> str:
        return format_html('<code class="text-xs">{}</code><br>{}', lane.address, lane.chain)

    @display(description="Stands because")
    def blocked(self, lane: Lane) -> str:
        return alarm(lane.state_reason) if lane.state == LaneState.BLOCKED else lane.state_reason or "-"

    @display(description="Next nonce", ordering="next_nonce")
    def shown_next_nonce(self, lane: Lane) -> str:
        if lane.in_custody:
            return "given by the custody"
        return "-" if lane.next_nonce is None else str(lane.next_nonce)

    @display(description="Oldest waits for", ordering="oldest_at")
    def oldest(self, lane: Any) -> str:
        return ago(lane.oldest_at) if lane.oldest_at else "-"

    @display(description="Waiting, as Redis knows")
    def in_redis(self, lane: Lane) -> str:
        count = queue.waiting(lane.pk)
        return "Redis does not answer" if count is None else str(count)
