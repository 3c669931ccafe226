"""A policy's text, taken apart and checked. What is not understood is refused: a typing error must not allow anything.

    {"rules": [
      {"name": "pay investors", "effect": "allow",
       "when": {"what": ["call"], "chain": [1], "function": ["transfer(address to, uint256 amount)"],
                "arguments": {"amount": {"at_most": "1000000"}}}},
      {"name": "office hours", "effect": "require_approval", "approvals": 2, "group": "treasury", "when": {...}},
      {"name": "a day's worth", "effect": "limit", "limit": {"of": "arguments.amount", "at_most": "5000000",
       "seconds": 86400, "each": ["key", "to"]}, "when": {...}}
    ]}

Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from keyguard.errors import PolicyInvalidError
from keyguard.policies.conditions import READERS, Condition, about_arguments
from keyguard.policies.facts import Facts, What
from keyguard.policies.limits import Limit, parse_limit
from keyguard.policies.values import Answer, mapping, strings, text_of

MAX_RULES = 500
# What a rule about functions, and one about typed data, may be about.
CALLS = {What.CALL, What.ALLOWANCE}
DATA = {What.TYPED_DATA, What.ALLOWANCE}


class Effect(StrEnum):
    """What a rule does. Nothing is allowed by itself; whatever denies wins over whatever allows."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "require_approval"  # of what is allowed
    LIMIT = "limit"  # denies what would be too much


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be asked."""

    name: str
    effect: Effect
    conditions: tuple[Condition, ...] = field(repr=False)
    approvals: int = 0
    group: str = ""
    limit: Limit | None = None

    def matches(self, facts: Facts) -> Answer:
        """Return whether the request is one of those that the rule is about; None when that cannot be known."""
        answer: Answer = True
        for condition in self.conditions:
            said = condition(facts)
            if said is False:
                return False
            if said is None:
                answer = None
        return answer


OWNERS = {"approvals": Effect.REQUIRE_APPROVAL, "group": Effect.REQUIRE_APPROVAL, "limit": Effect.LIMIT}


def parse(body: object) -> tuple[Rule, ...]:
    """Return the rules of a policy. Raises PolicyInvalidError, which says where and what."""
    given = mapping(body, "policy", required=("rules",))
    rules = given["rules"]
    if not isinstance(rules, list) or len(rules) > MAX_RULES:
        raise PolicyInvalidError("rules", f"must be a list of at most {MAX_RULES}")
    parsed = tuple(_rule(rule, f"rules[{place}]") for place, rule in enumerate(rules))
    names = [rule.name for rule in parsed]
    for name in names:
        if names.count(name) > 1:
            raise PolicyInvalidError("rules", f"two are called {name!r}")
    return parsed


def _rule(given: object, path: str) -> Rule:
    fields = mapping(
        given, path, required=("name", "effect"), optional=("when", "approvals", "group", "limit", "note")
    )
    name, effect = fields["name"], fields["effect"]
    if not isinstance(name, str) or not 1 <= len(name) <= 80:
        raise PolicyInvalidError(f"{path}.name", "must be text of 1 to 80 characters")
    path = f"{path} ({name})"
    if effect not in list(Effect):
        raise PolicyInvalidError(f"{path}.effect", f"must be one of {', '.join(Effect)}")
    when = mapping(fields.get("when", {}), f"{path}.when", optional=tuple(READERS))
    _require_scope(Effect(effect), when, path)
    conditions = tuple(READERS[key](when[key], f"{path}.when.{key}") for key in READERS if key in when)
    conditions = (*conditions, *about_arguments(when, f"{path}.when"))
    for key, owner in OWNERS.items():
        if (key in fields) != (effect == owner):
            raise PolicyInvalidError(f"{path}.{key}", f"belongs to {owner}, and to it alone")
    approvals, group, limit = 0, "", None
    if effect == Effect.REQUIRE_APPROVAL:
        approvals = _approvals(fields["approvals"], path)
        group = text_of(fields["group"], f"{path}.group")
    if effect == Effect.LIMIT:
        limit = parse_limit(fields["limit"], when, f"{path}.limit")
    return Rule(name, Effect(effect), conditions, approvals, group, limit)


def _require_scope(effect: Effect, when: Mapping[str, Any], path: str) -> None:
    """Have a rule that allows say what it is about: nothing dangerous may be allowed by leaving something out."""
    what = set(strings(when["what"], f"{path}.when.what")) if "what" in when else set(What)
    of_calls, of_data = "function" in when, bool({"primary_type", "domain", "fields"} & set(when))
    if of_calls and of_data:
        raise PolicyInvalidError(f"{path}.when", "is either about calls or about typed data: write two rules")
    for is_given, about in ((of_calls, CALLS), (of_data, DATA)):
        if is_given and "what" in when and not what <= about:
            raise PolicyInvalidError(
                f"{path}.when.what", f"may be {', '.join(sorted(about))} here: write two rules"
            )
    if effect != Effect.ALLOW:
        return
    if "what" not in when:
        raise PolicyInvalidError(f"{path}.when.what", f"is required: one or more of {', '.join(What)}")
    if What.CALL in what and not of_calls:
        raise PolicyInvalidError(f"{path}.when.function", 'is required for calls: signatures, or "any"')
    if What.TYPED_DATA in what and "primary_type" not in when:
        raise PolicyInvalidError(f"{path}.when.primary_type", 'is required for typed data: names, or "any"')
    if What.ALLOWANCE in what and not of_calls and "primary_type" not in when:
        raise PolicyInvalidError(f"{path}.when", "needs function or primary_type, which grants an allowance")


def _approvals(value: object, path: str) -> int:
    if type(value) is not int or not 1 <= value <= 20:
        raise PolicyInvalidError(f"{path}.approvals", "must be a number from 1 to 20")
    return value
