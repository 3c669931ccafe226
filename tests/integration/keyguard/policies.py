"""Policies, people and what they are asked about, for tests."""

from typing import Any

from django.contrib.auth.models import Group, User
from django.utils import timezone

from keyguard import SigningRequest
from keyguard.calls import Call
from keyguard.models import HandOver, Key
from keyguard.policies import memberships, publishing, rehearsing
from keyguard.policies.facts import facts_of_content, shown
from keyguard.policies.models import Policy, Question
from keyguard.states import MembershipVerb
from tests.integration.keyguard.requests import transfer

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


def wanted(key: Key, number: int = 0, subject: str = "payment", **changes: Any) -> SigningRequest:
    fields = transfer(**{"value": 1, "nonce": number, **changes})
    return SigningRequest(
        f"{subject}:{number}".replace(" ", "-"), key.address, fields, subject=subject, caller="team"
    )


def say(question: Question, who: User, approves: bool = True) -> Question:
    return publishing.vote(question, who, approves, question.content_hash, "read it")


def handed_over(key: Key, external_id: str, value: int) -> HandOver:
    call = Call(chain_id=1, to=b"\x11" * 20, value=value, data=b"")
    facts = facts_of_content(call, key.alias, key.address, "team", timezone.now())
    return HandOver.objects.create(
        external_id=external_id,
        key=key,
        payload_hash="0x" + "22" * 32,
        chain_id=1,
        to="0x" + "11" * 20,
        value=value,
        facts=shown(facts),
    )


def differing(draft: Policy, last: int = rehearsing.REHEARSED) -> list[rehearsing.Difference]:
    return rehearsing.rehearse(draft, last).differences
