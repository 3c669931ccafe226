"""Rules, requests and verdicts in plain words, for people who decide about them. Pure.

What is described is checked text (`rules.parse`) and decoded facts. A sentence may leave a part of a long list out, and
says how much; the text itself stands beside it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyguard.errors import PolicyInvalidError
from keyguard.policies.facts import What
from keyguard.policies.functions import Signature
from keyguard.policies.judging import Verdict
from keyguard.policies.values import plain

LISTED = 5
LINE = 150
NOUNS = {
    What.NOOP: "no-ops",
    What.PAYMENT: "payments",
    What.CALL: "calls",
    What.ALLOWANCE: "allowances",
    What.CREATION: "creations of contracts",
    What.DELEGATION: "delegations (EIP-7702)",
    What.MESSAGE: "messages",
    What.TYPED_DATA: "typed data",
}
ONE = {
    What.NOOP: "a no-op: nothing, to itself",
    What.PAYMENT: "a payment",
    What.CALL: "a call",
    What.ALLOWANCE: "an allowance: lets another take what the key has",
    What.CREATION: "the creation of a contract",
    What.DELEGATION: "a delegation (EIP-7702): lets code act for the account",
    What.MESSAGE: "a signature on a message",
    What.TYPED_DATA: "a signature on typed data",
}
EACH = {"key": "key", "chain": "chain", "to": "target", "caller": "caller"}
SPANS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


# --- Rules ------------------------------------------------------------------------------------------------


def sentence(rule: Mapping[str, Any]) -> str:
    """Return one rule of a checked policy as an English sentence, without its name."""
    about = _about(rule.get("when", {}))
    match rule["effect"]:
        case "allow":
            return f"allow {about}"
        case "deny":
            return f"deny {about}"
        case "require_approval":
            people = "member" if rule["approvals"] == 1 else "members"
            return f"have {rule['approvals']} {people} of {rule['group']} approve {about}"
    limit = rule["limit"]
    each = [EACH[one] for one in limit.get("each", ["key"])]
    apart = f"for each {_listing(each, 'and')} apart" if each else "for all together"
    summed = "the number" if limit["of"] == "count" else f"the sum of {_measure(limit['of'])}"
    over = "of" if limit["of"] == "count" else "over"
    most = _amount(limit["of"], limit["at_most"])
    return f"limit {summed} {over} {about} to {most} within {span(limit['seconds'])}, {apart}"


def _about(when: Mapping[str, Any]) -> str:
    what = when.get("what", [])
    parts = [_listing([NOUNS[What(one)] for one in what], "and") if what else "everything"]
    if "function" in when:
        functions = "any function" if when["function"] == "any" else _listing(when["function"], "or")
        parts.append(f"of {functions}" if what else f"that calls {functions}")
    if "primary_type" in when:
        types = (
            "any type" if when["primary_type"] == "any" else f"type {_listing(when['primary_type'], 'or')}"
        )
        parts.append(f"of {types}" if what else f"that is typed data of {types}")
    if "to" in when:
        is_paid = bool(what) and set(what) <= {What.PAYMENT, What.NOOP}
        parts.append(f"{'to' if is_paid or not what else 'at'} {_listing(when['to'], 'or')}")
    if "chain" in when:
        parts.append(f"on chain {_listing(when['chain'], 'or')}")
    if "key" in when:
        parts.append(f"by the key {_listing(when['key'], 'or')}")
    if "caller" in when:
        parts.append(f"asked for by {_listing(when['caller'], 'or')}")
    if "hours" in when:
        parts.append(_hours(when["hours"]))
    conditions = _conditions(when)
    return " ".join(parts) + (f" while {_listing(conditions, 'and', cut=False)}" if conditions else "")


def _conditions(when: Mapping[str, Any]) -> list[str]:
    found = [
        f"{_measure(name)} is {_predicate(name, when[name])}"
        for name in ("value", "gas_cost")
        if name in when
    ]
    for group, named in (("domain", "the domain's {}"), ("fields", "the field {}"), ("arguments", "{}")):
        for name, one in when.get(group, {}).items():
            found.append(f"{named.format(name)} is {_predicate('', one)}")  # no wei, whatever its name is
    return found


def _predicate(name: str, given: Mapping[str, Any]) -> str:
    words: dict[str, Callable[[Any], str]] = {
        "is": str,
        "in": lambda value: f"one of {_listing(value, 'or')}",
        "not_in": lambda value: f"none of {_listing(value, 'or')}",
        "at_least": lambda value: f"at least {_amount(name, value)}",
        "at_most": lambda value: f"at most {_amount(name, value)}",
    }
    return " and ".join(words[kind](given[kind]) for kind in words if kind in given)


def _hours(given: Mapping[str, Any]) -> str:
    begin, end = given.get("from", "00:00"), given.get("to", "00:00")
    times = "" if begin == end else f"from {begin} to {end} "
    days = f"on {_listing(given['days'], 'and', cut=False)} " if "days" in given else ""
    return f"{times}{days}in {given['zone']}"


def _measure(of: str) -> str:
    if of in ("value", "gas_cost"):
        return {"value": "the value", "gas_cost": "the gas cost"}[of]
    kind, _, name = of.partition(".")
    return f"the field {name}" if kind == "fields" else name


def _amount(of: str, given: Any) -> str:
    return wei(int(given)) if of in ("value", "gas_cost") else str(given)


def _listing(given: Iterable[Any], word: str, *, cut: bool = True) -> str:
    texts = [str(one) for one in given]
    if cut and len(texts) > LISTED:
        return f"{', '.join(texts[:LISTED])} {word} {len(texts) - LISTED} more"
    return f" {word} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def span(seconds: int) -> str:
    """Return a time in the largest unit that it is a whole number of; a day is told as 24 hours."""
    size, name = next(
        (size, name) for size, name in SPANS if seconds % size == 0 and (size < 86_400 or seconds > size)
    )
    count = seconds // size
    return f"{count} {name}{'s' * (count != 1)}"


def wei(amount: int) -> str:
    """Return an amount in ether and in wei, no digit of it lost."""
    whole, rest = divmod(amount, 10**18)
    ether = f"{whole}.{rest:018d}".rstrip("0").rstrip(".")
    return f"{ether} ether ({amount} wei)"


# --- Requests ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """A call as a rule's signature reads it. arguments: None where its data is not exactly those."""

    function: str
    arguments: dict[str, Any] | None


def known_functions(body: Mapping[str, Any]) -> dict[bytes, Signature]:
    """Return the functions that a checked policy names, by selector."""
    known: dict[bytes, Signature] = {}
    for rule in body["rules"]:
        given = rule.get("when", {}).get("function", "any")
        for text in [] if given == "any" else given:
            try:
                signature = Signature.of(text, rule["name"])
            except PolicyInvalidError:  # an older version may name what is refused by now
                continue
            # Of two that read the same data, the one that names its arguments says more.
            if signature.selector not in known or signature.names[:1] != ("0",):
                known[signature.selector] = signature
    return known


def call_of(shown: Mapping[str, Any], known: Mapping[bytes, Signature]) -> Call | None:
    """Return the call that a request makes, None where no rule knows its function."""
    data = bytes.fromhex(shown["data"][2:])
    signature = known.get(data[:4])
    if signature is None or shown["what"] not in (What.CALL, What.ALLOWANCE, What.DELEGATION):
        return None
    return Call(signature.text, signature.decode(data))


def request(shown: Mapping[str, Any], known: Mapping[bytes, Signature]) -> str:
    """Return in one line what is asked for. shown: as of `facts.shown`; known: functions that rules name."""
    what = What(shown["what"])
    parts = [ONE[what].partition(":")[0]]
    call = call_of(shown, known)
    if call:
        parts.append(f"of {_call(call)}")
    elif what in (What.CALL, What.ALLOWANCE) and not shown["primary_type"]:
        parts.append(f"of selector {shown['data'][:10]}")
    if shown["primary_type"]:
        parts.append(f"of type {one_line(shown['primary_type'])}")
    if int(shown["value"]):
        parts.append(
            f"of {wei(int(shown['value']))}" if what == What.PAYMENT else f"with {wei(int(shown['value']))}"
        )
    if shown["to"]:
        parts.append(f"{'to' if what in (What.PAYMENT, What.NOOP, What.DELEGATION) else 'at'} {shown['to']}")
    if shown["chain"] is not None:
        parts.append(f"on chain {shown['chain']}")
    return " ".join([*parts, f"by the key {shown['key']}"])


def _call(call: Call) -> str:
    """Return a call with its arguments, where they are not too long for a line."""
    name = call.function.partition("(")[0]
    if call.arguments is None:
        return f"{name}, whose data cannot be read,"
    given = ", ".join(f"{one} {text}" for one, text in arguments(call.arguments))
    return f"{name}({given})" if len(given) <= LINE else name


def message(shown: Mapping[str, Any]) -> str:
    """Return a message as text where it is all readable characters, else as hex: nothing in it may hide."""
    data = bytes.fromhex(shown["data"][2:])
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return str(shown["data"])
    return text if all(one.isprintable() or one in "\n\t" for one in text) else str(shown["data"])


def one_line(text: str) -> str:
    """Return a text of a stranger's with nothing in it that turns or hides the words around it."""
    return text if text.isprintable() else json.dumps(text)


# --- Verdicts ---------------------------------------------------------------------------------------------


def verdict(said: Verdict) -> str:
    """Return what rules say of a request."""
    if not said.allowed:
        return f"denied by {said.rule}: {said.why}" if said.rule else f"denied: {said.why}"
    people = [f"{need.approvals} of {need.group} ({need.rule})" for need in said.needs]
    return f"allowed ({said.rule})" + (f", after a yes by {' and '.join(people)}" if people else "")


def changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what becomes of each rule, by name: new, changed or gone; those that stay are left out."""
    old, new = {rule["name"]: rule for rule in before}, {rule["name"]: rule for rule in after}
    found = {name: "new" for name in new if name not in old}
    found |= {name: "changed" for name in new if name in old and not _same(old[name], new[name])}
    return found | {name: "gone" for name in old if name not in new}


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def arguments(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a call's arguments by name, as JSON would show them."""
    return [(name, _value(one)) for name, one in given.items()]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return one_line(value) if isinstance(value, str) else str(plain(value))
