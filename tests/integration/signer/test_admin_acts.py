"""What people do to lanes and transactions in the admin."""

from typing import Any

import pytest
from django.test import Client

from signer.models import Act, Transaction
from signer.sentences import gwei
from tests.integration.signer.stage import Stage

pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

WHY = {"reason": "the auditors are here"}


@pytest.fixture
def client(manual: Stage, django_user_model: Any) -> Client:
    django_user_model.objects.create_superuser("anna", "op@example.com", "a long password")
    client = Client()
    client.login(username="anna", password="a long password")
    return client


def page(client: Client, path: str) -> str:
    response = client.get(f"/admin/signer/{path}")
    assert response.status_code == 200, path
    return str(response.content.decode())


def act(client: Client, path: str, **given: Any) -> Any:
    return client.post(f"/admin/signer/{path}", {**WHY, **given})


def state(row: Transaction) -> str:
    row.refresh_from_db()
    return row.state


@pytest.mark.case("S81")
def test_lane_is_paused_and_resumed_with_a_reason(client: Client, manual: Stage) -> None:
    manual.submit()
    lane = f"lane/{manual.lane.pk}"
    assert "What has one is seen through" in page(client, f"{lane}/pause/")
    assert client.post(f"/admin/signer/{lane}/pause/", {}).status_code == 200, (
        "without a reason nothing happens"
    )
    assert manual.lane.state == "ACTIVE"
    assert act(client, f"{lane}/pause/").status_code == 302
    assert manual.lane.state_reason == "the auditors are here (anna)"
    assert "the auditors are here" in page(client, f"{lane}/change/")
    act(client, f"{lane}/resume/")
    assert manual.lane.state == "ACTIVE"
    act(client, f"{lane}/drain/")
    assert manual.lane.state == "DRAINING"
    assert list(Act.objects.order_by("at").values_list("verb", "actor")) == [
        ("pause", "anna"),
        ("resume", "anna"),
        ("drain", "anna"),
    ]


@pytest.mark.case("S82")
def test_difference_is_shown_before_it_is_mended(client: Client, manual: Stage) -> None:
    from signer.models import Lane

    manual.submit()
    manual.drain()
    Lane.objects.update(next_nonce=9)
    path = f"lane/{manual.lane.pk}/resync/"
    shown = page(client, path)
    assert "Next nonce after this" in shown
    assert "Nonces 1 to 8 were never given" in shown
    assert manual.lane.next_nonce == 9
    act(client, path)
    assert manual.lane.next_nonce == 1
    manual.anvil.stop()
    assert "The chain gives no answer" in page(client, path)
    refused = act(client, path)
    assert refused.status_code == 200
    assert "Nothing was changed" in refused.content.decode()


@pytest.mark.case("S57")
def test_transaction_is_cancelled_sped_up_and_sent_again(client: Client, manual: Stage) -> None:
    waiting = manual.submit()
    act(client, f"transaction/{waiting.pk}/cancel/")
    assert state(waiting) == "CANCELLED"
    row = manual.submit()
    manual.drain()
    path = f"transaction/{row.pk}"
    assert "blob_fee_gwei" not in page(client, f"{path}/speed-up/")
    half = act(client, f"{path}/speed-up/", max_fee_gwei="50")
    assert "Give both, or neither." in half.content.decode()
    low = act(client, f"{path}/speed-up/", max_fee_gwei="0.000000001", tip_gwei="0.000000001")
    assert "Too low: the fee, the tip. Offer at least that" in low.content.decode()
    assert act(client, f"{path}/speed-up/", max_fee_gwei="50", tip_gwei="5").status_code == 302
    manual.drain()
    assert [attempt.max_fee_per_gas_wei for attempt in manual.attempts(row.pk)][1] == 50 * 10**9
    act(client, f"lane/{manual.lane.pk}/resend/", first=0, last=0)
    manual.drain()
    assert manual.attempts(row.pk)[-1].send_count == 2
    shown = page(client, f"{path}/change/")
    assert "/requeue/" not in shown
    assert "/cancel/" in shown


@pytest.mark.case("S59")
def test_blob_transaction_is_sped_up_with_a_fee_for_its_blobs(client: Client, manual: Stage) -> None:
    row = manual.submit(blobs=["0x" + "00" * 131_072])
    manual.drain()
    [first] = manual.attempts(row.pk)
    fee, tip, blob_fee = (
        2 * wei
        for wei in (
            first.max_fee_per_gas_wei,
            first.max_priority_fee_per_gas_wei,
            first.max_fee_per_blob_gas_wei,
        )
    )
    path = f"transaction/{row.pk}/speed-up/"
    shown = page(client, path)
    for least in (fee, tip, blob_fee):
        assert f"o less than {gwei(least)}" in shown
    assert f", and {gwei(first.max_fee_per_blob_gas_wei)} for blobs" in shown
    alone = act(client, path, blob_fee_gwei=gwei(blob_fee))
    assert "Give the fee and the tip beside the fee for blobs." in alone.content.decode()
    given = {"max_fee_gwei": gwei(fee + 5), "tip_gwei": gwei(tip)}
    low = act(client, path, **given, blob_fee_gwei=gwei(blob_fee - 1)).content.decode()
    assert f"and {gwei(blob_fee)} gwei for blobs, twice as much of all three, in place of what is out" in low
    assert "Too low: the fee for blobs. Offer at least that" in low
    high = act(client, path, **given, blob_fee_gwei="501").content.decode()
    assert "ceiling is 500 gwei, for gas and for blobs alike" in high.replace("&#x27;", "'")
    assert act(client, path, **given, blob_fee_gwei=gwei(blob_fee + 3)).status_code == 302
    manual.drain()
    second = manual.attempts(row.pk)[1]
    assert (second.max_fee_per_gas_wei, second.max_priority_fee_per_gas_wei) == (fee + 5, tip)
    assert (second.max_fee_per_blob_gas_wei, second.state) == (blob_fee + 3, "SENT")


def test_those_who_may_not_act_see_no_acts(manual: Stage, django_user_model: Any) -> None:
    from django.contrib.auth.models import Permission

    row = manual.submit()
    viewer = django_user_model.objects.create_user("vera", password="a long password", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(viewer)
    assert "/cancel/" not in page(client, f"transaction/{row.pk}/change/")
    assert act(client, f"transaction/{row.pk}/cancel/").status_code == 403
    assert act(client, f"lane/{manual.lane.pk}/pause/").status_code == 403
    assert state(row) == "RECEIVED"
