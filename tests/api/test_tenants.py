"""A tenant's keys, and what they send, are nobody else's: another tenant is told what it is told of what is not there."""

import re
import uuid
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext

from dalp.models import ApiToken
from keyguard import KeyNotFoundError, create_key, find_key, find_keys, sign_message
from keyguard.errors import MaterialTamperedError, TenantInvalidError
from keyguard.models import Key
from signer import TransactionRequest, submit_transaction
from signer.models import Chain, Lane, Transaction
from tests.api.callers import Caller
from tests.integration.workflows.stopped import Script, drive_all
from workflows.models import Approval, Run

pytestmark = pytest.mark.case("K54")

CHAIN = 31337
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
NOWHERE = "0x" + "12" * 20


def body(sender: str, **changes: Any) -> dict[str, Any]:
    return {"chain_id": CHAIN, "from": sender, "to": TO, "value": "1", "data": "0x", **changes}


@pytest.fixture
def acme(db: None) -> Caller:
    Chain.objects.create(chain_id=CHAIN, name="local", genesis_hash="0x" + "00" * 32)
    create_key("acme-pay", tenant="acme")
    return Caller("operator", tenant="acme")


@pytest.fixture
def rival(acme: Caller) -> Caller:
    create_key("rival-pay", tenant="rival")
    return Caller("operator", tenant="rival")


@pytest.fixture
def theirs(acme: Caller) -> dict[str, Any]:
    """A transaction of acme's."""
    answer = acme.post("/transactions", body("acme-pay"))
    assert answer.status_code == 202, answer.content
    return answer.json()


def told(ask: Callable[[], HttpResponse]) -> tuple[int, Any, list[str]]:
    """Return the answer's status and body, and the queries that it took; without what differs each time."""
    with CaptureQueriesContext(
        connection,
    ) as queries:
        answer = ask()
    shown = answer.json() | {"correlation_id": "", "instance": ""}
    return answer.status_code, shown, [shape(query["sql"]) for query in queries.captured_queries]


def shape(sql: str) -> str:
    """Return a statement without its values: what a database does for it."""
    return re.sub(r"'[^']*'(::\w+)?|\bs\d+_x\d+|\b\d+\b", "?", sql)


GETS = ["/transactions/{id}"]
POSTS = [
    "/transactions/{id}/cancel",
    "/transactions/{id}/speed-up",
    "/transactions/{id}/requeue",
    "/transactions/{id}/give-up",
]


@pytest.mark.parametrize("path", GETS + POSTS)
def test_another_tenants_transaction_is_as_one_that_is_not_there(
    rival: Caller, acme: Caller, theirs: dict[str, Any], path: str
) -> None:
    def ask(identifier: str) -> Callable[[], HttpResponse]:
        where = path.format(id=identifier)
        return lambda: rival.get(where) if path in GETS else rival.post(where, {}, key=None)

    ask(str(uuid.uuid4()))()  # notes that the token was used
    found, missing = told(ask(theirs["id"])), told(ask(str(uuid.uuid4())))
    assert found[0] == 404
    assert found == missing
    assert any("tenant" in sql and "signer_transaction" in sql for sql in found[2])
    assert acme.get(f"/transactions/{theirs['id']}").json()["state"] == theirs["state"]


@pytest.mark.parametrize("path", ["", "/pause", "/drain", "/resume", "/resync"])
def test_another_tenants_lane_is_as_one_that_is_not_there(
    rival: Caller, acme: Caller, theirs: dict[str, Any], path: str
) -> None:
    def ask(address: str) -> Callable[[], HttpResponse]:
        where = f"/lanes/{CHAIN}/{address}{path}"
        return lambda: rival.post(where, {}, key=None) if path else rival.get(where)

    ask(NOWHERE)()
    found, missing = told(ask(theirs["from"])), told(ask(NOWHERE))
    assert found[0] == 404
    assert found == missing
    assert acme.get(f"/lanes/{CHAIN}/{theirs['from']}").json()["state"] == "ACTIVE"


@pytest.mark.parametrize("field", ["from", "authority"])
@pytest.mark.parametrize("by", ["alias", "address", "address in lower case"])
def test_another_tenants_key_sends_nothing_and_is_as_one_that_is_not_there(
    rival: Caller, theirs: dict[str, Any], field: str, by: str
) -> None:
    known, unknown = ("acme-pay", "acme-pax") if by == "alias" else (theirs["from"], NOWHERE)
    if "lower" in by:
        known = known.lower()

    def ask(name: str) -> Callable[[], HttpResponse]:
        given = body(name)
        if field == "authority":
            given = body("rival-pay", authorizations=[{"authority": name, "delegate": TO}], gas_limit=100_000)
        return lambda: rival.post("/transactions", given)

    ask(unknown)()
    found, missing = told(ask(known)), told(ask(unknown))
    assert found[0] == 404
    assert str(found[1]).replace(known, "NAME") == str(missing[1]).replace(unknown, "NAME")
    assert found[2] == missing[2]
    assert Transaction.objects.count() == 1


def test_lists_have_the_tenants_own_alone(rival: Caller, acme: Caller, theirs: dict[str, Any]) -> None:
    own = rival.post("/transactions", body("rival-pay")).json()
    for caller, row in ((rival, own), (acme, theirs)):
        assert [one["id"] for one in caller.get("/transactions").json()["items"]] == [row["id"]]
        assert [one["address"] for one in caller.get("/lanes").json()["items"]] == [row["from"]]
    assert rival.get("/transactions", correlation_id=theirs["correlation_id"]).json()["items"] == []
    assert rival.get("/lanes", address=theirs["from"]).json()["items"] == []
    platform = Caller("operator")
    assert platform.get("/transactions").json()["items"] == []


def test_an_idempotency_key_of_another_tenant_is_another_one(
    rival: Caller, acme: Caller, theirs: dict[str, Any]
) -> None:
    first = acme.post("/transactions", body("acme-pay"), key="order-7").json()["id"]
    assert rival.post("/transactions", body("rival-pay"), key="order-7").json()["id"] != first


def test_approvals_and_all_that_workflows_have_are_the_platforms_own(rival: Caller, script: Script) -> None:
    platform = Caller("operator", ["treasury"])
    run = platform.post("/workflows/api.asking/runs", {"input": {"name": "Ada"}}).json()["id"]
    drive_all()
    [approval] = platform.get("/approvals", run_id=run).json()["items"]
    for verb in ("approve", "reject"):

        def ask(identifier: str, verb: str = verb) -> Callable[[], HttpResponse]:
            return lambda: rival.post(f"/approvals/{identifier}/{verb}", {}, key=None)

        found, missing = told(ask(approval["id"])), told(ask(str(uuid.uuid4())))
        assert found[0] == 404
        assert found == missing
    for listing in ("/approvals", "/runs", "/dead-letters", "/dead-letters/bulk", "/workflows", "/webhooks"):
        assert rival.get(listing).status_code == 404, listing
        assert platform.get(listing).status_code == 200, listing
    assert rival.get(f"/runs/{run}").status_code == 404
    assert rival.start().status_code == 404
    assert Run.objects.count() == 1
    assert Approval.objects.get().votes.count() == 0


def test_no_path_of_the_api_forgets_to_ask_whose_tenant_it_is(rival: Caller) -> None:
    """What is not about transactions and lanes answers a tenant 404, whatever it is given."""
    from dalp.api import api

    asked = 0
    for path, view in [
        (f"{prefix}{path}", view)
        for prefix, router in api._routers
        for path, view in router.path_operations.items()
    ]:
        if path.startswith(("/transactions", "/lanes", "transactions", "lanes")) or "completions" in path:
            continue
        filled = re.sub(r"\{(uuid:)?\w+\}", lambda found: str(uuid.uuid4()) if found[1] else "name", path)
        for operation in view.operations:
            for method in operation.methods:
                answer = rival.client.generic(
                    method, f"/api/v1{filled}", "{}", content_type="application/json"
                )
                assert answer.status_code == 404, (method, path)
                assert answer.json()["code"] == "API_NOT_FOUND", (method, path)
                asked += 1
    assert asked > 25


def test_workflows_send_with_the_platforms_keys_alone(acme: Caller) -> None:
    with pytest.raises(KeyNotFoundError):
        submit_transaction(TransactionRequest(chain_id=CHAIN, sender="acme-pay", to=TO), idempotency_key="1")
    with pytest.raises(KeyNotFoundError):
        find_key("acme-pay")
    assert find_key("acme-pay", tenant=None).tenant == find_key("acme-pay", "acme").tenant == "acme"
    create_key("treasury")
    with pytest.raises(KeyNotFoundError):
        find_keys(["treasury", "acme-pay"])
    assert not Lane.objects.exists()


def test_commands_say_whose_key_and_whose_token_it_is(db: None) -> None:
    out = StringIO()
    call_command("create_key", "--alias=acme-pay", "--tenant=acme", stdout=out)
    key = Key.objects.get()
    assert (key.tenant, key.address) == ("acme", out.getvalue().strip())
    call_command("create_api_token", "--name=acme", "--role=operator", "--tenant=acme", stdout=StringIO())
    assert ApiToken.objects.get().tenant == "acme"
    for command in (["create_key", "--alias=b"], ["create_api_token", "--name=b", "--role=viewer"]):
        with pytest.raises(CommandError, match="KEYGUARD_TENANT_INVALID"):
            call_command(*command, "--tenant=A b", stdout=StringIO())
    with pytest.raises(CommandError, match="KEYGUARD_ALIAS_TAKEN"):
        call_command("create_key", "--alias=acme-pay", "--tenant=rival", stdout=StringIO())
    with pytest.raises(TenantInvalidError):
        create_key("c", tenant="")


def test_a_key_that_is_moved_to_another_tenant_in_the_database_signs_nothing(db: None) -> None:
    key = create_key("acme-pay", tenant="acme")
    sign_message(key.address, b"hello", idempotency_key="1")
    Key.objects.update(tenant="rival")
    with pytest.raises(MaterialTamperedError):
        sign_message(key.address, b"hello", idempotency_key="2")
