"""Keyguard's encoding and curve against vectors that others have published: vectors.json says where each is from."""

import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data

from keyguard import curve, ethereum
from keyguard.authorizations import Authorization, SignedAuthorization
from keyguard.ethereum import GAS_PRICED, UnsignedTransaction
from keyguard.typed_data import decode_typed_data

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors.json").read_text())


def of(what: str) -> pytest.MarkDecorator:
    """Give the vectors of a kind, each under its EIP."""
    found = [vector for vector in VECTORS if vector["what"] == what]
    return pytest.mark.parametrize("vector", found, ids=[f"EIP-{one['eip']}" for one in found])


def octets(text: str | None) -> bytes:
    return bytes.fromhex((text or "0x").removeprefix("0x"))


def signed(vector: dict[str, Any], payload: bytes) -> bytes:
    """Return the signature, 65 bytes, having compared what is signed where the source says that, too."""
    digest = ethereum.digest(payload)
    assert payload == octets(vector.get("payload")) or "payload" not in vector
    assert digest == octets(vector.get("digest")) or "digest" not in vector
    return curve.sign(bytearray(octets(vector["private_key"])), digest)


def with_v(signature: bytes) -> bytes:
    """Return the signature as wallets write it: 27 or 28 at its end."""
    return signature[:64] + bytes([27 + signature[64]])


def authorization_of(fields: dict[str, Any]) -> Authorization:
    return Authorization(fields["chainId"], octets(fields["address"]), fields["nonce"])


def transaction_of(vector: dict[str, Any]) -> UnsignedTransaction:
    fields = vector["fields"]
    fees = {"max_fee_per_gas": "maxFeePerGas", "max_priority_fee_per_gas": "maxPriorityFeePerGas"}
    if fields["type"] in GAS_PRICED:
        fees = {"gas_price": "gasPrice"}
    authorizations = []
    for one in map(authorization_of, fields.get("authorizationList", ())):
        signature = signed({"private_key": vector["private_key"]}, one.payload())
        authorizations.append(SignedAuthorization(one.chain_id, one.delegate, one.nonce, signature))
    return UnsignedTransaction(
        fields["type"],
        fields["chainId"],
        fields["nonce"],
        fields["gas"],
        octets(fields["to"]),
        fields["value"],
        octets(fields["data"]),
        **{name: fields[theirs] for name, theirs in fees.items()},
        access_list=tuple(
            (octets(one["address"]), tuple(map(octets, one["storageKeys"])))
            for one in fields.get("accessList", ())
        ),
        authorizations=tuple(authorizations),
    )


@of("transaction")
def test_published_transaction_has_its_bytes(vector: dict[str, Any]) -> None:
    transaction = transaction_of(vector)
    signature = signed(vector, transaction.payload())
    raw = transaction.signed(signature)
    assert raw == octets(vector["signed"])
    assert ethereum.decode_signed(raw) == (transaction, signature)


@of("message")
def test_published_message_has_its_signature(vector: dict[str, Any]) -> None:
    payload = ethereum.message_payload(vector["message"].encode())
    assert with_v(signed(vector, payload)) == octets(vector["signed"])


@of("typed_data")
def test_published_typed_data_has_its_signature(vector: dict[str, Any]) -> None:
    payload = decode_typed_data(vector["data"]).payload()
    assert with_v(signed(vector, payload)) == octets(vector["signed"])


@of("authorization")
def test_published_authorization_has_its_signature(vector: dict[str, Any]) -> None:
    """Some end the signature with the recovery id, some with 27 or 28."""
    signature = signed(vector, authorization_of(vector["fields"]).payload())
    assert octets(vector["signed"]) in (signature, with_v(signature))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: f"EIP-{one['eip']}")
def test_eth_account_makes_the_same_of_every_vector(vector: dict[str, Any]) -> None:
    key, expected = vector["private_key"], octets(vector["signed"])
    if vector["what"] == "message":
        assert Account.sign_message(encode_defunct(text=vector["message"]), key).signature == expected
    elif vector["what"] == "typed_data":
        data = encode_typed_data(full_message=vector["data"])
        assert Account.sign_message(data, key).signature == expected
    elif vector["what"] == "authorization":
        made = Account.sign_authorization(vector["fields"], key)
        assert bytes(made.signature)[:64] == expected[:64]
        assert made.y_parity == expected[64] % 27
    else:
        fields = dict(vector["fields"])
        if fields["type"] == 0:  # eth-account knows it by its gas price
            del fields["type"]
        fields["to"] = octets(fields["to"])
        if "authorizationList" in fields:
            fields["authorizationList"] = [
                Account.sign_authorization(one, key) for one in fields["authorizationList"]
            ]
        assert bytes(Account.sign_transaction(fields, key).raw_transaction) == expected


def test_every_vector_says_where_it_is_from_and_no_standard_lacks_one() -> None:
    assert all(vector["source"].startswith("https://") for vector in VECTORS)
    assert {vector["eip"] for vector in VECTORS} == {155, 191, 712, 1559, 2930, 7702}
