"""What is signed for nobody."""

from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.errors import Disposition, FloorError
from keyguard.floor import MAX_CHAIN_ID, checked_idempotency_key, checked_message, decode_transaction

SENDER = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
COMMON: dict[str, Any] = {"chainId": 1, "nonce": 0, "gas": 21_000, "to": TO, "value": 0, "data": "0x"}
LEGACY: dict[str, Any] = {**COMMON, "gasPrice": 1}
DYNAMIC: dict[str, Any] = {**COMMON, "type": 2, "maxFeePerGas": 2, "maxPriorityFeePerGas": 1}
MISSING = object()


def refused(fields: dict[str, Any]) -> FloorError:
    with pytest.raises(FloorError) as caught:
        decode_transaction({name: value for name, value in fields.items() if value is not MISSING}, SENDER)
    assert caught.value.disposition is Disposition.FAIL
    assert caught.value.remedy
    return caught.value


def test_the_two_types_pass() -> None:
    assert decode_transaction(LEGACY, SENDER).type == 0
    assert decode_transaction(DYNAMIC, SENDER).type == 2
    assert decode_transaction({**LEGACY, "type": "0x0", "from": SENDER}, SENDER).type == 0
    assert decode_transaction({**DYNAMIC, "accessList": [], "from": SENDER.lower()}, SENDER).type == 2


BAD_CHAIN_IDS = [MISSING, None, 0, -1, True, "1", "0x1", 1.0, 2**64, MAX_CHAIN_ID + 1]


@pytest.mark.case("K13")
@pytest.mark.parametrize("chain_id", BAD_CHAIN_IDS)
def test_legacy_transaction_without_a_chain_id_is_refused(chain_id: object) -> None:
    assert refused({**LEGACY, "chainId": chain_id}).code == "KEYGUARD_CHAIN_ID"


@pytest.mark.case("K14")
@pytest.mark.parametrize("chain_id", BAD_CHAIN_IDS)
def test_type_2_transaction_without_a_chain_id_is_refused(chain_id: object) -> None:
    assert refused({**DYNAMIC, "chainId": chain_id}).code == "KEYGUARD_CHAIN_ID"


@pytest.mark.case("K13", "K14")
def test_eth_account_would_have_signed_without_a_chain_id() -> None:
    """The reason why the floor exists; when this fails, eth-account has closed its gap."""
    account = Account.create()
    for fields in (LEGACY, DYNAMIC):
        naive = {name: value for name, value in fields.items() if name != "chainId"}
        assert account.sign_transaction(naive).raw_transaction


@pytest.mark.case("K15")
@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"authorizationList": []}, "KEYGUARD_AUTHORIZATION_REFUSED"),
        ({"type": 4}, "KEYGUARD_AUTHORIZATION_REFUSED"),
        ({"type": "0x4"}, "KEYGUARD_AUTHORIZATION_REFUSED"),
        ({"type": 3}, "KEYGUARD_BLOB_REFUSED"),
        ({"blobVersionedHashes": []}, "KEYGUARD_BLOB_REFUSED"),
        ({"maxFeePerBlobGas": 1}, "KEYGUARD_BLOB_REFUSED"),
        ({"type": 1}, "KEYGUARD_TRANSACTION_TYPE"),
        ({"type": 5}, "KEYGUARD_TRANSACTION_TYPE"),
        ({"type": True}, "KEYGUARD_TRANSACTION_TYPE"),
        ({"type": None}, "KEYGUARD_TRANSACTION_TYPE"),
        ({"type": []}, "KEYGUARD_TRANSACTION_TYPE"),
        ({"type": "0x02"}, "KEYGUARD_TRANSACTION_TYPE"),
    ],
)
def test_other_kinds_of_transaction_are_refused_by_name(extra: dict[str, Any], code: str) -> None:
    assert refused({**DYNAMIC, **extra}).code == code


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({**LEGACY, "maxFeePerGas": 1}, "KEYGUARD_FIELD_UNKNOWN", "maxFeePerGas"),
        ({**DYNAMIC, "gasPrice": 1}, "KEYGUARD_FIELD_UNKNOWN", "gasPrice"),
        ({**DYNAMIC, "input": "0x"}, "KEYGUARD_FIELD_UNKNOWN", "input"),
        ({**DYNAMIC, "v": 0}, "KEYGUARD_FIELD_UNKNOWN", "v"),
        ({**LEGACY, "accessList": []}, "KEYGUARD_FIELD_UNKNOWN", "accessList"),
        (
            {**DYNAMIC, "accessList": [{"address": TO, "storageKeys": []}]},
            "KEYGUARD_FIELD_INVALID",
            "accessList",
        ),
        ({**DYNAMIC, "nonce": MISSING}, "KEYGUARD_FIELD_MISSING", "nonce"),
        ({**DYNAMIC, "gas": MISSING}, "KEYGUARD_FIELD_MISSING", "gas"),
        ({**DYNAMIC, "maxFeePerGas": MISSING}, "KEYGUARD_FIELD_MISSING", "maxFeePerGas"),
        ({**DYNAMIC, "to": MISSING}, "KEYGUARD_FIELD_MISSING", "to"),
        ({**DYNAMIC, "to": None}, "KEYGUARD_FIELD_MISSING", "data"),
        ({**DYNAMIC, "nonce": "0"}, "KEYGUARD_FIELD_INVALID", "nonce"),
        ({**DYNAMIC, "nonce": True}, "KEYGUARD_FIELD_INVALID", "nonce"),
        ({**DYNAMIC, "nonce": None}, "KEYGUARD_FIELD_INVALID", "nonce"),
        ({**DYNAMIC, "nonce": -1}, "KEYGUARD_FIELD_INVALID", "nonce"),
        ({**DYNAMIC, "nonce": 2**64 - 1}, "KEYGUARD_FIELD_INVALID", "nonce"),
        ({**DYNAMIC, "gas": 20_999}, "KEYGUARD_FIELD_INVALID", "gas"),
        ({**DYNAMIC, "gas": 2**64}, "KEYGUARD_FIELD_INVALID", "gas"),
        ({**DYNAMIC, "value": 2**256}, "KEYGUARD_FIELD_INVALID", "value"),
        ({**DYNAMIC, "value": 0.5}, "KEYGUARD_FIELD_INVALID", "value"),
        ({**DYNAMIC, "data": b""}, "KEYGUARD_FIELD_INVALID", "data"),
        ({**DYNAMIC, "data": "ab"}, "KEYGUARD_FIELD_INVALID", "data"),
        ({**DYNAMIC, "data": "0xabc"}, "KEYGUARD_FIELD_INVALID", "data"),
        ({**DYNAMIC, "data": "0xzz"}, "KEYGUARD_FIELD_INVALID", "data"),
        ({**DYNAMIC, "data": "0x\n"}, "KEYGUARD_FIELD_INVALID", "data"),
        ({**DYNAMIC, "data": "0x" + "00" * (128 * 1024 + 1)}, "KEYGUARD_DATA_TOO_LARGE", "data"),
        ({**DYNAMIC, "to": None, "data": "0x" + "00" * (48 * 1024 + 1)}, "KEYGUARD_DATA_TOO_LARGE", "data"),
        ({**DYNAMIC, "to": TO[:-1]}, "KEYGUARD_ADDRESS_INVALID", "to"),
        ({**DYNAMIC, "to": TO[2:]}, "KEYGUARD_ADDRESS_INVALID", "to"),
        ({**DYNAMIC, "to": TO + "\n"}, "KEYGUARD_ADDRESS_INVALID", "to"),
        ({**DYNAMIC, "to": ""}, "KEYGUARD_ADDRESS_INVALID", "to"),
        ({**DYNAMIC, "to": TO.replace("d8dA", "D8dA")}, "KEYGUARD_ADDRESS_INVALID", "to"),
        ({**DYNAMIC, "to": bytes.fromhex(TO[2:])}, "KEYGUARD_ADDRESS_INVALID", "to"),
        ({**DYNAMIC, "from": TO}, "KEYGUARD_SENDER_MISMATCH", "from"),
        ({**DYNAMIC, "from": None}, "KEYGUARD_ADDRESS_INVALID", "from"),
        ({**DYNAMIC, "maxPriorityFeePerGas": 3}, "KEYGUARD_FEES_INVALID", "maxPriorityFeePerGas"),
        ({**DYNAMIC, "maxFeePerGas": 2**256 - 1}, "KEYGUARD_FEES_INVALID", "value"),
        ({**LEGACY, "gasPrice": 2**256 - 1}, "KEYGUARD_FEES_INVALID", "value"),
        ({**LEGACY, "value": 2**256 - 1}, "KEYGUARD_FEES_INVALID", "value"),
        ({}, "KEYGUARD_CHAIN_ID", "chainId"),
    ],
)
def test_wrong_field_is_refused_and_named(fields: dict[str, Any], code: str, field: str) -> None:
    error = refused(fields)
    assert (error.code, error.field) == (code, field)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**260), 2**260),
    st.floats(),
    st.text(max_size=50),
    st.binary(max_size=50),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(
    base=st.sampled_from([LEGACY, DYNAMIC]),
    name=st.one_of(st.sampled_from(sorted({*LEGACY, *DYNAMIC, "from", "accessList"})), st.text(max_size=10)),
    value=JUNK,
)
def test_junk_in_any_field_is_refused_or_means_what_it_says(
    base: dict[str, Any], name: str, value: Any
) -> None:
    try:
        transaction = decode_transaction({**base, name: value}, SENDER)
    except FloorError:  # anything else is a bug
        return
    assert 0 < transaction.chain_id <= MAX_CHAIN_ID
    assert transaction.max_priority_fee_per_gas <= transaction.max_fee_per_gas
    assert (
        transaction.value + transaction.gas * max(transaction.gas_price, transaction.max_fee_per_gas) < 2**256
    )
    assert transaction.to or transaction.data


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a\n", None, 5])
def test_idempotency_key_that_cannot_be_stored_faithfully_is_refused(key: object) -> None:
    with pytest.raises(FloorError):
        checked_idempotency_key(key)


@pytest.mark.parametrize("message", ["text", bytearray(b"x"), b"x" * 65_537, None])
def test_message_that_is_not_bytes_or_too_long_is_refused(message: object) -> None:
    with pytest.raises(FloorError):
        checked_message(message)
