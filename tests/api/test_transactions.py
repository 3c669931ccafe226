"""Submitting and following transactions. No node is asked here: a chain is a row, the lane's work is the workers'."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from keyguard import create_key
from signer.models import Attempt, Blob, Chain, Lane, Transaction
from tests.api.callers import Caller
from tests.threads import at_once

CHAIN = 31337
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BLOB = "0x" + "00" * 131_072
AUTHORIZED: dict[str, Any] = {
    "authorizations": [{"authority": "treasury", "delegate": TO}],
    "gas_limit": 100_000,
}
FIELDS = {
    "id",
    "state",
    "sub_state",
    "chain_id",
    "from",
    "to",
    "nonce",
    "hash",
    "attempts",
    "receipt",
    "error",
}


def add_chain() -> str:
    """Register a chain and a key; return the key's address."""
    Chain.objects.create(chain_id=CHAIN, name="local", genesis_hash="0x" + "00" * 32)
    return create_key("treasury").address


@pytest.fixture
def treasury(db: None) -> str:
    return add_chain()


def body(**changes: Any) -> dict[str, Any]:
    return {
        "chain_id": CHAIN,
        "from": "treasury",
        "to": TO,
        "value": "1000000000000000000",
        "data": "0x",
        **changes,
    }


def test_a_submitted_transaction_is_accepted_and_can_be_followed(operator: Caller, treasury: str) -> None:
    response = operator.post("/transactions", body())
    assert response.status_code == 202, response.content
    shown = response.json()
    assert shown.keys() >= FIELDS
    assert (shown["state"], shown["chain_id"], shown["from"], shown["to"]) == (
        "RECEIVED",
        CHAIN,
        treasury,
        TO,
    )
    assert (shown["value"], shown["why"]) == ("1000000000000000000", "waits for a worker to take it")
    assert (shown["nonce"], shown["hash"], shown["attempts"], shown["receipt"]) == (None, None, [], None)
    assert operator.get(f"/transactions/{shown['id']}").json() == shown


def test_the_sender_may_be_an_address_in_any_case(operator: Caller, treasury: str) -> None:
    response = operator.post("/transactions", body(**{"from": treasury.lower(), "to": TO.lower()}))
    assert (response.json()["from"], response.json()["to"]) == (treasury, TO)


def test_attempts_show_their_fees_as_text_and_no_signed_bytes(operator: Caller, treasury: str) -> None:
    shown = operator.post("/transactions", body()).json()
    row = Transaction.objects.get(pk=shown["id"])
    Transaction.objects.filter(pk=row.pk).update(nonce=4, state="BROADCASTING")
    Attempt.objects.create(
        transaction=row, seq=1, nonce=4, gas_limit=21000, value=1, raw=b"\x02\xf8raw", hash="0x" + "ab" * 32, epoch=1,
        max_fee_per_gas_wei=2**64, max_priority_fee_per_gas_wei=1,
    )  # fmt: skip
    found = operator.get(f"/transactions/{row.pk}").json()
    assert (found["nonce"], found["hash"]) == (4, "0x" + "ab" * 32)
    assert found["attempts"][0]["max_fee_per_gas_wei"] == str(2**64)
    assert "raw" not in found["attempts"][0]
    listed = operator.get("/transactions", hash="0x" + "AB" * 32).json()["items"]
    assert [item["id"] for item in listed] == [str(row.pk)]


def test_filters_narrow_the_list(operator: Caller, treasury: str) -> None:
    ids = [operator.post("/transactions", body()).json()["id"] for _ in range(2)]
    Transaction.objects.filter(pk=ids[0]).update(state="QUEUED")

    def listed(**query: Any) -> list[str]:
        return [item["id"] for item in operator.get("/transactions", **query).json()["items"]]

    assert listed() == ids[::-1]
    assert listed(state="QUEUED") == ids[:1]
    assert listed(chain_id=CHAIN) == ids[::-1]
    assert listed(chain_id=1) == []


def test_what_a_transaction_carries_is_shown_and_its_blobs_are_counted(
    operator: Caller, treasury: str
) -> None:
    access_list = [{"address": TO, "storageKeys": ["0x" + "00" * 32]}]
    plain = operator.post("/transactions", body()).json()
    assert (plain["envelope"], plain["access_list"], plain["blob_count"], plain["priority"]) == (
        "dynamic_fee", None, 0, 0,
    )  # fmt: skip
    listed = operator.post("/transactions", body(access_list=access_list, envelope="access_list", priority=3))
    assert (listed.json()["envelope"], listed.json()["access_list"]) == ("access_list", access_list)
    assert listed.json()["priority"] == 3
    handed = operator.post("/transactions", body(**AUTHORIZED)).json()
    assert handed["envelope"] == "set_code"
    assert handed["authorizations"] == [{"authority": treasury, "delegate": TO, "nonce": None}]
    # The most there may be: one and a half megabytes.
    carrying = operator.post("/transactions", body(blobs=[BLOB] * 6))
    assert (carrying.status_code, carrying.json()["envelope"]) == (202, "blob")
    assert carrying.json()["blob_count"] == 6
    assert [blob.position for blob in Blob.objects.order_by("position")] == [0, 1, 2, 3, 4, 5]
    assert len(operator.get("/transactions").content) < 20_000


def test_body_of_a_transaction_has_an_end(operator: Caller, treasury: str) -> None:
    response = operator.post("/transactions", body(blobs=[BLOB] * 8))
    assert (response.status_code, response.json()["code"]) == (413, "API_BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"envelope": "dynamic_fee"}, "envelope"), ({"blobs": [BLOB]}, "blobs"), (AUTHORIZED, "authorizations")],
)
def test_kind_that_the_chain_does_not_take_is_refused(
    operator: Caller, treasury: str, changes: dict[str, Any], field: str
) -> None:
    Chain.objects.update(fee_market="LEGACY")
    response = operator.post("/transactions", body(**changes))
    assert (response.status_code, response.json()["code"]) == (422, "ENVELOPE_UNSUPPORTED")
    assert list(response.json()["errors"]) == [field]
    assert not Transaction.objects.exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to": "0x123"}, "to"),
        ({"to": TO[:-1]}, "to"),
        ({"to": TO + "0"}, "to"),
        ({"to": TO.replace("C", "c", 1)}, "to"),
        ({"to": "vitalik.eth"}, "to"),
        ({"value": "-1"}, "value"),
        ({"value": -1}, "value"),
        ({"value": "1.5"}, "value"),
        ({"value": 1.0}, "value"),
        ({"value": 1e30}, "value"),
        ({"value": "1e18"}, "value"),
        ({"value": "１"}, "value"),
        ({"value": " 1"}, "value"),
        ({"value": "0x10"}, "value"),
        ({"value": True}, "value"),
        ({"value": str(2**256)}, "value"),
        ({"value": "9" * 5000}, "value"),
        ({"data": "0x1"}, "data"),
        ({"data": "00"}, "data"),
        ({"data": "0xzz"}, "data"),
        ({"chain_id": 0}, "chain_id"),
        ({"chain_id": "31337"}, "chain_id"),
        ({"chain_id": 31337.0}, "chain_id"),
        ({"chain_id": 2**63}, "chain_id"),
        ({"chain_id": 99}, "chain_id"),
        ({"from": ""}, "from"),
        ({"gas_limit": 20_999}, "gas_limit"),
        ({"gas_limit": "21000"}, "gas_limit"),
        ({"speed": "ludicrous"}, "speed"),
        ({"valid_until": "2026-01-01T00:00:00"}, "valid_until"),
        ({"access_list": {}}, "access_list"),
        ({"access_list": [{"address": TO}]}, "access_list.0.storageKeys"),
        ({"access_list": [{"address": TO, "storageKeys": ["0x1"]}]}, "access_list.0.storageKeys.0"),
        ({"access_list": [{"address": TO, "storageKeys": [], "more": 1}]}, "access_list.0.more"),
        ({"envelope": "blob"}, "envelope"),
        ({"envelope": "legacy", "access_list": [{"address": TO, "storageKeys": []}]}, "envelope"),
        ({"blobs": ["0x00"]}, "blobs.0"),
        ({"blobs": ["0x" + "ff" * 131_072]}, "blobs.0"),
        ({"blobs": [BLOB] * 7}, "blobs"),
        ({"blobs": [BLOB], "to": None, "data": "0x00"}, "blobs"),
        ({"authorizations": [{"authority": "treasury", "delegate": TO}]}, "authorizations"),
        (AUTHORIZED | {"authorizations": AUTHORIZED["authorizations"] * 2}, "authorizations"),
        (AUTHORIZED | {"blobs": [BLOB]}, "authorizations"),
        ({"priority": "1"}, "priority"),
        ({"priority": 10}, "priority"),
        ({"nonce": 7}, "nonce"),
        ({"sender": "treasury"}, "sender"),
    ],
)
def test_bad_input_is_refused_by_field_and_nothing_is_stored(
    operator: Caller, treasury: str, changes: dict[str, Any], field: str
) -> None:
    response = operator.post("/transactions", body(**changes))
    assert response.status_code == 422, response.content
    assert list(response.json()["errors"]) == [field]
    assert not Transaction.objects.exists()
    assert not Lane.objects.exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"from": "nobody"}, "from"),
        ({"from": TO}, "from"),
        (AUTHORIZED | {"authorizations": [{"authority": "nobody", "delegate": TO}]}, "authorizations"),
    ],
)
def test_unknown_key_is_404_as_any_unknown_id_and_says_in_which_field(
    operator: Caller, treasury: str, changes: dict[str, Any], field: str
) -> None:
    response = operator.post("/transactions", body(**changes))
    assert response.status_code == 404, response.content
    assert list(response.json()["errors"]) == [field]
    assert not Transaction.objects.exists()
    assert not Lane.objects.exists()


@pytest.mark.parametrize("value", [0, 1, "0", str(2**256 - 1), 2**256 - 1])
def test_whole_amounts_up_to_the_largest_are_kept_exactly(
    operator: Caller, treasury: str, value: int | str
) -> None:
    shown = operator.post("/transactions", body(value=value)).json()
    assert shown["value"] == str(value)
    assert Transaction.objects.get().value == int(value)


@pytest.mark.case("S20")
@pytest.mark.sqlite_too
def test_fifty_posts_at_once_with_one_key_make_one_transaction(fresh_db: str) -> None:
    add_chain()
    operator = Caller("operator")
    responses: list[Any] = at_once(50, lambda _: operator.post("/transactions", body(), key="k1"))
    accepted = [response for response in responses if response.status_code == 202]
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.json()["id"] for response in accepted}) == 1
    assert Transaction.objects.get().nonce is None
    connection.close()


@pytest.mark.case("S21")
@pytest.mark.sqlite_too
def test_the_same_key_with_another_body_leaves_the_first_untouched(operator: Caller, treasury: str) -> None:
    first = operator.post("/transactions", body(), key="k1").json()
    response = operator.post("/transactions", body(value="2"), key="k1")
    assert (response.status_code, response.json()["code"]) == (422, "API_IDEMPOTENCY_KEY_REUSED")
    assert operator.get(f"/transactions/{first['id']}").json() == first
    assert Transaction.objects.count() == 1


def test_keys_of_two_callers_never_meet(
    operator: Caller, treasury: str, caller: Callable[[str], Caller]
) -> None:
    ids = {
        person.post("/transactions", body(), key="k1").json()["id"]
        for person in (operator, caller("operator"))
    }
    assert len(ids) == 2
