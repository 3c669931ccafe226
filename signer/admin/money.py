"""What lanes have and how long it lasts, and how they are filled up. Amounts are entered and shown in ether."""

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display

from signer import topping_up
from signer.admin.money_forms import LaneMoneyForm, TopUpForm
from signer.admin.reasoned import Reasoned
from signer.cells import alarm, to_lane
from signer.models import Lane, LaneMoney, TopUp
from signer.money import about_ether, duration
from signer.sentences import ago, ether
from workflows.cells import badge, link
from workflows.models import Run


class LowFilter(admin.SimpleListFilter):
    """Lanes that are low on money. For lanes, and for what is known of their money."""

    title = "money"
    parameter_name = "money"

    def lookups(self, *_: Any) -> list[tuple[str, str]]:
        return [("low", "low"), ("waits", "something waits for money")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        prefix = "money__" if queryset.model is Lane else ""
        conditions = {"low": {f"{prefix}low_since__isnull": False}, "waits": {f"{prefix}waits": True}}
        return queryset.filter(**conditions.get(self.value() or "", {}))


class MoneyCells:
    """How a lane's money looks, on its own page and on the lane's."""

    @display(description="Money")
    def shown_money(self, row: Any) -> str:
        """Return the balance and how long it lasts, in two short lines."""
        money = money_of(row)
        if money is None or money.balance_wei is None:
            return "-"
        shown = format_html(
            '<div class="whitespace-nowrap">{}<br>{}</div>', about_ether(money.balance_wei), lasts(money)
        )
        return alarm(shown) if money.low_since is not None else shown

    @display(description="Balance")
    def shown_balance(self, row: Any) -> str:
        money = money_of(row)
        if money is None or money.balance_wei is None or money.balance_at is None:
            return "not looked at: nothing is spent"
        text = ether(money.balance_wei)
        when = f"{ago(money.balance_at)} ago"
        return format_html(
            "{}<br><span class='text-xs'>{}</span>", alarm(text) if money.low_since else text, when
        )

    @display(description="Lasts")
    def shown_lasts(self, row: Any) -> str:
        money = money_of(row)
        if money is None or money.balance_wei is None:
            return "-"
        return alarm(lasts(money)) if money.low_since is not None else lasts(money)

    @display(description="Spent")
    def shown_spent(self, row: Any) -> str:
        money = money_of(row)
        if money is None:
            return "-"
        hour, day = about_ether(money.spent_hour_wei), about_ether(money.spent_day_wei)
        return f"{hour} in the last hour, {day} in the last 24 hours"

    @display(description="Low since")
    def shown_low_since(self, row: Any) -> str:
        money = money_of(row)
        if money is None or money.low_since is None:
            return "not low"
        told = f", people were told {ago(money.told_at)} ago" if money.told_at else ""
        return alarm(f"{ago(money.low_since)}{told}")

    @display(description="Told below")
    def shown_threshold(self, row: Any) -> str:
        money = money_of(row)
        if money is not None and money.low_balance_wei is not None:
            return ether(money.low_balance_wei)
        return "when it does not last long enough"

    @display(description="Top-up")
    def shown_top_up(self, row: Any) -> str:
        lane = row if isinstance(row, Lane) else row.lane
        rule: TopUp | None = getattr(lane, "top_up", None)
        if rule is None:
            return "none"
        text = f"from {rule.treasury} up to {ether(rule.level_wei)}"
        return link("admin:signer_topup_change", rule.pk, text if rule.active else f"{text}: PAUSED")


def money_of(row: Any) -> LaneMoney | None:
    return row if isinstance(row, LaneMoney) else getattr(row, "money", None)


def lasts(money: LaneMoney) -> str:
    """Return how long the money lasts, or that something waits for it."""
    if money.waits:
        return "something waits for money"
    return "spends nothing" if money.runway_seconds is None else duration(money.runway_seconds)


def lane_cell(lane: Lane) -> str:
    """Return address and chain without a link: in a list the row's own link is around it."""
    return format_html('<code class="text-xs">{}</code><br>{}', lane.address, lane.chain)


@admin.register(LaneMoney)
class LaneMoneyAdmin(Reasoned, MoneyCells, ModelAdmin):  # type: ignore[misc]
    """Balances: what each lane has, how long it lasts, and when people are told."""

    form = LaneMoneyForm
    verb = "set_low_balance"
    list_display = ("named_lane", "shown_money", "shown_low_since", "shown_threshold", "shown_top_up")
    list_filter = (LowFilter, "lane__chain")
    list_select_related = ("lane__chain", "lane__top_up")
    search_fields = ("lane__address__iexact",)
    search_help_text = "address"
    ordering = (
        F("low_since").asc(nulls_last=True),
        F("runway_seconds").asc(nulls_last=True),
        "lane__address",
    )
    autocomplete_fields = ("lane",)
    readonly_fields = (
        "shown_balance",
        "shown_lasts",
        "shown_spent",
        "shown_low_since",
        "shown_top_up",
        "shown_lane",
    )

    def get_fieldsets(self, request: HttpRequest, obj: LaneMoney | None = None) -> Any:
        """Return what is known, and what a person decides."""
        decided = (
            ("low_balance_wei", "reason")
            if self.has_change_permission(request, obj)
            else ("shown_threshold",)
        )
        if obj is None:
            return ((None, {"fields": ("lane", *decided)}),)
        now = ("shown_lane", "shown_balance", "shown_lasts", "shown_spent", "shown_low_since", "shown_top_up")
        return (("Now", {"fields": now}), ("When people are told", {"fields": decided}))

    def get_readonly_fields(self, request: HttpRequest, obj: LaneMoney | None = None) -> Any:
        return self.readonly_fields if obj is None else ("lane", "shown_threshold", *self.readonly_fields)

    @display(description="Lane", ordering="lane__address")
    def named_lane(self, money: LaneMoney) -> str:
        return lane_cell(money.lane)

    @display(description="Lane")
    def shown_lane(self, money: LaneMoney) -> str:
        return format_html("{}<br>{}", to_lane(money.lane), money.lane.chain)


@admin.register(TopUp)
class TopUpAdmin(Reasoned, ModelAdmin):  # type: ignore[misc]
    """Top-ups: how lanes are filled up from a treasury. Paused, not deleted: what left today has to stay known."""

    form = TopUpForm
    verb = "edit_top_up"
    list_display = ("named_lane", "treasury", "shown_level", "shown_today", "shown_state", "shown_last")
    list_filter = ("active", "lane__chain")
    list_select_related = ("lane__chain", "lane__money", "transfer")
    search_fields = ("lane__address__iexact", "treasury")
    search_help_text = "address, treasury"
    ordering = ("lane__address",)
    autocomplete_fields = ("lane",)
    readonly_fields = (
        "shown_lane", "shown_level", "shown_balance", "shown_today", "shown_state", "shown_obstacle", "shown_last",
        "shown_run", "created_by",
    )  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: TopUp | None = None) -> Any:
        """Return what to enter; for one that exists, what it does as well."""
        may = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        decided = ("treasury", "level_wei", "daily_cap_wei", "active", *(("reason",) if may else ()))
        if obj is None:
            return ((None, {"fields": ("lane", *decided)}),)
        now = (
            "shown_lane",
            "shown_state",
            "shown_obstacle",
            "shown_balance",
            "shown_today",
            "shown_last",
            "shown_run",
            "created_by",
        )
        return (
            ("Now", {"fields": now}),
            ("The rule", {"fields": decided if may else ("treasury", "shown_level", "active")}),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: TopUp | None = None) -> Any:
        return self.readonly_fields if obj is None else ("lane", *self.readonly_fields)

    def about(self, obj: Any) -> dict[str, str]:
        """Return what the record has to name besides, where it is not a lane's."""
        return {}

    def before_adding(self, request: HttpRequest, obj: TopUp) -> None:
        """Keep who made the rule."""
        obj.created_by = request.user.get_username()

    @display(description="Lane", ordering="lane__address")
    def named_lane(self, rule: TopUp) -> str:
        return lane_cell(rule.lane)

    @display(description="Lane")
    def shown_lane(self, rule: TopUp) -> str:
        return format_html("{}<br>{}", to_lane(rule.lane), rule.lane.chain)

    @display(description="Up to / in a day")
    def shown_level(self, rule: TopUp) -> str:
        return f"{ether(rule.level_wei)} / {ether(rule.daily_cap_wei)}"

    @display(description="Balance")
    def shown_balance(self, rule: TopUp) -> str:
        return str(MoneyCells().shown_balance(rule.lane))

    @display(description="Taken today")
    def shown_today(self, rule: TopUp) -> str:
        left = topping_up.left_today_wei(rule, timezone.now().date())
        text = f"{ether(int(rule.daily_cap_wei) - left)} of {ether(rule.daily_cap_wei)}"
        return text if left else alarm(f"{text}: nothing is left until midnight UTC")

    @display(description="State", ordering="active")
    def shown_state(self, rule: TopUp) -> str:
        """Return whether it is active, and what it transfers at the moment."""
        state = badge("ACTIVE" if rule.active else "PAUSED")
        if rule.transfer is None:
            return state
        under_way = f"transfers {about_ether(rule.transfer.value)}"
        return format_html(
            "{} {}", state, link("admin:signer_transaction_change", rule.transfer_id, under_way)
        )

    @display(description="Transfers now")
    def shown_obstacle(self, rule: TopUp) -> str:
        """Return what keeps it from transferring, if anything does."""
        if not rule.active:
            return "no: it is switched off"
        return topping_up.obstacle(rule) or "when the lane is low"

    @display(description="Last filled", ordering="filled_at")
    def shown_last(self, rule: TopUp) -> str:
        if rule.filled_at is None:
            return "never"
        return f"{ether(rule.filled_wei or 0)}, {ago(rule.filled_at)} ago"

    @display(description="Last run")
    def shown_run(self, rule: TopUp) -> str:
        run = Run.objects.filter(pk=rule.run_id).first() if rule.run_id else None
        if run is None:
            return "none"
        code = (run.error or {}).get("code", "")
        return format_html(
            "{} {} {}", link("admin:workflows_run_change", run.pk, str(run.pk)), badge(run.state), code
        )
