"""What is signed for nobody."""

from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import curve
from keyguard.authorizations import SignedAuthorization
from keyguard.blobs import BLOB_BYTES
from keyguard.curve import HALF_ORDER
from keyguard.errors import Disposition, FloorError
from keyguard.ethereum import digest
from keyguard.floor import (
    MAX_CHAIN_ID,
    checked_idempotency_key,
    checked_message,
    decode_authorization,
    decode_transaction,
)

SENDER = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
COMMON: dict[str, Any] = {"chainId": 1, "nonce": 0, "gas": 21_000, "to": TO, "value": 0, "data": "0x"}
LEGACY: dict[str, Any] = {**COMMON, "gasPrice": 1}
DYNAMIC: dict[str, Any] = {**COMMON, "type": 2, "maxFeePerGas": 2, "maxPriorityFeePerGas": 1}
MISSING = object()
SLOT = "0x" + "00" * 31 + "01"
EMPTY_BLOB = bytes(BLOB_BYTES)
BLOB: dict[str, Any] = {**DYNAMIC, "type": 3, "maxFeePerBlobGas": 1, "blobs": [EMPTY_BLOB]}


def address_bytes(address: str) -> bytes:
    return bytes.fromhex(address[2:])


def signed_authorization(secret: bytearray) -> dict[str, Any]:
    plain = decode_authorization(1, TO, 7)
    signature = curve.sign(secret, digest(plain.payload()))
    return SignedAuthorization(1, plain.delegate, 7, signature).fields()


AUTHORITY = curve.address_of(curve.public_key(bytearray(b"\7" * 32)))
SET_CODE: dict[str, Any] = {
    **DYNAMIC,
    "type": 4,
    "authorizationList": [signed_authorization(bytearray(b"\7" * 32))],
}


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


def test_access_lists_pass_as_they_are() -> None:
    entries = [{"address": TO.lower(), "storageKeys": [SLOT, SLOT]}, {"address": SENDER, "storageKeys": []}]
    access_list = ((address_bytes(TO), (bytes(31) + b"\1",) * 2), (address_bytes(SENDER), ()))
    for fields in ({**LEGACY, "type": 1}, DYNAMIC, SET_CODE):
        assert decode_transaction({**fields, "accessList": entries}, SENDER).access_list == access_list


def access(address: object = TO, keys: object = (), **more: object) -> dict[str, Any]:
    return {"address": address, "storageKeys": keys, **more}


@pytest.mark.parametrize(
    ("entries", "code", "field"),
    [
        (None, "KEYGUARD_FIELD_INVALID", "accessList"),
        ("0x", "KEYGUARD_FIELD_INVALID", "accessList"),
        ({}, "KEYGUARD_FIELD_INVALID", "accessList"),
        ([None], "KEYGUARD_FIELD_INVALID", "accessList[0]"),
        ([{"address": TO}], "KEYGUARD_FIELD_INVALID", "accessList[0]"),
        ([access(), access(more=1)], "KEYGUARD_FIELD_INVALID", "accessList[1]"),
        ([access(TO[:-1])], "KEYGUARD_ADDRESS_INVALID", "accessList[0].address"),
        ([access(TO.replace("d8dA", "D8dA"))], "KEYGUARD_ADDRESS_INVALID", "accessList[0].address"),
        ([access(keys=None)], "KEYGUARD_FIELD_INVALID", "accessList[0].storageKeys"),
        ([access(keys="0x")], "KEYGUARD_FIELD_INVALID", "accessList[0].storageKeys"),
        ([access(keys=["0x1"])], "KEYGUARD_FIELD_INVALID", "accessList[0].storageKeys"),
        ([access(keys=[1])], "KEYGUARD_FIELD_INVALID", "accessList[0].storageKeys"),
        ([access(keys=["0x" + "00" * 33])], "KEYGUARD_FIELD_INVALID", "accessList[0].storageKeys"),
        ([access()] * 4097, "KEYGUARD_DATA_TOO_LARGE", "accessList"),
        ([access(keys=["0x" + "00" * 32] * 4096)], "KEYGUARD_DATA_TOO_LARGE", "accessList"),
    ],
)
def test_malformed_access_list_is_refused_and_the_place_named(entries: object, code: str, field: str) -> None:
    error = refused({**DYNAMIC, "accessList": entries})
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"to": None, "data": "0x00"}, "KEYGUARD_FIELD_INVALID", "to"),
        ({"maxFeePerBlobGas": MISSING}, "KEYGUARD_FIELD_MISSING", "maxFeePerBlobGas"),
        ({"maxFeePerBlobGas": 0}, "KEYGUARD_FIELD_INVALID", "maxFeePerBlobGas"),
        ({"maxFeePerBlobGas": "1"}, "KEYGUARD_FIELD_INVALID", "maxFeePerBlobGas"),
        ({"maxFeePerBlobGas": 2**255}, "KEYGUARD_FEES_INVALID", "value"),
        ({"blobs": MISSING}, "KEYGUARD_FIELD_MISSING", "blobs"),
        ({"blobs": []}, "KEYGUARD_FIELD_INVALID", "blobs"),
        ({"blobs": [EMPTY_BLOB] * 7}, "KEYGUARD_FIELD_INVALID", "blobs"),
        ({"blobs": EMPTY_BLOB}, "KEYGUARD_FIELD_INVALID", "blobs"),
        ({"blobs": ["0x" + "00" * BLOB_BYTES]}, "KEYGUARD_FIELD_INVALID", "blobs"),
        ({"blobs": [EMPTY_BLOB[1:]]}, "KEYGUARD_BLOB_INVALID", "blobs"),
        ({"blobs": [b"\xff" * BLOB_BYTES]}, "KEYGUARD_BLOB_INVALID", "blobs"),
        ({"wrapperVersion": 2}, "KEYGUARD_FIELD_INVALID", "wrapperVersion"),
        ({"wrapperVersion": True}, "KEYGUARD_FIELD_INVALID", "wrapperVersion"),
        ({"blobVersionedHashes": []}, "KEYGUARD_FIELD_UNKNOWN", "blobVersionedHashes"),
        ({"gasPrice": 1}, "KEYGUARD_FIELD_UNKNOWN", "gasPrice"),
        ({"authorizationList": []}, "KEYGUARD_FIELD_UNKNOWN", "authorizationList"),
    ],
)
def test_malformed_blob_transaction_is_refused_and_the_field_named(
    changes: dict[str, Any], code: str, field: str
) -> None:
    error = refused({**BLOB, **changes})
    assert (error.code, error.field) == (code, field)


def test_set_code_transaction_passes_with_what_its_authority_signed() -> None:
    transaction = decode_transaction(SET_CODE, SENDER)
    assert [one.authority() for one in transaction.authorizations] == [AUTHORITY]


def changed(**changes: object) -> dict[str, Any]:
    fields = {**SET_CODE["authorizationList"][0], **changes}
    return {"authorizationList": [{name: value for name, value in fields.items() if value is not MISSING}]}


@pytest.mark.case("K15")
@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"to": None, "data": "0x00"}, "KEYGUARD_FIELD_INVALID", "to"),
        ({"authorizationList": MISSING}, "KEYGUARD_FIELD_MISSING", "authorizationList"),
        ({"authorizationList": []}, "KEYGUARD_FIELD_INVALID", "authorizationList"),
        ({"authorizationList": {}}, "KEYGUARD_FIELD_INVALID", "authorizationList"),
        ({"authorizationList": [None] * 257}, "KEYGUARD_FIELD_INVALID", "authorizationList"),
        ({"authorizationList": [None]}, "KEYGUARD_FIELD_INVALID", "authorizationList[0]"),
        (changed(more=1), "KEYGUARD_FIELD_INVALID", "authorizationList[0]"),
        (changed(authority=MISSING), "KEYGUARD_FIELD_INVALID", "authorizationList[0]"),
        (changed(chainId=0), "KEYGUARD_CHAIN_ID", "authorizationList[0].chainId"),
        (changed(chainId=2), "KEYGUARD_AUTHORIZATION_INVALID", "authorizationList[0].chainId"),
        (changed(nonce=8), "KEYGUARD_AUTHORIZATION_INVALID", "authorizationList[0]"),
        (changed(nonce=-1), "KEYGUARD_FIELD_INVALID", "authorizationList[0].nonce"),
        (changed(address=SENDER), "KEYGUARD_AUTHORIZATION_INVALID", "authorizationList[0]"),
        (changed(address=TO[2:]), "KEYGUARD_ADDRESS_INVALID", "authorizationList[0].address"),
        (changed(authority=SENDER), "KEYGUARD_AUTHORIZATION_INVALID", "authorizationList[0]"),
        (changed(yParity=2), "KEYGUARD_FIELD_INVALID", "authorizationList[0].yParity"),
        (changed(yParity=True), "KEYGUARD_FIELD_INVALID", "authorizationList[0].yParity"),
        (changed(r=0), "KEYGUARD_FIELD_INVALID", "authorizationList[0].r"),
        (changed(r=5), "KEYGUARD_AUTHORIZATION_INVALID", "authorizationList[0]"),
        (changed(s=HALF_ORDER + 1), "KEYGUARD_FIELD_INVALID", "authorizationList[0].s"),
    ],
)
def test_authorisation_that_chains_would_pass_over_in_silence_is_refused(
    changes: dict[str, Any], code: str, field: str
) -> None:
    error = refused({**SET_CODE, **changes})
    assert (error.code, error.field) == (code, field)


@pytest.mark.case("K15")
@pytest.mark.parametrize("chain_id", [None, 0, -1, True, "1", 2**64])
def test_authorisation_for_every_chain_is_refused(chain_id: object) -> None:
    with pytest.raises(FloorError) as caught:
        decode_authorization(chain_id, TO, 0)
    assert caught.value.code == "KEYGUARD_CHAIN_ID"


@pytest.mark.case("K15")
def test_eth_account_would_have_signed_an_authorisation_for_every_chain() -> None:
    """The reason why the floor refuses it; when this fails, eth-account has closed its gap."""
    assert Account.create().sign_authorization({"chainId": 0, "address": TO, "nonce": 0}).signature


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


@pytest.mark.parametrize("kind", [5, -1, True, None, [], "0x02", "0x5", "2", 2.0])
def test_type_that_there_is_not_is_refused(kind: object) -> None:
    assert refused({**DYNAMIC, "type": kind}).code == "KEYGUARD_TRANSACTION_TYPE"


@pytest.mark.parametrize("extra", ["authorizationList", "blobs", "maxFeePerBlobGas", "accessList"])
def test_type_is_said_and_not_guessed_from_the_fields(extra: str) -> None:
    untyped = {**LEGACY, extra: []}
    assert (refused(untyped).code, refused(untyped).field) == ("KEYGUARD_FIELD_UNKNOWN", extra)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({**LEGACY, "maxFeePerGas": 1}, "KEYGUARD_FIELD_UNKNOWN", "maxFeePerGas"),
        ({**DYNAMIC, "gasPrice": 1}, "KEYGUARD_FIELD_UNKNOWN", "gasPrice"),
        ({**DYNAMIC, "input": "0x"}, "KEYGUARD_FIELD_UNKNOWN", "input"),
        ({**DYNAMIC, "v": 0}, "KEYGUARD_FIELD_UNKNOWN", "v"),
        ({**LEGACY, "accessList": []}, "KEYGUARD_FIELD_UNKNOWN", "accessList"),
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
    base=st.sampled_from([LEGACY, {**LEGACY, "type": 1}, DYNAMIC, BLOB, SET_CODE]),
    name=st.one_of(
        st.sampled_from(sorted({*LEGACY, *BLOB, *SET_CODE, "from", "accessList", "wrapperVersion"})),
        st.text(max_size=10),
    ),
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
