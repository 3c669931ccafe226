"""What the admin shows of transactions, and what it doesn't."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from keyguard import create_key
from signer.models import Act, Attempt, Chain, Endpoint, Lane, Transaction
from signer.states import FINAL
from tests.integration.signer.stage import Stage
from workflows.models import Run, Wait

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

SECRET_URL = "https://node.example/v3/0123456789abcdef0123456789abcdef"
REVERT = {"code": "WOULD_REVERT", "message": "not <b>possible"}


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


def asked_for_by_a_run(row: Transaction) -> Run:
    run = Run.objects.create(workflow="sample.transfer", version=1, input={})
    Wait.objects.create(
        run=run, operation_id="pay#0", attempt=1, index=0, kind="transaction", reference=str(row.pk)
    )
    return run


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


@pytest.mark.parametrize("what", ["hash", "id", "sender", "receiver", "correlation id", "key", "run"])
def test_transaction_is_found_by_what_a_person_has(client: Client, what: str) -> None:
    row = Transaction.objects.get()
    Transaction.objects.update(correlation_id="trace-1")
    run = asked_for_by_a_run(row)
    queries = {
        "hash": Attempt.objects.get().hash.upper().replace("0X", "0x"),
        "id": str(row.pk),
        "sender": row.lane.address.lower(),
        "receiver": "0x" + "11" * 20,
        "correlation id": "trace-1",
        "key": row.idempotency_key,
        "run": str(run.pk),
    }
    assert "wanted transfer" in shown(client, "/admin/signer/transaction/", q=queries[what])
    for nobodys in ("0x" + "00" * 32, "0x" + "00" * 20, str(uuid.uuid4()), "nothing"):
        assert "wanted transfer" not in shown(client, "/admin/signer/transaction/", q=nobodys)


def test_transaction_page_says_what_it_does_and_who_asked(client: Client) -> None:
    row, attempt = Transaction.objects.get(), Attempt.objects.get()
    run = asked_for_by_a_run(row)
    text = shown(client, f"/admin/signer/transaction/{row.pk}/change/")
    assert f"executed in block {row.block_number}" in text
    assert "1 wei = 0.000000000000000001 ether" in text
    assert f"/admin/workflows/run/{run.pk}/change/" in text
    assert "sample.transfer" in text
    assert f'title="{attempt.hash}"' in text
    assert ">null<" not in text


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "waits for a worker to take it"),
        ({"state": "QUEUED", "sub_state": "LANE_FULL"}, "waits for room in the lane"),
        ({"state": "QUEUED", "sub_state": "INSUFFICIENT_FUNDS"}, "cannot pay 0.5 ether and the fee"),
        ({"state": "QUEUED", "sub_state": "NODE_UNAVAILABLE"}, "waits for a node of test (31337)"),
        ({"state": "QUEUED", "sub_state": "FEE_CAPPED"}, "above the ceiling of 500 gwei per gas"),
        ({"state": "BROADCASTING", "nonce": 9}, "signed and committed, to be sent now"),
        ({"state": "BROADCASTING", "nonce": 9, "sub_state": "NONCE_FOREIGN"}, "used nonce 9"),
        ({"state": "FAILED", "error": REVERT}, "ended without a nonce: WOULD_REVERT"),
        ({"state": "EXPIRED", "nonce": 9, "block_number": 7}, "ended in block 7"),
    ],
)
def test_why_a_transaction_is_not_done_is_a_sentence(
    client: Client, stage: Stage, fields: dict[str, Any], sentence: str
) -> None:
    row = stage.submit(value=5 * 10**17, label="stuck")
    settled = {"settled_at": timezone.now()} if fields.get("state") in FINAL else {}
    Transaction.objects.filter(pk=row.pk).update(**fields, **settled)
    assert sentence in shown(client, f"/admin/signer/transaction/{row.pk}/change/")
    assert sentence in shown(client, "/admin/signer/transaction/")


def test_confirmations_are_counted(client: Client) -> None:
    Chain.objects.update(head_number=12, confirmations=5)
    Transaction.objects.update(state="CONFIRMING", block_number=11, settled_at=None)
    assert "waits for confirmations: 2 of 5, in block 11" in shown(client, "/admin/signer/transaction/")


def test_error_is_text_and_escaped(client: Client) -> None:
    row = Transaction.objects.get()
    Transaction.objects.update(state="FAILED", error=REVERT)
    text = shown(client, f"/admin/signer/transaction/{row.pk}/change/")
    assert "WOULD_REVERT: not &lt;b&gt;possible" in text
    assert "<b>possible" not in text


def test_contract_creation_shows_what_it_created(client: Client, stage: Stage) -> None:
    Endpoint.objects.update(url=stage.anvil.url)
    stage.deploy_counter()
    row = Transaction.objects.get(to=None)
    assert f"creates a contract: {stage.counter.address}".lower() in (
        shown(client, f"/admin/signer/transaction/{row.pk}/change/").lower()
    )


def test_blocked_lane_says_why_on_its_page_and_on_what_waits_in_it(client: Client, stage: Stage) -> None:
    Lane.objects.update(state="BLOCKED", state_reason="somebody else signs")
    row, lane = stage.submit(), stage.lane
    for page in ("lane/", f"lane/{lane.pk}/change/"):
        assert "somebody else signs" in shown(client, f"/admin/signer/{page}")
    text = shown(client, f"/admin/signer/transaction/{row.pk}/change/")
    assert "waits for a person, the lane is blocked: somebody else signs" in text


@pytest.mark.parametrize("page", ["lane/", "transaction/", "chain/", "attempt/"])
def test_list_asks_as_often_for_many_rows_as_for_few(
    client: Client, stage: Stage, page: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(6):
        create_key(f"another-{number}")
        stage.submit(sender=f"another-{number}")
    stage.submit()
    with django_assert_max_num_queries(12):
        text = shown(client, f"/admin/signer/{page}")
    assert "another" not in text


def test_lane_counts_what_waits_and_since_when(client: Client, stage: Stage) -> None:
    for _ in range(3):
        row = stage.submit()
    Transaction.objects.filter(pk=row.pk).update(created_at=timezone.now() - timedelta(hours=2))
    text = shown(client, f"/admin/signer/lane/{stage.lane.pk}/change/")
    assert ">3<" in "".join(text.split())
    assert "2\xa0hours" in text


def test_endpoint_keeps_its_url_when_none_is_entered(client: Client) -> None:
    endpoint = Endpoint.objects.get()
    form = {
        **USE,
        "name": "renamed",
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


USE = {
    "name": "test",
    "confirmations": "2",
    "finality": "FINALIZED",
    "block_time_ms": "1000",
    "max_in_flight": "16",
    "max_in_flight_adaptive": "64",
    "max_fee_per_gas_wei": "30.5",
    "ceiling_percent": "300",
    "foreign_nonces": "ADOPT",
    "l1_fee_oracle": "0x420000000000000000000000000000000000000f",
    "reason": "as agreed",
    "endpoints-TOTAL_FORMS": "0",
    "endpoints-INITIAL_FORMS": "0",
}


def test_how_a_chain_is_used_is_edited_with_a_reason_and_on_record(client: Client) -> None:
    assert 'value="500"' in shown(client, "/admin/signer/chain/31337/change/"), "the ceiling, in gwei"
    assert client.post("/admin/signer/chain/31337/change/", {**USE, "reason": ""}).status_code == 200
    assert client.post("/admin/signer/chain/31337/change/", USE).status_code == 302
    chain = Chain.objects.get()
    assert (chain.finality, chain.max_in_flight_adaptive, chain.foreign_nonces) == ("FINALIZED", 64, "ADOPT")
    assert (int(chain.max_fee_per_gas_wei), chain.ceiling_percent) == (30_500_000_000, 300)
    assert chain.l1_fee_oracle == "0x420000000000000000000000000000000000000F"
    act = Act.objects.get(verb="edit_chain")
    assert (act.actor, act.reason, act.details["chain"]) == ("op", "as agreed", "test (31337)")
    assert (act.details["max_fee_per_gas_wei"], act.details["finality"]) == ("30500000000", "FINALIZED")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"l1_fee_oracle": "0x12"}, "not an address"),
        ({"max_in_flight_adaptive": "8"}, "less than what every lane may have anyway"),
        ({"ceiling_percent": "100"}, "greater than or equal to 113"),
        ({"max_fee_per_gas_wei": "0.0000000001"}, "no more than 9 decimal places"),
    ],
)
def test_what_a_chain_cannot_be_used_with_is_refused_in_words(
    client: Client, changed: dict[str, str], why: str
) -> None:
    response = client.post("/admin/signer/chain/31337/change/", {**USE, **changed})
    assert why in response.content.decode()
    assert Chain.objects.get().finality == "DEPTH"
