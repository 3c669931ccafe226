"""The verdict of rules on facts. Pure.

Upholds: nothing is allowed that no rule allows; one rule that denies is enough; a rule that cannot tell whether it is
meant denies, limits and asks as if it were, and never allows. So a rule of any kind but `allow` that is added can only
take away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keyguard.policies.facts import Facts, What
from keyguard.policies.rules import Effect, Rule


@dataclass(frozen=True, slots=True)
class Need:
    """People must say yes: so many, of this group."""

    rule: str
    approvals: int
    group: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What the request would take from a limit."""

    rule: str
    bucket: str  # what it is counted apart for
    amount: int
    at_most: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say. Limits are not looked at yet: `charges` says what must fit into which."""

    allowed: bool
    rule: str  # that allows, or that denies; empty: none allows
    why: str = ""
    needs: tuple[Need, ...] = ()
    charges: tuple[Charge, ...] = ()


NOT_ALLOWED = "no rule allows it"
UNREADABLE = "the request cannot be read well enough to be sure that the rule does not mean it"


def judge(rules: Sequence[Rule], facts: Facts) -> Verdict:
    """Return the verdict."""
    # It moves nothing, and without it a nonce that is given up would block all behind it.
    allowed_by = "a no-op needs no rule" if facts.what is What.NOOP else ""
    needs: list[Need] = []
    charges: list[Charge] = []
    for rule in rules:
        said = rule.matches(facts)
        if said is False:
            continue
        match rule.effect:
            case Effect.ALLOW:
                if said:
                    allowed_by = allowed_by or rule.name
            case Effect.DENY:
                return Verdict(False, rule.name, "the rule denies it" if said else UNREADABLE)
            case Effect.REQUIRE_APPROVAL:
                needs.append(Need(rule.name, rule.approvals, rule.group))
            case Effect.LIMIT:
                charge = _charge(rule, facts)
                if charge is None:
                    return Verdict(False, rule.name, "the amount that the rule limits cannot be read")
                charges.append(charge)
    if not allowed_by:
        return Verdict(False, "", NOT_ALLOWED)
    return Verdict(True, allowed_by, "", tuple(needs), tuple(charges))


def _charge(rule: Rule, facts: Facts) -> Charge | None:
    assert rule.limit is not None
    limit = rule.limit
    amount = limit.read(facts)
    if amount is None:
        return None
    parts = {"key": facts.address, "chain": facts.chain, "to": facts.to, "caller": facts.caller}
    bucket = "|".join(f"{name}={parts[name]}" for name in limit.each)
    return Charge(rule.name, bucket, amount, limit.at_most, limit.seconds)
