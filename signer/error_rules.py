"""The operators' rules for the words of nodes, live in every process within seconds of an edit.

Upheld here: no rule can break sending. One that raises or takes too long is passed over and logged; without the
database the rules last read go on. A rule is put only to a node's own words: never to a revert, whose reason may hold any
words, and never to a lost answer, which is possibly sent whatever it looks like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import structlog
from django.db import DatabaseError

from signer import json_of_others
from signer.errors import CallRevertedError, RpcNodeError
from signer.models import ErrorRule
from signer.patterns import Pattern, PatternError
from signer.rpc import node_error
from signer.rpc_errors import ErrorClass, Rule, find_rule

log = structlog.get_logger()

# How long a process goes on with the rules that it has read: an edit is live everywhere after that.
CACHE_SECONDS = 3.0


@dataclass(frozen=True)
class OperatorRule:
    """A rule of the database, ready for use."""

    name: str
    chain_id: int | None
    pattern: Pattern
    error_class: ErrorClass

    @classmethod
    def of(cls, row: ErrorRule) -> "OperatorRule":
        """Return the rule of this row. Raises PatternError."""
        return cls(str(row), row.chain_id, Pattern(row.pattern), ErrorClass(row.error_class))

    def __str__(self) -> str:
        return self.name

    def fits(self, message: str) -> bool:
        try:
            return self.pattern.matches(message)
        except Exception:  # whatever is wrong with it, the others must be asked
            log.exception("error_rule_passed_over", rule=self.name)
            return False


@dataclass
class _Cache:
    rules: Sequence[OperatorRule] = ()
    until: float = 0.0


_cache = _Cache()


def of_chain(chain_id: int) -> tuple[OperatorRule, ...]:
    """Return the active rules for a chain in their order. Never raises; to be called outside of a transaction."""
    if monotonic() >= _cache.until:
        try:
            _cache.rules = read_rules()
        except DatabaseError as error:
            log.warning("error_rules_not_read", error=type(error).__name__)
        _cache.until = monotonic() + CACHE_SECONDS
    return tuple(rule for rule in _cache.rules if rule.chain_id in (None, chain_id))


def forget() -> None:
    """Have this process read the rules anew the next time it asks."""
    _cache.until = 0.0


def read_rules(instead: ErrorRule | None = None) -> list[OperatorRule]:
    """Return the active rules of all chains in their order.

    instead: an edited row that is not stored yet, taken in place of the stored one and whether it is active or not.
    """
    rows = list(ErrorRule.objects.filter(active=True))
    if instead is not None:
        rows = [row for row in rows if row.pk != instead.pk] + [instead]
    rules = []
    for row in sorted(rows, key=lambda row: (row.position, row.pk or float("inf"))):
        try:
            rules.append(OperatorRule.of(row))
        except PatternError:  # written past the form
            log.exception("error_rule_passed_over", rule=str(row))
    return rules


@dataclass(frozen=True)
class Reading:
    """What is made of a text: the words that count, what they mean, and who says so."""

    message: str
    error_class: ErrorClass
    because: str

    def __str__(self) -> str:
        return f"{self.error_class.value}: {self.because}"


def read_pasted(text: str, rules: Sequence[Rule]) -> Reading:
    """Return what is made of a message, or of a whole JSON-RPC answer or error, that a person has pasted."""
    error = _as_error(text)
    if isinstance(error, CallRevertedError):
        return Reading(
            text.strip(), ErrorClass.PERMANENT, "a revert, whatever its reason says; no rule is asked"
        )
    rule = find_rule(error.message, rules)
    if rule is None:
        return Reading(error.message, ErrorClass.AMBIGUOUS, "no rule knows it, so it is possibly sent")
    return Reading(error.message, rule.error_class, str(rule))


def _as_error(text: str) -> RpcNodeError:
    try:
        value = json_of_others.parse(text)
    except ValueError:
        value = None
    if isinstance(value, list) and value:
        value = next((item for item in value if isinstance(item, dict) and "error" in item), value[0])
    if not isinstance(value, dict):
        return node_error({"message": text.strip()})
    is_answer = isinstance(value.get("error"), dict) and "message" not in value
    return node_error(value["error"] if is_answer else value)
