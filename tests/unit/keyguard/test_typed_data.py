"""EIP-712: what is signed is all that the message says, for one contract on one chain."""

import copy
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import curve, typed_data
from keyguard.errors import FloorError, TypedDataError
from keyguard.typed_data import decode_typed_data

CONTRACT = "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"
COW, BOB = "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826", "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"
# The example of EIP-712 itself.
MAIL: dict[str, Any] = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Person": [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}],
        "Mail": [
            {"name": "from", "type": "Person"},
            {"name": "to", "type": "Person"},
            {"name": "contents", "type": "string"},
        ],
    },
    "primaryType": "Mail",
    "domain": {"name": "Ether Mail", "version": "1", "chainId": 1, "verifyingContract": CONTRACT},
    "message": {
        "from": {"name": "Cow", "wallet": COW},
        "to": {"name": "Bob", "wallet": BOB},
        "contents": "Hello, Bob!",
    },
}
REMOVED = object()


def edited(path: str, value: object, start: dict[str, Any] = MAIL) -> dict[str, Any]:
    """Return a copy in which the part at `path` is `value`, or gone."""
    whole = copy.deepcopy(start)
    *parents, last = path.split("/")
    part = whole
    for name in parents:
        part = part[name]
    if value is REMOVED:
        del part[last]
    else:
        part[last] = value
    return whole


def message_of(type_: str, value: object) -> dict[str, Any]:
    """Return data whose message is one value of this type."""
    return {
        "types": {"One": [{"name": "value", "type": type_}]},
        "primaryType": "One",
        "domain": {"chainId": 1, "verifyingContract": CONTRACT},
        "message": {"value": value},
    }


def test_example_of_the_standard_has_its_digest() -> None:
    decoded = decode_typed_data(MAIL)
    assert (
        keccak(decoded.payload()).hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    )
    assert (decoded.chain_id, decoded.verifying_contract) == (1, bytes.fromhex(CONTRACT[2:]))


def test_domain_type_may_be_left_out_and_other_types_may_be_there() -> None:
    plain = decode_typed_data(MAIL).payload()
    assert decode_typed_data(edited("types/EIP712Domain", REMOVED)).payload() == plain
    assert decode_typed_data(edited("types/Unused", [{"name": "a", "type": "Mail[]"}])).payload() == plain


@pytest.mark.case("K16")
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("message/amount", "message.amount"),
        ("message/from/amount", "message.from.amount"),
        ("types/Person", "message.from.wallet"),
        ("domain/amount", "domain"),
        ("amount", "typed_data"),
    ],
)
def test_field_that_would_not_be_signed_is_refused(path: str, field: str) -> None:
    value = [{"name": "name", "type": "string"}] if path == "types/Person" else 1
    with pytest.raises(TypedDataError) as caught:
        decode_typed_data(edited(path, value))
    assert caught.value.field == field


@pytest.mark.case("K16")
def test_eth_account_would_have_signed_without_the_extra_field() -> None:
    """The reason for the rule; when this fails, eth-account has closed its gap."""
    extra = edited("message/amount", 10**18)
    assert encode_typed_data(full_message=extra) == encode_typed_data(full_message=MAIL)


@pytest.mark.case("K17")
@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("domain/chainId", REMOVED, "domain.chainId"),
        ("domain/chainId", 0, "domain.chainId"),
        ("domain/chainId", None, "domain.chainId"),
        ("domain/chainId", "1", "domain.chainId"),
        ("domain/chainId", True, "domain.chainId"),
        ("domain/verifyingContract", REMOVED, "domain.verifyingContract"),
        ("domain/verifyingContract", "", "domain.verifyingContract"),
        ("domain/verifyingContract", CONTRACT.replace("Cc", "cC", 1), "domain.verifyingContract"),
        ("domain", None, "domain"),
        ("domain", {}, "domain.chainId"),
    ],
)
def test_data_for_any_chain_or_contract_is_refused(path: str, value: object, field: str) -> None:
    with pytest.raises(FloorError) as caught:
        decode_typed_data(edited("types/EIP712Domain", REMOVED, edited(path, value)))
    assert caught.value.field == field


@pytest.mark.case("K17")
def test_data_for_another_chain_than_the_callers_is_refused() -> None:
    assert decode_typed_data(MAIL, 1)
    with pytest.raises(TypedDataError, match="is not 137"):
        decode_typed_data(MAIL, 137)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("types", {}, "types"),
        ("types", None, "types"),
        ("types/uint256", [], "types"),
        ("types/bytes33", [], "types"),
        ("types/int", [], "types"),
        ("types/A B", [], "types"),
        ("types/Mail(", [], "types"),
        ("types/Person", None, "types.Person"),
        ("types/Person", [{"name": "name"}], "types.Person"),
        ("types/Person", [{"name": "name", "type": "string", "more": 1}], "types.Person"),
        ("types/Person", [{"name": "a,b", "type": "string"}], "types.Person"),
        ("types/Person", [{"name": "name", "type": "string"}] * 2, "types.Person"),
        ("types/Person", [{"name": "name", "type": "text"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "uint"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "uint7"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "uint264"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "bytes0"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "string[0]"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "string[-1]"}], "types.Person.name"),
        ("types/Person", [{"name": "name", "type": "EIP712Domain"}], "types.Person.name"),
        ("types/Person", [{"name": "mails", "type": "Mail[]"}], "primaryType"),
        ("types/EIP712Domain", [{"name": "chainId", "type": "uint256"}], "types.EIP712Domain"),
        ("types/EIP712Domain", list(reversed(MAIL["types"]["EIP712Domain"])), "types.EIP712Domain"),
        ("primaryType", "Letter", "primaryType"),
        ("primaryType", "EIP712Domain", "primaryType"),
        ("primaryType", REMOVED, "typed_data"),
        ("message", None, "message"),
        ("message/to", None, "message.to"),
        ("message/to", REMOVED, "message.to"),
        ("message/contents", None, "message.contents"),
        ("message/contents", 5, "message.contents"),
        ("message/contents", "\ud800", "message.contents"),
        ("message/from/wallet", COW[2:], "message.from.wallet"),
    ],
)
def test_malformed_data_is_refused_and_the_part_named(path: str, value: object, field: str) -> None:
    with pytest.raises(FloorError) as caught:
        decode_typed_data(edited(path, value))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("int8", 128),
        ("int8", -129),
        ("uint256", 2**256),
        ("uint256", True),
        ("uint256", 1.0),
        ("uint256", "0x1"),
        ("uint256", "01"),
        ("uint256", " 1"),
        ("uint256", "１"),
        ("bool", 1),
        ("bool", "false"),
        ("bytes4", "0x000000"),
        ("bytes4", "0x0000000000"),
        ("bytes4", "abcd"),
        ("bytes4", b"\0" * 4),
        ("bytes", "0x0"),
        ("bytes", 5),
        ("string", b"text"),
        ("string[]", "text"),
        ("string[]", [None]),
        ("string[2]", ["one"]),
        ("string[][1]", [["a"], ["b"]]),
        ("uint8[]", [0] * 20_001),
    ],
)
def test_value_that_two_readers_could_read_in_two_ways_is_refused(type_: str, value: object) -> None:
    with pytest.raises(FloorError) as caught:
        decode_typed_data(message_of(type_, value))
    assert caught.value.field.startswith("message.value")


def test_deep_nesting_is_refused() -> None:
    value: object = "x"
    for _ in range(40):
        value = [value]
    with pytest.raises(TypedDataError, match="deeper"):
        decode_typed_data(message_of("string" + "[]" * 40, value))


MORE_DOMAIN = {"name": "n", "version": "v", "salt": "0x" + "01" * 32}
ATOMS: dict[str, st.SearchStrategy[Any]] = {
    "uint8": st.integers(0, 255),
    "uint256": st.integers(0, 2**256 - 1).map(lambda number: str(number) if number % 2 else number),
    "int256": st.integers(-(2**255), 2**255 - 1),
    "int24": st.integers(-(2**23), 2**23 - 1),
    "bool": st.booleans(),
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: curve.checksummed("0x" + raw.hex())),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    "bytes": st.binary(max_size=70).map(lambda raw: "0x" + raw.hex()),
    "bytes32": st.binary(min_size=32, max_size=32).map(lambda raw: "0x" + raw.hex()),
    "bytes3": st.binary(min_size=3, max_size=3).map(lambda raw: "0x" + raw.hex()),
}


@st.composite
def typed(draw: st.DrawFn) -> dict[str, Any]:
    """Some structs, each made of atoms, arrays and structs before it, and a message of the last one."""
    types: dict[str, list[dict[str, str]]] = {}
    values = dict(ATOMS)
    for number in range(draw(st.integers(1, 4))):
        names = draw(st.lists(st.sampled_from(["a", "b", "c", "of", "_x"]), unique=True, max_size=4))
        fields, given_ = [], {}
        for name in names:
            core = draw(st.sampled_from(sorted(values)))
            suffix = draw(st.sampled_from(["", "", "[]", "[2]", "[][1]"]))
            fields.append({"name": name, "type": core + suffix})
            given_[name] = shaped(values[core], suffix)
        types[f"T{number}"] = fields
        values[f"T{number}"] = st.fixed_dictionaries(given_)
    primary = f"T{len(types) - 1}"
    domain = {"chainId": draw(st.integers(1, 2**50)), "verifyingContract": CONTRACT}
    more = {name: value for name, value in MORE_DOMAIN.items() if draw(st.booleans())}
    return {"types": types, "primaryType": primary, "domain": domain | more, "message": draw(values[primary])}


def shaped(value: st.SearchStrategy[Any], suffix: str) -> st.SearchStrategy[Any]:
    if suffix == "[]":
        return st.lists(value, max_size=3)
    if suffix == "[2]":
        return st.lists(value, min_size=2, max_size=2)
    return st.lists(st.lists(value, max_size=2), min_size=1, max_size=1) if suffix else value


@settings(max_examples=150, deadline=None)
@given(typed())
def test_two_encoders_agree_on_any_data_that_passes(data: dict[str, Any]) -> None:
    # It compares them itself, and refuses what they differ on.
    payload = decode_typed_data(data).payload()
    secret = bytearray(b"\7" * 32)
    recovered = curve.recover(curve.sign(secret, keccak(payload)), keccak(payload))
    assert curve.address_of(recovered) == Account.from_key(bytes(secret)).address


def test_data_on_which_two_encoders_differ_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_data, "_encoded_by_eth_account", lambda *_: b"\x19\x01" + bytes(64))
    with pytest.raises(TypedDataError, match="do not agree"):
        decode_typed_data(MAIL)
