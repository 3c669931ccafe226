"""The web process of production: it has no KEK and no custody's credentials, and takes everything on all the same."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dalp.local.processes import Process
from dalp.models import ApiToken
from keyguard import create_key
from keyguard.models import Key
from keyguard.states import Origin
from signer import Transaction
from tests.faults.test_signer import QUICK, settle
from tests.integration.signer.stage import Stage, wait
from tests.services import Live

pytestmark = pytest.mark.timeout(180)

# What whoever sets the process up may have left in its environment is forgotten, too.
WEB = {
    "KEYGUARD_SIGNS": "false",
    "FIREBLOCKS_API_KEY": "left behind",
    "FIREBLOCKS_SECRET_KEY": "left behind",
}
TARGET = "0x" + "11" * 20


@pytest.fixture
def stage(live: Live, monkeypatch: pytest.MonkeyPatch) -> Stage:
    wait(monkeypatch, resend_seconds=2, bump_after_seconds=1)
    return Stage(live.anvil(block_time=0.2), max_in_flight=64)


@pytest.fixture
def web(live: Live, stage: Stage) -> Iterator[tuple[Process, httpx.Client]]:
    process, address = live.start_web(env=WEB)
    _, token = ApiToken.issue("backoffice", "operator")
    with httpx.Client(base_url=f"{address}/api/v1", headers={"Authorization": f"Bearer {token}"}) as client:
        yield process, client


def post(client: httpx.Client, path: str, key: str, **body: Any) -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key})


def test_what_it_takes_on_is_signed_by_a_worker(
    live: Live, stage: Stage, web: tuple[Process, httpx.Client]
) -> None:
    process, client = web
    asked = {"chain_id": 31337, "from": "sender", "to": TARGET, "value": "5"}
    answer = post(client, "/transactions", "first", **asked)
    assert answer.status_code == 202, answer.text
    live.start_worker(env=QUICK)
    settle(live, [Transaction.objects.get(pk=answer.json()["id"])])
    assert client.get(f"/transactions/{answer.json()['id']}").json()["state"] == "COMPLETED"
    assert int(stage.rpc("eth_getBalance", TARGET, "latest"), 16) == 5
    assert [key["alias"] for key in client.get("/keys").json()["items"]] == ["sender"]
    assert live.env["KEYGUARD_KEK"] not in process.output()


def test_what_needs_a_key_there_is_refused_and_changes_nothing(
    live: Live, stage: Stage, web: tuple[Process, httpx.Client]
) -> None:
    _, client = web
    answer = post(client, "/keys", "second", alias="new")
    assert (answer.status_code, answer.json()["code"]) == (503, "KEYGUARD_KEK_MISSING")
    assert not Key.objects.filter(alias="new").exists()
    assert create_key("new").alias == "new", "a process that has the KEK makes it"


def test_it_knows_the_keys_of_custodies_that_it_cannot_ask(
    live: Live, stage: Stage, web: tuple[Process, httpx.Client]
) -> None:
    """What waits for a custody is called off by the worker that can ask it; here it is only written down."""
    _, client = web
    Key.objects.filter(pk=stage.key.pk).update(backend="fireblocks", origin=Origin.CUSTODY)
    asked = {"chain_id": 31337, "from": "sender", "to": TARGET, "value": "5"}
    answer = post(client, "/transactions", "third", **asked)
    assert answer.status_code == 202, answer.text
    row = Transaction.objects.get(pk=answer.json()["id"])
    Transaction.objects.filter(pk=row.pk).update(state="SIGNING")
    cancelled = client.post(f"/transactions/{row.pk}/cancel", json={"reason": "a mistake"})
    assert cancelled.status_code == 202, cancelled.text
    row.refresh_from_db()
    assert (row.noop_outcome, row.sub_state) == ("CANCELLED", "CALLING_OFF")
