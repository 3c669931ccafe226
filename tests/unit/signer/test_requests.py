"""What a request may say."""

from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from signer import TransactionRequest

TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"


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


def test_largest_value_is_kept_exactly() -> None:
    assert request(value=2**256 - 1).value == 2**256 - 1


def test_creation_without_code_is_refused() -> None:
    with pytest.raises(ValidationError, match="code"):
        request(to=None)


def test_same_request_written_differently_has_the_same_fingerprint() -> None:
    assert request(to=TO.lower(), data="0xAB").fingerprint() == request(data="0xab").fingerprint()
    assert request(value=1).fingerprint() != request(value=2).fingerprint()
    assert request(speed="fast").fingerprint() != request().fingerprint()
