"""What holds of any rules and any request: a rule that does not allow never permits more, and what is read is what is there."""

from collections import Counter
from functools import cache
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.authorizations import Authorization
from keyguard.calls import Call
from keyguard.policies.facts import Facts, What, facts_of_content
from keyguard.policies.functions import Signature
from keyguard.policies.judging import UNREADABLE
from keyguard.policies.rules import CALLS, DATA, parse
from tests.unit.keyguard.test_policies import (
    ADDRESS,
    EVERYTHING,
    NOON,
    OTHER,
    TOKEN,
    TRANSFER,
    facts,
    typed,
    verdict,
)

APPROVE, NOTE = "approve(address spender, uint256 amount)", "note(string text)"
NUMBERS = st.sampled_from(
    [
        {"at_least": 2},
        {"at_most": 2},
        {"is": 1},
        {"in": [0, 3]},
        {"not_in": [1]},
        {"at_least": 1, "at_most": 2},
    ]
)
ADDRESSES = st.sampled_from([{"is": TOKEN}, {"in": [OTHER, TOKEN]}, {"not_in": [TOKEN]}])
COMMON: dict[str, Any] = {
    "chain": st.sampled_from([[1], [1, 2], [2, 3]]),
    "to": st.sampled_from([[TOKEN], [OTHER], [TOKEN, OTHER]]),
    "value": NUMBERS,
    "gas_cost": st.sampled_from([{"at_most": 10**13}, {"at_least": 10**13}]),
}
OF_DATA: dict[str, Any] = {
    "fields": st.fixed_dictionaries({}, optional={"amount": NUMBERS, "spender": ADDRESSES}),
    "domain": st.sampled_from([{"name": {"is": "Exchange"}}, {"version": {"is": "1"}}]),
}
PRIMARY_TYPES = st.sampled_from(["any", ["Order"], ["Permit"]])
EFFECTS = ("allow", "deny", "limit", "require_approval")


def kinds(among: set[What]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(kind.value for kind in among)), min_size=1, max_size=4)


@st.composite
def conditions(draw: st.DrawFn, asked: Facts, allowing: bool) -> dict[str, Any]:
    """Conditions on calls, on typed data, or on neither, half of them on just such requests as this one.

    allowing: with all that a rule that allows must say.
    """
    near = draw(st.booleans())
    about = family(asked) if near else draw(st.sampled_from(["calls", "data", "others"]))
    names = draw(st.lists(st.sampled_from(["gas_cost"] if near else sorted(COMMON)), max_size=2))
    when: dict[str, Any] = {name: draw(COMMON[name]) for name in names}
    if allowing or (not near and draw(st.booleans())):
        among = {"calls": CALLS, "data": DATA, "others": set(What) - (CALLS | DATA if allowing else set())}
        when["what"] = [asked.what.value] if near else draw(kinds(among[about]))
    if about == "calls":
        when["function"] = draw(st.sampled_from([[TRANSFER], [APPROVE, NOTE], "any"]))
        if when["function"] == [TRANSFER] and draw(st.booleans()):
            when["arguments"] = draw(st.fixed_dictionaries({"amount": NUMBERS}, optional={"to": ADDRESSES}))
    if about == "data":
        when |= draw(st.fixed_dictionaries({"primary_type": PRIMARY_TYPES}, optional=OF_DATA))
    return when


def family(asked: Facts) -> str:
    """Return what a rule about this request may have conditions on."""
    if asked.primary_type:
        return "data"
    return "calls" if asked.what in CALLS else "others"


@st.composite
def some_rule(draw: st.DrawFn, asked: Facts, *effects: str) -> dict[str, Any]:
    effect = draw(st.sampled_from(effects))
    when = draw(conditions(asked, allowing=effect == "allow"))
    rule: dict[str, Any] = {"name": "added", "effect": effect, "when": when}
    if effect == "limit":
        amounts = ["value", "count", "gas_cost", "fields.amount"]
        amounts += ["arguments.amount"] if when.get("function") == [TRANSFER] else []
        rule["limit"] = {"of": draw(st.sampled_from(amounts)), "at_most": 1, "seconds": 1}
    if effect == "require_approval":
        rule |= {"approvals": 1, "group": "people"}
    return rule


SELECTORS = [Signature.of(text, "").selector for text in (TRANSFER, APPROVE, NOTE)]
BODIES = [
    encode(["address", "uint256"], [TOKEN, 2]),
    encode(["address", "uint256"], [OTHER, 2**256 - 1]),
    encode(["string"], ["hello"]),
    b"",
    bytes(31),
    b"\xff" * 64,
]
PARTS = st.fixed_dictionaries(
    {"salt": st.just(1)}, optional={"amount": st.integers(0, 3), "spender": st.sampled_from([TOKEN, OTHER])}
)


@cache
def typed_once(primary: str, *parts: tuple[str, Any]) -> Facts:
    return typed(primary, **dict(parts))


@st.composite
def requests(draw: st.DrawFn) -> Facts:
    """Anything that may be asked for, some of it unreadable: malformed arguments, no known cost, fields that lack."""
    kind = draw(st.sampled_from(["transaction", "call", "typed data", "message", "delegation"]))
    if kind == "typed data":
        return typed_once(draw(st.sampled_from(["Order", "Permit"])), *draw(PARTS).items())
    if kind in ("message", "delegation"):
        content = b"hello" if kind == "message" else Authorization(1, bytes.fromhex(TOKEN[2:]), 0)
        return facts_of_content(content, "payments/euro", ADDRESS, "", NOON)
    chain, value = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    to = draw(st.sampled_from([TOKEN, TOKEN, OTHER, ADDRESS, "0x"]))
    data = draw(st.sampled_from([*SELECTORS, SELECTORS[0], b"", b"\x01"]))
    if len(data) == 4:
        data += draw(st.sampled_from(BODIES))
    if kind == "transaction":
        return facts(to=to, value=value, data=data, chain=chain)
    return facts_of_content(
        Call(chain, bytes.fromhex(to[2:]), value, data), "payments/euro", ADDRESS, "", NOON
    )


def cannot_tell(rule: dict[str, Any], asked: Facts) -> bool:
    (parsed,) = parse({"rules": [rule]})
    return parsed.matches(asked) is None


@settings(max_examples=400, deadline=None)
@given(requests(), st.booleans(), st.data())
def test_adding_a_rule_that_does_not_allow_never_permits_more(
    asked: Facts, generous: bool, data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(some_rule(asked, *EFFECTS), max_size=4))
    added, place = data.draw(some_rule(asked, *EFFECTS[1:])), data.draw(st.integers(0, 7))
    rules = [*drawn, *(EVERYTHING if generous else ())]
    rules = [{**rule, "name": f"rule {number}"} for number, rule in enumerate(rules)]
    before, after = verdict(asked, *rules), verdict(asked, *rules[:place], added, *rules[place:])
    assert before.allowed or not after.allowed
    if after.allowed:
        assert set(before.needs) <= set(after.needs)
        assert set(before.charges) <= set(after.charges)
    if cannot_tell(added, asked):
        more = len(after.needs) + len(after.charges) > len(before.needs) + len(before.charges)
        assert not after.allowed or (added["effect"] != "deny" and more)


@settings(max_examples=200, deadline=None)
@given(requests(), st.data())
def test_rule_that_cannot_tell_whether_it_is_meant_never_allows_and_always_denies(
    asked: Facts, data: st.DataObject
) -> None:
    allowing, denying = data.draw(some_rule(asked, "allow")), data.draw(some_rule(asked, "deny"))
    if cannot_tell(allowing, asked) and asked.what != What.NOOP:
        assert not verdict(asked, allowing).allowed
    if cannot_tell(denying, asked):
        assert verdict(asked, *EVERYTHING, denying).why == UNREADABLE


def test_requests_and_rules_are_drawn_that_cannot_tell() -> None:
    """The tests above would say little if they hardly drew any."""
    found: Counter[str] = Counter()

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(requests(), st.data())
    def draw(asked: Facts, data: st.DataObject) -> None:
        rule = data.draw(some_rule(asked, "deny"))
        if cannot_tell(rule, asked):
            found.update({"arguments", "gas_cost", "fields", "domain"} & set(rule["when"]))

    draw()
    assert set(found) == {"arguments", "gas_cost", "fields", "domain"}
    assert found.total() >= 20


STATIC = {
    "address": st.binary(min_size=20, max_size=20).map(lambda data: f"0x{data.hex()}"),
    "uint256": st.integers(0, 2**256 - 1),
    "uint8": st.integers(0, 255),
    "int128": st.integers(-(2**127), 2**127 - 1),
    "bool": st.booleans(),
    "bytes4": st.binary(min_size=4, max_size=4),
    "bytes32": st.binary(min_size=32, max_size=32),
}


@pytest.mark.case("K43")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(sorted(STATIC)), min_size=1, max_size=5), st.data())
def test_words_are_read_as_another_decoder_reads_them_and_no_others(types: list[str], data: Any) -> None:
    signature = Signature.of(f"f({','.join(types)})", "")
    values = [data.draw(STATIC[type_]) for type_ in types]
    encoded = encode(types, values)
    read = signature.decode(signature.selector + encoded)
    assert read is not None
    assert list(read.values()) == list(decode(types, encoded)) == values
    place, bit = data.draw(st.integers(0, len(encoded) - 1)), 1 << data.draw(st.integers(0, 7))
    bent = bytes(byte ^ bit if n == place else byte for n, byte in enumerate(encoded))
    other = signature.decode(signature.selector + bent)
    try:
        theirs: Any = list(decode(types, bent))
    except DecodingError:
        theirs = None
    assert (None if other is None else list(other.values())) == theirs
