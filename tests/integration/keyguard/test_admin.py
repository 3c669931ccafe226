"""What the admin shows of keys, and what it doesn't."""

from typing import Any

import pytest
from django.test import Client

from keyguard import create_key, sign_transactions
from keyguard.models import Kek, Key, KeyMaterial, SigningRecord
from tests.integration.keyguard.requests import TO, request

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

SECRET_FIELDS = ("wrapped_dek", "dek_nonce", "ciphertext", "signature", "raw", "public_key")


@pytest.fixture
def key(db: None) -> Key:
    key = create_key("treasury")
    sign_transactions([request(key.address, "wanted")])
    sign_transactions([request(create_key("other").address, "unwanted", to="0x" + "12" * 20)])
    return key


def shown(client: Client, path: str, **query: str) -> str:
    response = client.get(path, query)
    assert response.status_code == 200, path
    return str(response.content.decode())


def test_pages_show_no_material_and_no_signature(admin_client: Client, key: Key) -> None:
    material, record = KeyMaterial.objects.get(key=key), SigningRecord.objects.get(key=key)
    pages = "".join(
        shown(admin_client, f"/admin/keyguard/{path}")
        for path in (
            "key/",
            f"key/{key.pk}/change/",
            "signingrecord/",
            f"signingrecord/{record.pk}/change/",
            "kek/",
            f"kek/{Kek.objects.get().pk}/change/",
        )
    )
    assert key.address in pages
    assert record.hash in pages
    values: list[Any] = [
        material.wrapped_dek,
        material.ciphertext,
        material.nonce,
        record.signature,
        record.raw,
    ]
    for value in values:
        assert bytes(value).hex() not in pages
        assert repr(bytes(value)) not in pages
    for name in SECRET_FIELDS:
        assert f"field-{name}" not in pages


@pytest.mark.parametrize("model", ["key", "signingrecord", "kek"])
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, key: Key, model: str) -> None:
    one = {"key": Key, "signingrecord": SigningRecord, "kek": Kek}[model].objects.all()[0]
    before = list(type(one).objects.order_by("pk").values())
    for path in ("add/", f"{one.pk}/change/", f"{one.pk}/delete/"):
        response = admin_client.post(
            f"/admin/keyguard/{model}/{path}", {"alias": "mine", "state": "ACTIVE", "post": "yes"}
        )
        assert response.status_code == 403
    assert list(type(one).objects.order_by("pk").values()) == before


@pytest.mark.parametrize("by", ["address", "hash", "idempotency_key", "to"])
def test_record_is_found_by(admin_client: Client, key: Key, by: str) -> None:
    record = SigningRecord.objects.get(key=key)
    term = {"address": key.address.lower(), "hash": record.hash, "idempotency_key": "want", "to": TO}[by]
    page = shown(admin_client, "/admin/keyguard/signingrecord/", q=term)
    assert record.hash in page
    assert SigningRecord.objects.exclude(pk=record.pk).get().hash not in page
