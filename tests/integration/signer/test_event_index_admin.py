"""The event index in the admin: what it shows, and what a person may do."""

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from signer.models import Act, EventIndex, EventLog, WatchedContract
from tests.integration.signer.coins import ANN, BEN, MINT, TALLY, Coins, Trouble

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


@pytest.fixture
def token(coins: Coins) -> str:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 12345), (ANN, BEN, 5))
    coins.turn()
    coins.move(token, (ANN, BEN, 6))
    coins.turn()
    coins.reorg(1)
    coins.turn()
    return token


@pytest.fixture
def client(token: str, django_user_model: type) -> Client:
    user = django_user_model.objects.create_superuser("op", "op@example.com", "a long password")  # type: ignore[attr-defined]
    client = Client()
    client.force_login(user)
    return client


def shown(client: Client, path: str, **query: str) -> str:
    response = client.get(f"/admin/signer/{path}", query)
    assert response.status_code == 200, path
    return str(response.content.decode())


def test_every_page_shows_how_far_it_is(client: Client, coins: Coins, token: str) -> None:
    contract, log = WatchedContract.objects.get(), EventLog.objects.order_by("id").last()
    assert log is not None
    assert f"{coins.head() - 2}" in shown(client, "eventindex/")
    assert "nobody: no worker has it now" in shown(client, "eventindex/31337/change/")
    for page in ("watchedcontract/", f"watchedcontract/{contract.pk}/change/"):
        text = shown(client, page)
        assert f"block {coins.head()}" in text
        assert "0 blocks" in text
    assert "at the front" in text
    text = shown(client, "eventlog/")
    assert "REMOVED" in text
    assert f"sender {ANN}, receiver {BEN}, amount 5" in text
    assert log.block_hash in shown(client, f"eventlog/{log.pk}/change/")
    assert "12340" in shown(client, "holding/")


def test_logs_and_holdings_are_found_by_what_a_person_has(client: Client, token: str) -> None:
    log = EventLog.objects.latest("id")
    assert log.transaction_hash in shown(
        client, "eventlog/", q=log.transaction_hash.upper().replace("0X", "0x")
    )
    assert "amount 5" in shown(client, "eventlog/", q=token.lower())
    assert "12340" in shown(client, "holding/", q=ANN)
    assert "12340" in shown(client, "holding/", q=token.lower())
    assert "12340" in shown(client, "holding/", chain="31337", token=token)
    for nobodys in ("0x" + "00" * 32, "0x" + "99" * 20, "nothing"):
        assert "amount 5" not in shown(client, "eventlog/", q=nobodys)
        assert "12340" not in shown(client, "holding/", q=nobodys)


def test_trouble_is_seen_first(client: Client, coins: Coins) -> None:
    other = coins.deploy()
    coins.watch(other, handler=TALLY)
    coins.turn()
    Trouble.apply = "666"
    coins.move(other, (MINT, ANN, 666))
    coins.turn()
    assert "cannot count 666" in shown(client, "watchedcontract/")
    EventIndex.objects.update(last_error="the node lags", failing_since="2026-01-01T00:00:00Z")
    assert "the node lags" in shown(client, "eventindex/")


def test_a_contract_is_paused_resumed_and_read_again_with_a_reason(
    client: Client, coins: Coins, token: str
) -> None:
    contract = WatchedContract.objects.get()
    page = f"/admin/signer/watchedcontract/{contract.pk}"

    def act(name: str, **data: str) -> int:
        assert client.get(f"{page}/{name}/").status_code == 200
        status = client.post(f"{page}/{name}/", data).status_code
        contract.refresh_from_db()
        return status

    assert act("pause", reason="") == 200, "without a reason nothing happens"
    assert contract.state == "ACTIVE"
    assert act("pause", reason="looking") == 302
    assert contract.state == "PAUSED"
    assert client.get(f"{page}/pause/").status_code == 403
    assert act("resume", reason="found it") == 302
    assert contract.state == "ACTIVE"
    assert act("reread", reason="too far", from_block="999999") == 200
    assert not contract.rewinding
    assert act("reread", reason="altered", from_block="1") == 302
    assert contract.rewinding
    coins.turn()
    coins.require_equal()
    assert [(act.verb, act.actor, act.reason) for act in Act.objects.order_by("at")] == [
        ("pause_contract", "op", "looking"),
        ("resume_contract", "op", "found it"),
        ("reread_contract", "op", "altered"),
    ]


def test_who_may_only_look_may_not_act(client: Client, django_user_model: type) -> None:
    viewer = django_user_model.objects.create_user("eve", password="a long password", is_staff=True)  # type: ignore[attr-defined]
    viewer.user_permissions.set(Permission.objects.filter(codename="view_watchedcontract"))
    client.force_login(viewer)
    contract = WatchedContract.objects.get()
    shown(client, "watchedcontract/")
    for name in ("pause", "reread"):
        assert client.post(f"/admin/signer/watchedcontract/{contract.pk}/{name}/", {}).status_code == 403


@pytest.mark.parametrize("page", ["watchedcontract/", "eventlog/", "holding/"])
def test_a_list_of_many_rows_asks_as_often_as_one_of_few(
    client: Client, coins: Coins, page: str, django_assert_max_num_queries: pytest.FixtureRequest
) -> None:
    for token in [coins.deploy() for _ in range(3)]:
        coins.watch(token)
        coins.move(token, (MINT, ANN, 1), (MINT, BEN, 1))
    coins.turn()
    with django_assert_max_num_queries(12):  # type: ignore[operator]
        shown(client, page)
