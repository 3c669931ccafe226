"""Calls, events and revert reasons."""

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from signer import Contract, decode_revert, encode_constructor
from signer.requests import Log

A, B = "0x" + "11" * 20, "0x" + "22" * 20
ABI: list[dict[str, Any]] = [
    {
        "type": "constructor",
        "inputs": [
            {"name": "owner", "type": "address"},
            {
                "name": "details",
                "type": "tuple",
                "components": [{"name": "name", "type": "string"}, {"name": "agents", "type": "address[]"}],
            },
        ],
    },
    {
        "type": "function",
        "name": "transfer",
        "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
        "outputs": [{"name": "", "type": "bool"}],
    },
    {"type": "function", "name": "transfer", "inputs": [{"name": "to", "type": "address"}], "outputs": []},
    {
        "type": "function",
        "name": "holders",
        "inputs": [],
        "outputs": [
            {"name": "who", "type": "address[]"},
            {"name": "salt", "type": "bytes32"},
        ],
    },
    {"type": "function", "name": "mark", "inputs": [{"name": "topic", "type": "bytes32"}], "outputs": []},
    {
        "type": "event",
        "name": "Moved",
        "inputs": [
            {"name": "from", "type": "address", "indexed": True},
            {"name": "amount", "type": "uint256", "indexed": False},
            {"name": "note", "type": "string", "indexed": True},
        ],
    },
    {"type": "error", "name": "NotAllowed", "inputs": [{"name": "who", "type": "address"}]},
]
CONTRACT = Contract(ABI)


def selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


def test_call_is_encoded_by_name_and_number_of_arguments() -> None:
    data = bytes.fromhex(CONTRACT.encode("transfer", A, 5)[2:])
    assert data == selector("transfer(address,uint256)") + encode(["address", "uint256"], [A, 5])
    assert CONTRACT.encode("transfer", A)[2:10] == selector("transfer(address)").hex()
    assert CONTRACT.encode("transfer(address)", A) == CONTRACT.encode("transfer", A)


def test_hex_text_is_taken_for_bytes() -> None:
    assert CONTRACT.encode("mark", "0x" + "ab" * 32).endswith("ab" * 32)
    assert CONTRACT.encode("mark", b"\xab" * 32).endswith("ab" * 32)


def test_constructor_takes_a_tuple_as_a_mapping_or_in_order() -> None:
    by_name = encode_constructor(ABI, "0x6001", A, {"name": "x", "agents": [A, B]})
    assert by_name == encode_constructor(ABI, "6001", A, ("x", [A, B]))
    assert by_name.startswith("0x6001")


@pytest.mark.parametrize("arguments", [(), (A, 5, 6), (A, -1), ("0x12", 5)])
def test_wrong_arguments_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises((ValueError, TypeError)):
        CONTRACT.encode("transfer(address,uint256)", *arguments)


def test_answers_are_decoded_with_checksummed_addresses() -> None:
    answer = encode(["address[]", "bytes32"], [[A], b"\x01" * 32])
    assert CONTRACT.decode("holders", answer) == [[A], b"\x01" * 32]
    assert CONTRACT.decode("transfer", encode(["bool"], [True]), 2) is True
    with pytest.raises(ValueError, match="no contract"):
        CONTRACT.decode("holders", b"")


def test_events_are_found_among_others() -> None:
    topic = "0x" + keccak(text="Moved(address,uint256,string)").hex()
    note = "0x" + keccak(text="hello").hex()
    log = Log(
        address=A, topics=[topic, "0x" + "00" * 12 + "22" * 20, note], data="0x" + (7).to_bytes(32).hex()
    )
    other = Log(address=B, topics=["0x" + "00" * 32], data="0x")
    assert CONTRACT.event("Moved", [other, log]) == [{"from": B, "amount": 7, "note": note}]
    assert CONTRACT.at(B).event("Moved", [log]) == []
    with pytest.raises(ValueError, match="Nothing"):
        CONTRACT.event("Nothing", [])


def revert(signature: str, types: list[str], values: list[object]) -> str:
    return "0x" + (selector(signature) + encode(types, values)).hex()


@pytest.mark.case("PC14")
def test_revert_reasons_are_read() -> None:
    assert decode_revert(revert("Error(string)", ["string"], ["no money"])) == "no money"
    assert "overflow" in decode_revert(revert("Panic(uint256)", ["uint256"], [0x11]))
    custom = revert("NotAllowed(address)", ["address"], [A])
    assert CONTRACT.decode_revert(custom) == f"NotAllowed({A})"
    assert decode_revert(custom).startswith("custom error 0x" + custom[2:10])
    assert decode_revert("0x") == "reverted without a reason"


@pytest.mark.parametrize(
    "data", ["0x08c379a0", "0x08c379a0ffff", "0x4e487b71", "0x01", "0x08c379a0" + "ff" * 96]
)
def test_broken_revert_data_is_shown_as_it_is(data: str) -> None:
    assert data[2:] in decode_revert(data)
