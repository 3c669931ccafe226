"""What a request may say."""

from datetime import datetime
from typing import Any

import pytest
from eth_account import Account
from pydantic import ValidationError

from signer import TransactionRequest
from signer.errors import EnvelopeUnsupportedError
from signer.requests import BLS_MODULUS
from signer.states import FeeMarket

TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
SLOT = "0x" + "00" * 31 + "01"


def request(**fields: Any) -> TransactionRequest:
    return TransactionRequest.model_validate({"chain_id": 1, "sender": "treasury", "to": TO, **fields})


def test_address_is_checksummed_and_data_is_lower_case() -> None:
    made = request(to=TO.lower(), data="0xABCD")
    assert (made.to, made.data) == (TO, "0xabcd")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to", TO[:-1]),
        ("to", TO[2:]),
        ("to", TO.swapcase().replace("0X", "0x")),
        ("to", "vitalik.eth"),
        ("to", 5),
        ("data", "abcd"),
        ("data", "0xabc"),
        ("data", "0xzz"),
        ("data", "0x" + "00" * (127 * 1024 + 1)),
        ("value", -1),
        ("value", 2**256),
        ("value", 1.5),
        ("gas_limit", 20_999),
        ("gas_limit", 2**63),
        ("chain_id", 0),
        ("chain_id", -1),
        ("sender", ""),
        ("speed", "ludicrous"),
        ("valid_until", datetime(2030, 1, 1)),  # noqa: DTZ001
        ("nonce", 5),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_field_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        request(**{field: value})
    [error] = refused.value.errors()
    assert field in (*error["loc"], *str(error["msg"]).split())


@pytest.mark.parametrize(
    ("least", "fields"),
    [
        (21_000 + 4 + 2 * 16, {"data": "0x00abcd"}),
        (21_000 + 32_000 + 16, {"to": None, "data": "0xfe"}),
        (21_000 + 2_400 + 1_900, {"access_list": [{"address": TO, "storageKeys": [SLOT]}]}),
        (21_000 + 25_000, {"authorizations": [{"authority": "wallet", "delegate": TO}]}),
    ],
)
def test_gas_limit_below_what_any_chain_executes_is_refused(least: int, fields: dict[str, Any]) -> None:
    assert request(gas_limit=least, **fields).gas_limit == least
    with pytest.raises(ValidationError, match=f"gas_limit is too low: {least}"):
        request(gas_limit=least - 1, **fields)


LONG_LIST = [{"address": TO, "storageKeys": [SLOT, SLOT]}] * 300


@pytest.mark.case("S73")
@pytest.mark.parametrize(
    ("count", "fields"), [(0, {}), (0, {"access_list": LONG_LIST}), (64, {"access_list": LONG_LIST})]
)
def test_largest_transaction_is_one_that_nodes_take_and_one_byte_more_is_refused(
    count: int, fields: dict[str, Any]
) -> None:
    beside = 300 * (29 + 2 * 33) * len(fields) + 108 * count
    if count:
        wanted = {"authority": "wallet", "delegate": TO}
        fields = {**fields, "authorizations": [wanted] * count, "gas_limit": 10_000_000}
    room = 127 * 1024 - beside
    made = request(data="0x" + "ff" * room, **fields)
    with pytest.raises(ValidationError, match="more than 127 KiB, which no node takes"):
        request(data="0x" + "ff" * (room + 1), **fields)
    assert len(signed(made)) <= 128 * 1024


def signed(made: TransactionRequest) -> bytes:
    """Return the transaction with every other field as long as it can be."""
    account, most, gas = Account.from_key(b"\x01" * 32), 2**256 - 1, 2**63 - 1
    fields = {"chainId": 2**63 - 1, "nonce": gas, "gas": gas, "to": TO, "value": most, "data": made.data}
    fees = {"maxFeePerGas": most, "maxPriorityFeePerGas": most}
    listed = [entry.model_dump() for entry in made.access_list or []]
    handed = account.sign_authorization({"chainId": 2**63 - 1, "address": TO, "nonce": gas})
    authorizations = {"authorizationList": [handed] * len(made.authorizations)} if made.authorizations else {}
    return bytes(
        account.sign_transaction({**fields, **fees, "accessList": listed, **authorizations}).raw_transaction
    )


def test_largest_value_is_kept_exactly() -> None:
    assert request(value=2**256 - 1).value == 2**256 - 1


def test_creation_without_code_is_refused() -> None:
    with pytest.raises(ValidationError, match="code"):
        request(to=None)


def test_same_request_written_differently_has_the_same_fingerprint() -> None:
    assert request(to=TO.lower(), data="0xAB").fingerprint() == request(data="0xab").fingerprint()
    assert request(value=1).fingerprint() != request(value=2).fingerprint()
    assert request(speed="fast").fingerprint() != request().fingerprint()


# --- Kinds of transactions --------------------------------------------------------------------------------

EMPTY_BLOB = "0x" + "00" * 131_072
AUTHORIZED = {"authorizations": [{"authority": "wallet", "delegate": TO}], "gas_limit": 100_000}


@pytest.mark.parametrize(
    ("fields", "on_eip1559", "on_legacy"),
    [
        ({}, "DYNAMIC_FEE", "LEGACY"),
        ({"access_list": [{"address": TO, "storageKeys": [SLOT]}]}, "DYNAMIC_FEE", "ACCESS_LIST"),
        ({"envelope": "legacy"}, "LEGACY", "LEGACY"),
        ({"envelope": "access_list"}, "ACCESS_LIST", "ACCESS_LIST"),
        ({"envelope": "dynamic_fee"}, "DYNAMIC_FEE", None),
        ({"blobs": [EMPTY_BLOB]}, "BLOB", None),
        (AUTHORIZED, "SET_CODE", None),
    ],
)
@pytest.mark.case("S60")
def test_kind_of_transaction_follows_from_the_request_and_the_chain(
    fields: dict[str, Any], on_eip1559: str, on_legacy: str | None
) -> None:
    made = request(**fields)
    assert made.kind_on(FeeMarket.EIP1559) == on_eip1559
    if on_legacy is None:
        with pytest.raises(EnvelopeUnsupportedError):
            made.kind_on(FeeMarket.LEGACY)
    else:
        assert made.kind_on(FeeMarket.LEGACY) == on_legacy


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("access_list", {"access_list": [{"address": TO[:-1], "storageKeys": []}]}),
        ("access_list", {"access_list": [{"address": TO, "storageKeys": ["0x1"]}]}),
        ("access_list", {"access_list": [{"address": TO}]}),
        ("access_list", {"access_list": [{"address": TO, "storageKeys": [SLOT] * 4000}]}),
        ("envelope", {"envelope": "blob"}),
        ("envelope", {"envelope": "legacy", "access_list": [{"address": TO, "storageKeys": []}]}),
        ("blobs", {"blobs": [EMPTY_BLOB[:-2]]}),
        ("blobs", {"blobs": [EMPTY_BLOB + "00"]}),
        ("blobs", {"blobs": ["0x" + "ff" * 131_072]}),
        ("blobs", {"blobs": [f"0x{BLS_MODULUS:064x}" + EMPTY_BLOB[66:]]}),
        ("blobs", {"blobs": [EMPTY_BLOB] * 7}),
        ("blobs", {"blobs": [EMPTY_BLOB], "to": None, "data": "0x00"}),
        ("blobs", {"blobs": [EMPTY_BLOB], "envelope": "dynamic_fee"}),
        ("authorizations", {**AUTHORIZED, "blobs": [EMPTY_BLOB]}),
        ("authorizations", {**AUTHORIZED, "gas_limit": None}),
        ("authorizations", {**AUTHORIZED, "to": None, "data": "0x00"}),
        ("authorizations", {**AUTHORIZED, "envelope": "legacy"}),
        ("authorizations", {**AUTHORIZED, "authorizations": [{"authority": "wallet", "delegate": "0x"}]}),
        ("authorizations", {**AUTHORIZED, "authorizations": [{"authority": "", "delegate": TO}]}),
        ("authorizations", {**AUTHORIZED, "authorizations": AUTHORIZED["authorizations"] * 65}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": 10}),
        ("priority", {"priority": 1.5}),
    ],
)
def test_what_no_transaction_can_carry_is_refused_with_the_field_named(
    field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as refused:
        request(**fields)
    assert {str(error["loc"][0]) for error in refused.value.errors()} == {field}


def test_largest_field_element_is_one() -> None:
    assert request(blobs=[f"0x{BLS_MODULUS - 1:064x}" + EMPTY_BLOB[66:]]).blobs


def test_requests_that_differ_in_what_they_carry_are_told_apart() -> None:
    other = EMPTY_BLOB[:-2] + "01"
    variants = [
        {},
        {"blobs": [EMPTY_BLOB]},
        {"blobs": [other]},
        {"blobs": [EMPTY_BLOB, other]},
        AUTHORIZED,
        {"gas_limit": 100_000},
        {"access_list": []},
        {"access_list": [{"address": TO, "storageKeys": []}]},
        {"envelope": "legacy"},
        {"priority": 1},
    ]
    assert len({request(**fields).fingerprint() for fields in variants}) == len(variants)


def test_blobs_stay_out_of_the_requests_repr() -> None:
    assert len(repr(request(blobs=[EMPTY_BLOB]))) < 1000
