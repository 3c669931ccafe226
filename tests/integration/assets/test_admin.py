"""The assets in the admin: found by address, hash or run, and not changed there."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from dalp.assets.models import Asset, Investor, Platform
from signer.models import Chain, EventIndex, Holding, WatchedContract
from workflows import uuid7

pytestmark = pytest.mark.django_db
TOKEN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def people(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("admin", password="a password of the tests"))
    return client


@pytest.fixture
def asset() -> Asset:
    addresses = {"token": TOKEN, "identity_registry": TOKEN, "compliance": TOKEN}
    return Asset.objects.create(
        chain_id=1, symbol="LB30", name="Bond", decimals=0, run_id=uuid7(), **addresses
    )


@pytest.mark.parametrize("model", [Asset, Investor, Platform])
def test_nothing_is_added_in_the_admin(people: Client, model: type) -> None:
    name = model._meta.model_name  # type: ignore[attr-defined]
    assert people.get(reverse(f"admin:assets_{name}_changelist")).status_code == 200
    assert people.get(reverse(f"admin:assets_{name}_add")).status_code == 403


def test_an_asset_is_found_by_address_and_by_run(people: Client, asset: Asset) -> None:
    for wanted in (TOKEN.lower(), str(asset.run_id), "LB30"):
        page = people.get(reverse("admin:assets_asset_changelist"), {"q": wanted})
        assert page.context["cl"].result_count == 1, wanted
    assert (
        people.get(reverse("admin:assets_asset_changelist"), {"q": "0xdead"}).context["cl"].result_count == 0
    )


def test_an_asset_is_shown_and_not_changed(people: Client, asset: Asset) -> None:
    page = reverse("admin:assets_asset_change", args=[asset.pk])
    assert people.get(page).status_code == 200
    assert people.post(page, {"symbol": "XX"}).status_code == 403
    assert (
        people.post(reverse("admin:assets_asset_delete", args=[asset.pk]), {"post": "yes"}).status_code == 403
    )
    asset.refresh_from_db()
    assert asset.symbol == "LB30"


def test_an_asset_says_how_many_hold_it(people: Client, asset: Asset) -> None:
    page = reverse("admin:assets_asset_change", args=[asset.pk])
    assert "not indexed" in people.get(page).content.decode()
    chain = Chain.objects.create(chain_id=1, name="one", genesis_hash="0x")
    index = EventIndex.objects.create(chain=chain, front_number=77)
    WatchedContract.objects.create(index=index, address=TOKEN, handler="erc20.holders", from_block=1)
    for number, balance in enumerate((5, 0, 7)):
        Holding.objects.create(
            chain=chain, token=TOKEN, holder=f"0x{number}", balance_wei=balance, updated_block=1
        )
    text = people.get(page).content.decode()
    assert ">2</a>, as of block 77" in text
    assert f"/admin/signer/holding/?chain=1&amp;token={TOKEN}" in text
