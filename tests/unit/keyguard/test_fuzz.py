"""Whatever is asked for: it is refused with a FloorError that says why, or it is exactly what was understood."""

import copy
from typing import Any

import eth_account.messages  # noqa: F401 - raises Python's recursion limit, which must not happen in the middle of a test
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyguard import ethereum
from keyguard.errors import FloorError, PolicyInvalidError
from keyguard.floor import decode_authorization, decode_call, decode_transaction
from keyguard.policies.rules import parse
from keyguard.typed_data import decode_typed_data

ADDRESS = "0x" + "aa" * 20
SIGNATURE = bytes(31) + b"\x01" + bytes(31) + b"\x01" + b"\x00"
FUZZ = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NUMBERS = st.one_of(
    st.integers(-2, 3),
    st.sampled_from(
        [20_999, 21_000, 2**53, 2**63 - 36, 2**63, 2**64 - 2, 2**64 - 1, 2**64, 2**255, 2**256 - 1, 2**256]
    ),
    st.integers(),
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "0x",
            "0x0",
            "0x00",
            ADDRESS,
            ADDRESS.upper(),
            "0X" + "aa" * 20,
            "0x" + "aA" * 20,
            "1",
            "-1",
            "1e18",
            "\x00",
        ]
    ),
    st.text(max_size=70),
    st.binary(max_size=40).map(lambda data: f"0x{data.hex()}"),
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(NUMBERS, TEXTS, st.none(), st.booleans(), st.floats(), st.binary(max_size=40)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=12), inner, max_size=3)
    ),
    max_leaves=6,
)
WELL: dict[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 0,
    "gas": 21_000,
    "to": "0x" + "11" * 20,
    "value": 1,
    "data": "0x",
    "from": ADDRESS,
    "maxFeePerGas": 2,
    "maxPriorityFeePerGas": 1,
}
MORE = [
    "gasPrice",
    "accessList",
    "maxFeePerBlobGas",
    "blobs",
    "wrapperVersion",
    "authorizationList",
    "v",
    "hash",
]


@st.composite
def nearly(draw: Any, well: dict[str, Any], more: list[str]) -> Any:
    """Something well formed, but for some places; now and then nothing of the kind."""
    if draw(st.integers(0, 20)) == 0:
        return draw(ANYTHING)
    given = copy.deepcopy(well)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*well, *more]))
        if draw(st.booleans()):
            given[name] = draw(ANYTHING)
        else:
            given.pop(name, None)
    return given


@FUZZ
@given(nearly(WELL, MORE))
def test_transaction_is_refused_or_is_what_its_bytes_say(asked: Any) -> None:
    try:
        decoded = decode_transaction(asked, ADDRESS)
    except FloorError:
        return
    assert ethereum.decode_signed(decoded.signed(SIGNATURE)) == (decoded, SIGNATURE)
    assert decoded.chain_id == asked["chainId"] > 0
    assert (decoded.nonce, decoded.gas, decoded.value) == (
        asked["nonce"],
        asked["gas"],
        asked.get("value", 0),
    )


@FUZZ
@given(
    nearly(
        {"chainId": 1, "from": ADDRESS, "to": ADDRESS, "value": 1, "data": "0x"},
        ["gas", "maxFeePerGas", "nonce"],
    )
)
def test_call_for_a_custody_is_refused_or_taken_whole(asked: Any) -> None:
    try:
        call = decode_call(asked, ADDRESS)
    except FloorError:
        return
    assert (call.chain_id, call.value) == (asked["chainId"], asked.get("value", 0))


@FUZZ
@given(ANYTHING, ANYTHING, ANYTHING)
def test_authorisation_is_refused_or_for_one_chain(chain_id: Any, delegate: Any, nonce: Any) -> None:
    try:
        decoded = decode_authorization(chain_id, delegate, nonce)
    except FloorError:
        return
    assert decoded.chain_id == chain_id > 0


TYPED: dict[str, Any] = {
    "types": {"Order": [{"name": "to", "type": "address"}, {"name": "amounts", "type": "uint256[]"}]},
    "primaryType": "Order",
    "domain": {"name": "x", "chainId": 1, "verifyingContract": ADDRESS},
    "message": {"to": ADDRESS, "amounts": [1, "2"]},
}


@st.composite
def typed(draw: Any) -> Any:
    given = draw(nearly(TYPED, ["EIP712Domain"]))
    if isinstance(given, dict):
        for part in ("domain", "message", "types"):
            if isinstance(given.get(part), dict) and draw(st.booleans()):
                given[part] = draw(nearly(given[part], ["to", "salt", "Order", "version"]))
    return given


@pytest.mark.case("K16", "K17")
@FUZZ
@given(typed())
def test_typed_data_is_refused_or_signed_as_two_encoders_read_it(asked: Any) -> None:
    try:
        decoded = decode_typed_data(asked)
    except FloorError:
        return
    assert decoded.chain_id == asked["domain"]["chainId"] > 0
    assert set(decoded.message) == set(asked["message"]), "nothing in it is left out of what is signed"


RULE: dict[str, Any] = {
    "name": "x",
    "effect": "allow",
    "when": {
        "what": ["call"],
        "function": ["f(uint256 a)"],
        "arguments": {"a": {"at_most": 1}},
        "chain": [1],
    },
}


@st.composite
def policies(draw: Any) -> Any:
    rule = draw(nearly(RULE, ["approvals", "group", "limit", "note"]))
    if isinstance(rule, dict) and isinstance(rule.get("when"), dict):
        rule["when"] = draw(
            nearly(rule["when"], ["to", "value", "hours", "fields", "domain", "key", "caller"])
        )
    return {"rules": [rule]}


@FUZZ
@given(policies())
def test_policy_is_refused_with_its_place_or_understood(body: Any) -> None:
    try:
        rules = parse(body)
    except PolicyInvalidError:
        return
    assert len(rules) == 1
