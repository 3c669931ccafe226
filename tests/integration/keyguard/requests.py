"""Requests to sign, and an attacker who writes to the database past the triggers."""

from typing import Any

from django.db import connection

from keyguard import SigningRequest
from keyguard.models import Key, KeyMaterial

TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"


def transfer(**changes: Any) -> dict[str, Any]:
    fields = {
        "type": 2,
        "chainId": 31337,
        "nonce": 0,
        "gas": 21_000,
        "to": TO,
        "value": 10**19 + 1,
        "data": "0x",
    }
    return {**fields, "maxFeePerGas": 2 * 10**9, "maxPriorityFeePerGas": 10**9, **changes}


def request(address: str, idempotency_key: str = "first", **changes: Any) -> SigningRequest:
    return SigningRequest(idempotency_key, address, transfer(**changes))


def drop_triggers(*tables: str) -> None:
    """Do what only the owner of the tables can: the tests' transaction puts the triggers back."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in tables or ("keyguard_keymaterial",):
            if connection.vendor == "postgresql":
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
                continue
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [table])
            for (name,) in cursor.fetchall():
                cursor.execute(f"DROP TRIGGER {name}")


def current(key: Key) -> KeyMaterial:
    return KeyMaterial.objects.filter(key=key).order_by("-seq")[0]


def parts(material: KeyMaterial, *names: str) -> dict[str, Any]:
    return {name: getattr(material, name) for name in names}


def insert(key: Key, source: KeyMaterial, **changes: Any) -> None:
    """Add material, which the triggers allow: the newest counts."""
    everything = parts(source, "kek", "wrapped_dek", "dek_nonce", "nonce", "ciphertext")
    KeyMaterial.objects.create(key=key, seq=2, **{**everything, **changes})


def bent(value: Any) -> bytes:
    return bytes([bytes(value)[0] ^ 1]) + bytes(value)[1:]
