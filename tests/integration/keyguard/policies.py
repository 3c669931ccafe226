"""Policies and people for tests."""

from typing import Any

from django.contrib.auth.models import Group, User

from keyguard.policies import memberships, publishing
from keyguard.policies.models import Policy
from keyguard.states import MembershipVerb

ALLOW_PAYMENTS = {"name": "payments", "effect": "allow", "when": {"what": ["payment"]}}
ALLOW_ALL = (
    {"name": "plain", "effect": "allow", "when": {"what": ["payment", "creation", "delegation", "message"]}},
    {"name": "calls", "effect": "allow", "when": {"what": ["call", "allowance"], "function": "any"}},
    {"name": "data", "effect": "allow", "when": {"what": ["typed_data", "allowance"], "primary_type": "any"}},
)


def put_in_force(*rules: dict[str, Any]) -> Policy:
    """Have these rules decide from now on."""
    policy = publishing.draft({"rules": list(rules)}, "author")
    publishing.activate(policy, "author")
    return policy


def ask(approvals: int = 2, group: str = "treasury", **when: Any) -> dict[str, Any]:
    return {
        "name": "ask",
        "effect": "require_approval",
        "approvals": approvals,
        "group": group,
        "when": when,
    }


def limit(at_most: int, of: str = "value", seconds: int = 3600, **more: Any) -> dict[str, Any]:
    return {
        "name": "limit",
        "effect": "limit",
        "limit": {"of": of, "at_most": at_most, "seconds": seconds, **more},
    }


def person(name: str, *groups: str) -> User:
    """Return the person, in these groups and no others; of guarded groups, too, as if their members had approved it."""
    user, _ = User.objects.get_or_create(username=name)
    wanted = {Group.objects.get_or_create(name=group)[0] for group in groups}
    had = set(user.groups.all())
    for group in wanted - had:
        memberships._carry_out(group, user, MembershipVerb.ADD, "tests", "for the test")
    for group in had - wanted:
        memberships._carry_out(group, user, MembershipVerb.REMOVE, "tests", "for the test")
    return user
