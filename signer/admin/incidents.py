"""Incidents: what does not pass by itself, what to do about it, and closing it; and what people did."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from signer import incidents
from signer.cells import Shown, to_chain, to_lane
from signer.models import Act, Incident
from signer.runbook import what_to_do, where
from signer.sentences import ago
from signer.states import IncidentKind
from workflows.admin.acting import Acting, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, code_block, link

STATE_COLOURS.setdefault("CLOSED", "default")
FIRST_WORDS = 160


class StateFilter(admin.SimpleListFilter):
    """Open or closed."""

    title = "state"
    parameter_name = "state"

    def lookups(self, *_: Any) -> list[tuple[str, str]]:
        return [("open", "open"), ("closed", "closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() in ("open", "closed"):
            return queryset.filter(closed_at__isnull=self.value() == "open")
        return queryset


@admin.register(Incident)
class IncidentAdmin(Acting, Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What a person must know of, the open ones first."""

    list_display = ("shown_what", "shown_open", "shown_text", "shown_since", "shown_chain")
    list_filter = (StateFilter, "kind", "chain")
    list_select_related = ("chain", "lane")
    list_per_page = 50
    search_fields = ("subject", "text", "id__iexact")
    search_help_text = "words of its text, address, incident id"
    ordering = (F("closed_at").desc(nulls_first=True), "-opened_at")
    actions_detail = ("close",)
    fieldsets = (
        ("What happened", {"fields": ("shown_what", "shown_open", "whole_text", "shown_since", "shown_closed")}),
        ("What to do", {"fields": ("shown_remedy", "shown_pages")}),
        ("Details", {"fields": ("subject", "shown_details", "id"), "classes": ("collapse",)}),
    )  # fmt: skip

    @display(description="Incident", ordering="kind")
    def shown_what(self, incident: Incident) -> str:
        label = incident.get_kind_display()
        return format_html("{}<br><code class='text-xs'>{}</code>", label, incident.kind)

    @display(description="State", ordering="closed_at")
    def shown_open(self, incident: Incident) -> str:
        return badge("CLOSED" if incident.closed_at else "OPEN")

    @display(description="What happened")
    def shown_text(self, incident: Incident) -> str:
        text = incident.text
        cut = text if len(text) <= FIRST_WORDS else text[:FIRST_WORDS].rsplit(" ", 1)[0] + " …"
        return format_html('<div style="min-width: 20rem; white-space: normal">{}</div>', cut)

    @display(description="What happened")
    def whole_text(self, incident: Incident) -> str:
        return format_html('<div style="overflow-wrap: anywhere">{}</div>', incident.text)

    @display(description="Since", ordering="opened_at")
    def shown_since(self, incident: Incident) -> str:
        when = f"{incident.opened_at:%Y-%m-%d %H:%M} UTC"
        shown = '<div class="whitespace-nowrap">{} ago<br><span class="text-xs">{}</span></div>'
        return format_html(shown, ago(incident.opened_at), when)

    @display(description="Closed")
    def shown_closed(self, incident: Incident) -> str:
        if incident.closed_at is None:
            return "not yet"
        by = incident.closed_by or "by itself"
        return f"{incident.closed_at:%Y-%m-%d %H:%M:%S} UTC, {by}: {incident.closed_because}"

    @display(description="What to do")
    def shown_remedy(self, incident: Incident) -> str:
        return format_html(
            '<div style="white-space: pre-line">{}</div><div class="text-xs mt-2">{}</div>',
            what_to_do(incident.kind),
            where(incident.kind),
        )

    @display(description="Pages")
    def shown_pages(self, incident: Incident) -> str:
        """Return links to what it is about."""
        pages = list(_pages(incident))
        return format_html(" · ".join(["{}"] * len(pages)), *pages) if pages else "-"

    @display(description="Details")
    def shown_details(self, incident: Incident) -> str:
        return code_block(incident.details or None)

    def has_close_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may close it, and it is open."""
        allowed = request.user.has_perm("signer.change_incident")
        return allowed and row_at(Incident, object_id).filter(closed_at__isnull=True).exists()

    @action(description="Close this incident", url_path="close", icon="check_circle", permissions=["close"])
    def close(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say that a person has dealt with it."""
        text = "Most incidents close by themselves. If it is still so, the next look opens it again, and people are told again."
        return self.ask(request, object_id, "Close the incident", text, incidents.close_by_person)


def _pages(incident: Incident) -> Iterator[str]:
    lane = incident.lane
    if lane is not None:
        yield to_lane(lane, f"lane {lane.address}")
        if incident.kind == IncidentKind.LOW_BALANCE and hasattr(lane, "money"):
            yield link("admin:signer_lanemoney_change", lane.pk, "its balance")
        if incident.kind == IncidentKind.LOW_BALANCE and hasattr(lane, "top_up"):
            yield link("admin:signer_topup_change", lane.top_up.pk, "its top-up")
    if incident.chain is not None:
        yield to_chain(incident.chain)
    if text_id := incident.details.get("text_id"):
        yield link("admin:signer_unknowntext_change", text_id, "the words, and a rule for them")


@admin.register(Act)
class ActAdmin(Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What people did to lanes and transactions, to rules and thresholds. Nobody can change or delete an entry."""

    list_display = ("at", "actor", "verb", "shown_target", "reason")
    list_filter = ("verb",)
    list_select_related = ("lane", "transaction")
    search_fields = ("actor", "reason", "lane__address__iexact", "transaction__id__iexact")
    search_help_text = "person, words of the reason, address, transaction id"
    ordering = ("-at", "-id")
    show_full_result_count = False
    fields = readonly_fields = ("at", "actor", "verb", "shown_target", "reason", "shown_details")

    @display(description="To what")
    def shown_target(self, act: Act) -> str:
        if act.transaction_id is not None:
            return link(
                "admin:signer_transaction_change", act.transaction_id, f"transaction {act.transaction_id}"
            )
        if act.lane is not None:
            return to_lane(act.lane, f"lane {act.lane}")
        return str(act.details.get("subject", "-"))

    @display(description="Details")
    def shown_details(self, act: Act) -> str:
        return code_block(act.details or None)
