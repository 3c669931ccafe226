"""Encoding and decoding against eth-account, and signatures against libsecp256k1's own rules."""

import os
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import curve, ethereum
from keyguard.floor import decode_transaction

SECRET = bytearray(range(1, 33))
ADDRESS = curve.address_of(curve.public_key(SECRET))
TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"

LEGACY: dict[str, Any] = {
    "chainId": 31337,
    "nonce": 7,
    "gas": 53_000,
    "gasPrice": 2 * 10**9,
    "to": TO,
    "value": 10**18,
    "data": "0x" + "ab" * 68,
}
DYNAMIC: dict[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 0,
    "gas": 21_000,
    "maxFeePerGas": 30 * 10**9,
    "maxPriorityFeePerGas": 10**9,
    "to": TO,
    "value": 0,
    "data": "0x",
}
VECTORS = [
    LEGACY,
    {**LEGACY, "chainId": 2**53, "nonce": 0, "value": 0, "data": "0x00"},
    {**LEGACY, "to": None, "data": "0x60" + "80" * 300},
    {**LEGACY, "gasPrice": 0, "data": "0x7f"},
    DYNAMIC,
    {**DYNAMIC, "data": "0x80", "value": 2**200, "nonce": 2**64 - 2},
    {**DYNAMIC, "to": None, "data": "0x" + "fe" * 20_000, "gas": 9_000_000},
    {**DYNAMIC, "data": "0x" + "00" * 55, "maxPriorityFeePerGas": 0},
    {**DYNAMIC, "data": "0x" + "01" * 56, "nonce": 128},
]


def raw_of(fields: dict[str, Any]) -> bytes:
    transaction = decode_transaction(fields, ADDRESS)
    return transaction.signed(curve.sign(SECRET, ethereum.digest(transaction.payload())))


def eth_account_raw(fields: dict[str, Any]) -> bytes:
    without_none = {name: value for name, value in fields.items() if value is not None}
    return bytes(Account.from_key(bytes(SECRET)).sign_transaction(without_none).raw_transaction)


@pytest.mark.parametrize("fields", VECTORS)
def test_raw_transaction_is_byte_for_byte_what_eth_account_makes(fields: dict[str, Any]) -> None:
    assert raw_of(fields) == eth_account_raw(fields)


def test_digest_of_a_typed_transaction_is_eth_accounts() -> None:
    payload = decode_transaction(DYNAMIC, ADDRESS).payload()
    assert ethereum.digest(payload) == bytes(TypedTransaction.from_dict(DYNAMIC).hash())


@settings(max_examples=150, deadline=None)
@given(
    typed=st.booleans(),
    chain_id=st.integers(1, 2**50),
    nonce=st.integers(0, 2**64 - 2),
    gas=st.integers(21_000, 2**32),
    fees=st.tuples(st.integers(0, 2**80), st.integers(0, 2**80)),
    to=st.binary(min_size=20, max_size=20),
    value=st.integers(0, 2**128),
    data=st.binary(max_size=300),
)
def test_any_transaction_encodes_as_eth_account_does_and_decodes_to_itself(
    typed: bool,
    chain_id: int,
    nonce: int,
    gas: int,
    fees: tuple[int, int],
    to: bytes,
    value: int,
    data: bytes,
) -> None:
    fields: dict[str, Any] = {
        "chainId": chain_id,
        "nonce": nonce,
        "gas": gas,
        "to": curve.checksummed("0x" + to.hex()),
        "value": value,
        "data": "0x" + data.hex(),
    }
    if typed:
        fields |= {"type": 2, "maxFeePerGas": max(fees), "maxPriorityFeePerGas": min(fees)}
    else:
        fields |= {"gasPrice": fees[0]}
    raw = raw_of(fields)
    assert raw == eth_account_raw(fields)
    transaction, signature = ethereum.decode_signed(raw)
    assert transaction == decode_transaction(fields, ADDRESS)
    assert curve.recover(signature, ethereum.digest(transaction.payload())) == curve.public_key(SECRET)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        b"\x02\xc0",
        b"\x01\xc0",
        b"\xc0",
        b"\x80",
        raw_of(DYNAMIC)[:-1],
        raw_of(DYNAMIC) + b"\0",
        raw_of(LEGACY)[1:],
        b"\x03" + raw_of(DYNAMIC)[1:],
    ],
)
def test_what_is_no_whole_transaction_does_not_decode(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the type is the promise
        ethereum.decode_signed(raw)


def test_legacy_transaction_without_replay_protection_does_not_decode() -> None:
    naive = {name: value for name, value in LEGACY.items() if name != "chainId"}
    with pytest.raises(ValueError, match="replay protection"):
        ethereum.decode_signed(eth_account_raw(naive))


def test_message_signature_is_the_one_eth_account_makes() -> None:
    message = "grüße".encode()
    signature = curve.sign(SECRET, ethereum.digest(ethereum.message_payload(message)))
    theirs = Account.from_key(bytes(SECRET)).sign_message(encode_defunct(message)).signature
    assert HexBytes(signature[:64] + bytes([27 + signature[64]])) == theirs


@pytest.mark.case("K20")
def test_ten_thousand_signatures_half_of_them_high_come_out_low_and_recoverable() -> None:
    secret = curve.new_secret()
    public, high = curve.public_key(secret), 0
    for _ in range(10_000):
        digest = os.urandom(32)
        signature = curve.sign(secret, digest)
        if digest[0] & 1:  # what a backend without low s would have answered
            s = curve.ORDER - int.from_bytes(signature[32:64])
            signature = signature[:32] + s.to_bytes(32) + bytes([signature[64] ^ 1])
            high += 1
        lowered = curve.low_s(signature)
        assert 0 < int.from_bytes(lowered[32:64]) <= curve.HALF_ORDER
        assert curve.recover(lowered, digest) == public
    assert 4_000 < high < 6_000


ONE = (1).to_bytes(32)


@pytest.mark.case("K21")
@pytest.mark.parametrize(
    "signature",
    [
        b"",
        ONE + ONE,
        ONE + ONE[:31],
        ONE + ONE + b"\0\0",
        ONE + ONE + b"\x02",
        ONE + ONE + b"\x1b",
        bytes(32) + ONE + b"\0",
        ONE + bytes(32) + b"\0",
        curve.ORDER.to_bytes(32) + ONE + b"\0",
        ONE + curve.ORDER.to_bytes(32) + b"\0",
        b"\xff" * 64 + b"\1",
    ],
)
def test_malformed_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(ValueError, match=r"signature|range"):
        curve.low_s(signature)


@pytest.mark.case("K19")
@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_digest_of_another_length_is_not_signed(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        curve.sign(SECRET, b"\1" * size)


@pytest.mark.case("K51")
@pytest.mark.parametrize(
    "number", [0, curve.ORDER, curve.ORDER + 1, 2**256 - 1], ids=["0", "n", "n+1", "2^256-1"]
)
def test_number_outside_the_group_is_no_private_key(number: int) -> None:
    secret = bytearray(number.to_bytes(32))
    assert not curve.is_secret(secret)
    with pytest.raises(ValueError, match="not a private key"):
        curve.public_key(secret)
    with pytest.raises(ValueError, match="not a private key"):
        curve.sign(secret, bytes(32))


def test_wiping_overwrites_in_place() -> None:
    secret = curve.new_secret()
    view = memoryview(secret)
    curve.wipe(secret)
    assert bytes(view) == bytes(32)
