"""What a rule may say of the requests that it is about. Pure.

A condition is answered True, False or None: None where the request says something that cannot be read.
"""

from collections.abc import Callable, Mapping
from datetime import time
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

from keyguard.errors import PolicyInvalidError
from keyguard.policies.facts import Facts, What
from keyguard.policies.functions import Signature, arguments, signatures
from keyguard.policies.values import Answer, address, all_of, dig, mapping, predicate, strings

Condition = Callable[[Facts], Answer]

# What may hold a call. The data of the others is no function's.
CALLING = (What.CALL, What.ALLOWANCE, What.DELEGATION)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _what(value: object, path: str) -> Condition:
    wanted = frozenset(strings(value, path))
    if not wanted <= set(What):
        raise PolicyInvalidError(path, f"must be some of {', '.join(What)}")
    return lambda facts: facts.what in wanted


def _key(value: object, path: str) -> Condition:
    patterns = tuple(
        pattern.lower() if pattern.startswith("0x") else pattern for pattern in strings(value, path)
    )
    return lambda facts: any(fnmatchcase(facts.key, one) or facts.address == one for one in patterns)


def _caller(value: object, path: str) -> Condition:
    patterns = tuple(strings(value, path))
    return lambda facts: any(fnmatchcase(facts.caller, one) for one in patterns)


def _chain(value: object, path: str) -> Condition:
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        raise PolicyInvalidError(path, "must be a list of chain ids")
    wanted = frozenset(value)
    return lambda facts: facts.chain in wanted


def _to(value: object, path: str) -> Condition:
    wanted = frozenset(address(one, path) for one in strings(value, path))
    return lambda facts: facts.to in wanted


def _function(value: object, path: str) -> Condition:
    if value == "any":
        return lambda facts: facts.what in CALLING and bool(facts.data)
    selectors = frozenset(Signature.of(one, path).selector for one in strings(value, path))
    return lambda facts: facts.what in CALLING and facts.selector in selectors


def _primary_type(value: object, path: str) -> Condition:
    if value == "any":
        return lambda facts: bool(facts.primary_type)
    wanted = frozenset(strings(value, path))
    return lambda facts: facts.primary_type in wanted


def _value(value: object, path: str) -> Condition:
    holds = predicate(value, path)
    return lambda facts: holds(facts.value)


def _gas_cost(value: object, path: str) -> Condition:
    holds = predicate(value, path)
    return lambda facts: None if facts.gas_cost is None else holds(facts.gas_cost)


def _domain(value: object, path: str) -> Condition:
    return _parts(value, path, lambda facts: facts.domain)


def _fields(value: object, path: str) -> Condition:
    return _parts(value, path, lambda facts: facts.message)


def _parts(value: object, path: str, of: Callable[[Facts], Mapping[str, Any]]) -> Condition:
    wanted = {name: predicate(one, f"{path}.{name}") for name, one in mapping(value, path).items()}

    def condition(facts: Facts) -> Answer:
        if not facts.primary_type:
            return False
        return all_of(holds(dig(of(facts), name)) for name, holds in wanted.items())

    return condition


def _hours(value: object, path: str) -> Condition:
    """Days of the week and a time of day, in a time zone. A night may go past midnight: from 22:00 to 06:00."""
    fields = mapping(value, path, required=("zone",), optional=("days", "from", "to"))
    try:
        zone = ZoneInfo(str(fields["zone"]))
        begin, end = (
            time.fromisoformat(fields.get("from", "00:00")),
            time.fromisoformat(fields.get("to", "00:00")),
        )
    except (ValueError, TypeError, KeyError, OSError):
        raise PolicyInvalidError(path, "needs a time zone like Europe/Berlin, and times like 08:30") from None
    days = fields.get("days", list(DAYS))
    if not isinstance(days, list) or not days or not set(days) <= set(DAYS):
        raise PolicyInvalidError(f"{path}.days", f"must be some of {', '.join(DAYS)}")

    def holds(facts: Facts) -> Answer:
        here = facts.at.astimezone(zone)
        now = here.time()
        in_time = begin <= now < end if begin < end else now >= begin or now < end
        return in_time and DAYS[here.weekday()] in days

    return holds


def about_arguments(when: Mapping[str, Any], path: str) -> tuple[Condition, ...]:
    if "arguments" not in when:
        return ()
    known = signatures(when, f"{path}.arguments")
    wanted = {
        name: predicate(one, f"{path}.arguments.{name}")
        for name, one in mapping(when["arguments"], f"{path}.arguments").items()
    }
    for name in wanted:
        for signature in known.values():
            if name not in signature.names:
                raise PolicyInvalidError(f"{path}.arguments.{name}", f"{signature.text} has no such argument")

    each = tuple(wanted.items())

    def condition(facts: Facts) -> Answer:
        given = arguments(known, facts)
        if given is None:
            return None
        answer: Answer = True
        for name, holds in each:
            said = holds(given[name])
            if said is False:
                return False
            if said is None:
                answer = None
        return answer

    return (condition,)


# In this order: what costs least, and sorts out most, comes first.
READERS: dict[str, Callable[[object, str], Condition]] = {
    "what": _what,
    "chain": _chain,
    "key": _key,
    "to": _to,
    "function": _function,
    "primary_type": _primary_type,
    "caller": _caller,
    "value": _value,
    "gas_cost": _gas_cost,
    "hours": _hours,
    "domain": _domain,
    "fields": _fields,
    "arguments": lambda value, path: lambda facts: True,  # they need the functions: `about_arguments`
}
