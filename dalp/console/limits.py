"""What the limits of the policy in force have left now."""

from typing import Any

from django.contrib import admin
from django.db.models import Max, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from unfold.admin import ModelAdmin
from unfold.decorators import display

from keyguard.models import Key
from keyguard.policies import describing, spending
from keyguard.policies.deciding import active_policy, rules_of
from keyguard.policies.limits import Limit
from keyguard.policies.models import Policy, Purse
from workflows.cells import ReadOnly

SHOWN = 20


def limits_of(policy: Policy | None) -> dict[str, Limit]:
    """Return the limits of a version, by the names of their rules."""
    return {rule.name: rule.limit for rule in rules_of(policy.pk) if rule.limit} if policy else {}


def amount(of: str, number: int) -> str:
    """Return an amount of what is limited."""
    return describing.wei(number) if of in ("value", "gas_cost") else str(number)


def left(purse: Purse, limit: Limit) -> int:
    """Return what is left of a limit now."""
    return spending.left(purse.rule, purse.bucket, limit.at_most, limit.seconds)


def whose(bucket: str) -> str:
    """Return in words what is counted apart: keys by their aliases."""
    if not bucket:
        return "all together"
    parts = dict(part.partition("=")[::2] for part in bucket.split("|"))
    key = Key.objects.filter(address__iexact=parts.get("key", "")).first()
    if key is not None:
        parts["key"] = key.alias
    return ", ".join(f"{name} {value or 'none'}" for name, value in parts.items())


def limits_table(policy: Policy) -> str:
    """Return each limit with what is left of it, for what was used last."""
    found = []
    for name, limit in limits_of(policy).items():
        used = Purse.objects.filter(rule=name).annotate(last=Max("spendings__at")).order_by("-last")
        purses = [(purse, left(purse, limit)) for purse in used[:SHOWN]]
        found.append(
            {
                "name": name,
                "of": limit.of,
                "at_most": amount(limit.of, limit.at_most),
                "span": describing.span(limit.seconds),
                "purses": [_purse(purse, limit, rest) for purse, rest in purses],
                "more": used.count() > SHOWN,
                "shown": SHOWN,
            }
        )
    return render_to_string("console/limits.html", {"limits": found})


def _purse(purse: Purse, limit: Limit, rest: int) -> dict[str, Any]:
    return {"whose": whose(purse.bucket), "left": amount(limit.of, rest), "is_empty": not rest}


@admin.register(Purse)
class PurseAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The limits of the policy in force, for each of what they are counted apart for."""

    list_display = ("rule", "shown_whose", "shown_left", "shown_most", "shown_used")
    list_filter = ("rule",)
    search_fields = ("rule", "bucket")
    search_help_text = "name of the rule, address of a key or target, caller"
    list_per_page = 50
    fields = readonly_fields = list_display

    def get_queryset(self, request: HttpRequest) -> QuerySet[Purse]:
        """Return those that the policy in force counts, the one used last on top."""
        purses: QuerySet[Purse] = super().get_queryset(request)
        counted = purses.filter(rule__in=limits_of(active_policy()))
        return counted.annotate(last=Max("spendings__at")).order_by("-last")

    @display(description="Counted for")
    def shown_whose(self, purse: Purse) -> str:
        return whose(purse.bucket)

    @display(description="Left now")
    def shown_left(self, purse: Purse) -> str:
        limit = limits_of(active_policy())[purse.rule]
        return amount(limit.of, left(purse, limit))

    @display(description="At most")
    def shown_most(self, purse: Purse) -> str:
        limit = limits_of(active_policy())[purse.rule]
        return f"{amount(limit.of, limit.at_most)} of {limit.of} within {describing.span(limit.seconds)}"

    @display(description="Used last", ordering="last")
    def shown_used(self, purse: Any) -> str:
        return f"{purse.last:%Y-%m-%d %H:%M:%S} UTC" if purse.last else "never"
