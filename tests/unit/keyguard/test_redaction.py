"""No secret passes the scrubber, whatever it is wrapped in; what people need to read does."""

import base64
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import scrub_secrets

SECRET = bytes(range(100, 132))
HEX = SECRET.hex()
JWT = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhcGkta2V5In0.c2lnbmF0dXJl"
VAULT_TOKEN = "hvs.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTobQ4Ymnlq1qY"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHQCAQEEIA==\n-----END EC PRIVATE KEY-----"


@pytest.mark.case("K55")
@pytest.mark.parametrize(
    "value",
    [
        JWT,
        f"Bearer {JWT}",
        f"401 for bearer {JWT}, again",
        {"header": f"Bearer {JWT[:40]}"},
        {"Authorization": "opaque-token-1"},
        {"X-API-Key": "opaque-token-1"},
        {"headers": {"x-dfns-useraction": "opaque-token-1"}},
        {"user_action": "opaque-token-1", "auth_token": "opaque-token-1"},
        {"FIREBLOCKS_API_KEY": "opaque-token-1"},
        {"DFNS_CREDENTIAL_KEY": "opaque-token-1"},
        {"DFNS_WEBHOOK_SECRET": "opaque-token-1"},
        {"DFNS_AUTH_TOKEN": "opaque-token-1"},
        {"FIREBLOCKS_SECRET_KEY": "opaque-token-1"},
        {"POST": {"password": "opaque-token-1", "one_time_code": ["opaque-token-1"]}},
        {"first_code": "opaque-token-1", "backup_codes": ["opaque-token-1"]},
        "Bearer opaque-token-1",
    ],
)
def test_credential_of_a_custody_does_not_pass(value: Any) -> None:
    text = repr(scrub_secrets(value))
    assert "opaque-token-1" not in text
    assert "eyJ" not in text


@pytest.mark.parametrize(
    "value",
    [
        {"token": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"},
        {"custody": "Fireblocks", "status": 401},
        "the bearer of this letter",
        {"external_id": "0192aa11-aaaa-7000-8000-000000000001"},
    ],
)
def test_what_only_sounds_like_a_credential_stays(value: Any) -> None:
    assert scrub_secrets(value) == value


@pytest.mark.case("K55")
@pytest.mark.parametrize(
    "value",
    [
        HEX,
        "0x" + HEX,
        HEX.upper(),
        f"bad key {HEX}!",
        f"x={HEX}{HEX}",
        {"key": HEX},
        {"deep": [{"er": ("0x" + HEX,)}]},
        {HEX: 1},
        {"hash": f"0x{HEX}00"},
        {"hash": f"a sentence with {HEX}"},
        SECRET,
        bytearray(SECRET),
        {"a": memoryview(SECRET)},
        repr(SECRET),
        repr(bytearray(SECRET)),
        ValueError(f"cannot use {HEX}"),
        {"vars": {"secret": [1, 2, 3]}},
        base64.b64encode(SECRET).decode(),
        f"KEYGUARD_KEK={base64.b64encode(SECRET).decode()}",
        f"whsec_{base64.b64encode(SECRET).decode()}",
        {"raw": "0x02f8" + HEX * 3},
        PEM,
        f"{PEM[:60]}",
        f"logged in with {VAULT_TOKEN}",
        f"s.{VAULT_TOKEN[4:28]}",
        {"pin": VAULT_TOKEN[4:28], "secret_id": VAULT_TOKEN[4:28], "client_token": VAULT_TOKEN[4:28]},
    ],
)
def test_secret_does_not_pass(value: Any) -> None:
    text = repr(scrub_secrets(value))
    for form in (
        HEX,
        HEX.upper(),
        base64.b64encode(SECRET).decode(),
        repr(SECRET)[2:-1],
        "MHQCAQEEIA",
        "[1, 2, 3]",
        VAULT_TOKEN[4:28],
    ):
        assert form not in text


@pytest.mark.parametrize(
    "value",
    [
        {
            "hash": "0x" + HEX,
            "transaction_hash": HEX,
            "block_hash": HEX,
            "blockHash": HEX,
            "payload_hash": HEX,
        },
        {"topics": ["0x" + HEX, "0x" + HEX]},
        {"address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "run": str(uuid.UUID(int=7))},
        {"at": datetime.now(UTC), "gas": 21000, "value": Decimal(10**18), "ok": True, "none": None},
        {"id": uuid.UUID(int=5), "message": "an ordinary sentence, as long as people write them in logs"},
        "0x" + "ab" * 20,
        ["trace", "0af7651916cd43dd8448eb211c80319c"],
    ],
)
def test_what_people_need_stays(value: Any) -> None:
    assert scrub_secrets(value) == value


@given(st.binary(min_size=32, max_size=32), st.text(max_size=20), st.text(max_size=20))
def test_no_32_bytes_in_hex_pass_in_any_sentence(secret: bytes, before: str, after: str) -> None:
    assert secret.hex() not in scrub_secrets(before + secret.hex() + after)


def test_endless_nesting_ends() -> None:
    nested: dict[str, Any] = {}
    nested["self"] = nested
    assert "[redacted]" in repr(scrub_secrets(nested))
