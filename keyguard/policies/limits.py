"""Limits over time: how much of what, counted apart for whom. Pure; `spending` keeps the counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyguard.errors import PolicyInvalidError
from keyguard.policies.facts import Facts
from keyguard.policies.functions import arguments, signatures
from keyguard.policies.values import dig, mapping, number

MAX_SECONDS = 400 * 24 * 3600

Reader = Callable[[Facts], int | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """So much in so many seconds, counted apart for each of what `each` names."""

    of: str
    read: Reader = field(repr=False)
    at_most: int
    seconds: int
    each: tuple[str, ...]


def parse_limit(given: object, when: Mapping[str, Any], path: str) -> Limit:
    fields = mapping(given, path, required=("of", "at_most", "seconds"), optional=("each",))
    seconds, each = fields["seconds"], fields.get("each", ["key"])
    if type(seconds) is not int or not 1 <= seconds <= MAX_SECONDS:
        raise PolicyInvalidError(f"{path}.seconds", f"must be a number from 1 to {MAX_SECONDS}")
    if not isinstance(each, list) or not set(each) <= {"key", "chain", "to", "caller"}:
        raise PolicyInvalidError(
            f"{path}.each", "must be a list of key, chain, to, caller; empty for all together"
        )
    read = _reader(str(fields["of"]), when, f"{path}.of")
    return Limit(str(fields["of"]), read, number(fields["at_most"], f"{path}.at_most"), seconds, tuple(each))


def _reader(of: str, when: Mapping[str, Any], path: str) -> Reader:
    """Return what reads the amount that is limited; it gives None where there is none to be read."""
    if of in ("count", "value", "gas_cost"):
        return {
            "count": lambda facts: 1,
            "value": lambda facts: facts.value,
            "gas_cost": lambda facts: facts.gas_cost,
        }[of]
    kind, _, name = of.partition(".")
    if kind == "fields" and name:
        return lambda facts: _amount(dig(facts.message, name))
    if kind != "arguments" or not name:
        raise PolicyInvalidError(path, "must be count, value, gas_cost, arguments.NAME or fields.NAME")
    known = signatures(when, path)
    for signature in known.values():
        if name not in signature.names:
            raise PolicyInvalidError(path, f"{signature.text} has no argument {name!r}")

    def read(facts: Facts) -> int | None:
        given = arguments(known, facts)
        return None if given is None else _amount(given[name])

    return read


def _amount(value: object) -> int | None:
    """Return the value when it is an amount; of a list, the sum."""
    if isinstance(value, list | tuple):
        parts = [_amount(one) for one in value]
        return None if None in parts else sum(part for part in parts if part is not None)
    return value if type(value) is int and value >= 0 else None
