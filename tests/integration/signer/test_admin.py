"""What the admin shows of transactions, and what it doesn't."""

from typing import Any

import pytest
from django.test import Client

from signer.models import Attempt, Endpoint, Lane, Transaction
from tests.integration.signer.stage import Stage

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

SECRET_URL = "https://node.example/v3/0123456789abcdef0123456789abcdef"


@pytest.fixture
def client(stage: Stage, django_user_model: Any) -> Client:
    user = django_user_model.objects.create_superuser("op", "op@example.com", "a long password")
    client = Client()
    client.force_login(user)
    stage.submit(label="wanted transfer")
    stage.settle()
    Endpoint.objects.update(url=SECRET_URL)
    return client


def shown(client: Client, path: str, **query: str) -> str:
    response = client.get(path, query)
    assert response.status_code == 200, path
    return str(response.content.decode())


def test_every_page_opens_and_shows_no_secret(client: Client) -> None:
    row, lane, attempt = Transaction.objects.get(), Lane.objects.get(), Attempt.objects.get()
    pages = [
        "chain/",
        "chain/31337/change/",
        "lane/",
        f"lane/{lane.pk}/change/",
        "transaction/",
        f"transaction/{row.pk}/change/",
        "attempt/",
        f"attempt/{attempt.pk}/change/",
        "block/",
    ]
    for page in pages:
        text = shown(client, f"/admin/signer/{page}")
        assert "0123456789abcdef" not in text, page
        assert bytes(attempt.raw).hex() not in text, page
    assert "node.example" in shown(client, "/admin/signer/chain/31337/change/")


@pytest.mark.parametrize("what", ["hash", "id", "address"])
def test_transaction_is_found_by_what_a_person_has(client: Client, what: str) -> None:
    row = Transaction.objects.get()
    query = {"hash": Attempt.objects.get().hash.upper().replace("0X", "0x"), "id": str(row.pk)}
    query["address"] = row.lane.address.lower()
    assert "wanted transfer" in shown(client, "/admin/signer/transaction/", q=query[what])
    assert "wanted transfer" not in shown(client, "/admin/signer/transaction/", q="0x" + "00" * 32)


def test_endpoint_keeps_its_url_when_none_is_entered(client: Client) -> None:
    endpoint = Endpoint.objects.get()
    form = {
        "name": "renamed",
        "confirmations": "2",
        "block_time_ms": "1000",
        "max_in_flight": "16",
        "max_fee_per_gas_wei": "1000",
        "endpoints-TOTAL_FORMS": "1",
        "endpoints-INITIAL_FORMS": "1",
        "endpoints-0-id": str(endpoint.pk),
        "endpoints-0-chain": "31337",
        "endpoints-0-url": "",
        "endpoints-0-position": "1",
    }
    response = client.post("/admin/signer/chain/31337/change/", form)
    assert response.status_code == 302
    endpoint.refresh_from_db()
    assert (endpoint.url, endpoint.position, endpoint.chain.name) == (SECRET_URL, 1, "renamed")
