"""The small parts of a policy's text, each checked, and conditions on single values. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from keyguard.errors import AddressInvalidError, PolicyInvalidError
from keyguard.floor import checked_address

MAX_LISTED = 10_000

# None: the request says something that cannot be read.
Answer = bool | None


def predicate(given: object, path: str) -> Callable[[Any], Answer]:
    """Return a condition on a value: is, in, not_in, at_least, at_most, all of those that are given."""
    fields = mapping(given, path, optional=("is", "in", "not_in", "at_least", "at_most"))
    if not fields:
        raise PolicyInvalidError(path, "needs one or more of is, in, not_in, at_least, at_most")
    conditions = []
    if "is" in fields:
        conditions.append(_among(frozenset([plain(fields["is"])])))
    if "in" in fields:
        conditions.append(_among(listed(fields["in"], f"{path}.in")))
    if "not_in" in fields:
        conditions.append(_not_among(listed(fields["not_in"], f"{path}.not_in")))
    if "at_least" in fields or "at_most" in fields:
        least = number(fields["at_least"], f"{path}.at_least") if "at_least" in fields else None
        most = number(fields["at_most"], f"{path}.at_most") if "at_most" in fields else None
        conditions.append(_between(least, most))
    if len(conditions) == 1:
        return conditions[0]
    return lambda value: all_of(condition(value) for condition in conditions)


def _among(values: frozenset[Any]) -> Callable[[Any], Answer]:
    return lambda value: None if value is None else plain(value) in values


def _not_among(values: frozenset[Any]) -> Callable[[Any], Answer]:
    return lambda value: None if value is None else plain(value) not in values


def _between(least: int | None, most: int | None) -> Callable[[Any], Answer]:
    def holds(value: Any) -> Answer:
        if type(value) is not int:
            return None
        return (least is None or value >= least) and (most is None or value <= most)

    return holds


def plain(value: Any) -> Any:
    """Return the form in which values are compared: numbers as they are, the rest as text in lower case."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,78}", value, re.ASCII) else value.lower()
    return value if isinstance(value, int) else str(value)


def listed(given: object, path: str) -> frozenset[Any]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_LISTED:
        raise PolicyInvalidError(path, f"must be a list of 1 to {MAX_LISTED} values")
    return frozenset(plain(one) for one in given)


def number(given: object, path: str) -> int:
    if isinstance(given, str) and re.fullmatch(r"\d{1,78}", given, re.ASCII):
        return int(given)
    if type(given) is not int or given < 0:
        raise PolicyInvalidError(path, "must be a number, or its decimal digits as text")
    return given


def strings(given: object, path: str) -> list[str]:
    if (
        not isinstance(given, list)
        or not 1 <= len(given) <= MAX_LISTED
        or any(not isinstance(one, str) for one in given)
    ):
        raise PolicyInvalidError(path, f"must be a list of 1 to {MAX_LISTED} texts")
    return given


def text_of(given: object, path: str) -> str:
    if not isinstance(given, str) or not 1 <= len(given) <= 80:
        raise PolicyInvalidError(path, "must be text of 1 to 80 characters")
    return given


def address(given: str, path: str) -> str:
    try:
        return checked_address(given, path).lower()
    except AddressInvalidError:
        raise PolicyInvalidError(path, f"{given[:60]!r} is no address") from None


def mapping(
    given: object, path: str, required: Sequence[str] = (), optional: Sequence[str] | None = None
) -> Mapping[str, Any]:
    """Return it when it has what it must and nothing else; with neither list, anything by name."""
    if not isinstance(given, Mapping) or any(not isinstance(key, str) for key in given):
        raise PolicyInvalidError(path, "must be an object")
    if required or optional is not None:
        for key in required:
            if key not in given:
                raise PolicyInvalidError(path, f"needs {key!r}")
        for key in given:
            if key not in (*required, *(optional or ())):
                raise PolicyInvalidError(
                    path, f"knows no {key[:40]!r}: only {', '.join((*required, *(optional or ())))}"
                )
    return given


def dig(value: Any, path: str) -> Any:
    """Return the part of nested objects that `a.b.c` names, None when there is none."""
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def all_of(answers: Iterable[Answer]) -> Answer:
    """True when all are, False when one is, else None."""
    answer: Answer = True
    for said in answers:
        if said is False:
            return False
        if said is None:
            answer = None
    return answer
