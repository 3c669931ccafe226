"""The outbox: what a receiver subscribed to is in it with the commit that changes the state, whoever writes that."""

import json
import threading
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from dalp.webhooks import registering
from dalp.webhooks.events import DEFAULT_TYPES, TYPES
from dalp.webhooks.models import Delivery, Webhook
from signer.models import Attempt, Chain, Incident, Transaction
from signer.rechecking import tell_of_deep_reorg
from signer.requests import TransactionRequest
from signer.states import FINAL, TransactionState
from signer.submission import submit_transactions
from tests.integration.signer.stage import Crash, Stage, crash_at
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.rows import Rows, webhook_to

MANY = 15  # as a lane has room for


def told(row: Transaction) -> list[str]:
    """The events of a transaction, in their order."""
    return list(Delivery.objects.filter(transaction=row).order_by("pk").values_list("type", flat=True))


def states_told(row: Transaction) -> list[tuple[str | None, str]]:
    bodies = [json.loads(each.body) for each in Delivery.objects.filter(transaction=row).order_by("pk")]
    return [(body["data"]["previous_state"], body["data"]["state"]) for body in bodies]


def data_of(row: Transaction, kind: str) -> dict[str, Any]:
    body = json.loads(Delivery.objects.get(transaction=row, type=kind).body)
    assert body["type"] == kind
    found: dict[str, Any] = body["data"]
    return found


@pytest.mark.case("S9")
@pytest.mark.sqlite_too
def test_every_state_of_a_transaction_leaves_its_event_with_what_it_was_then(
    manual: Stage, receiver: Receiver
) -> None:
    webhook_to(receiver)
    row = manual.submit(label="rent")
    manual.drain()
    manual.mine()
    manual.watch()
    manual.mine(5)
    manual.watch()
    row.refresh_from_db()
    assert row.state == TransactionState.COMPLETED
    assert told(row) == [
        "transaction.received",
        "transaction.preparing",
        "transaction.broadcasting",
        "transaction.confirming",
        "transaction.completed",
    ]
    assert states_told(row)[0] == (None, "RECEIVED")
    assert states_told(row)[-1] == ("CONFIRMING", "COMPLETED")
    first, sent, last = (
        data_of(row, f"transaction.{word}") for word in ("received", "broadcasting", "completed")
    )
    assert (first["nonce"], first["hash"]) == (None, None)
    attempt = Attempt.objects.get(transaction=row)
    for data in (sent, last):
        assert data["hash"] == attempt.hash
        assert data["nonce"] == 0
        assert (data["id"], data["chain_id"], data["from"]) == (str(row.pk), 31337, manual.key.address)
        assert (data["to"], data["idempotency_key"], data["label"]) == (row.to, "request-1", "rent")


@pytest.mark.case("S8")
@pytest.mark.parametrize("point", ["signer.receipts_read", "signer.settling"])
def test_death_between_the_receipt_and_the_state_leaves_one_event_of_each_state(
    manual: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    webhook_to(receiver)
    Chain.objects.update(confirmations=2)
    row = manual.submit()
    manual.drain()
    for expected in ("transaction.confirming", "transaction.completed"):
        manual.mine()
        with monkeypatch.context() as fatal:
            crash_at(fatal, point)
            with pytest.raises(Crash):
                manual.watch()
        assert expected not in told(row)
        manual.watch()
        manual.watch()
        assert told(row)[-1] == expected
    assert len(told(row)) == len(set(told(row))) == 5


@pytest.mark.case("S9")
@pytest.mark.sqlite_too
def test_statements_over_many_leave_an_event_for_each(manual: Stage, receiver: Receiver) -> None:
    webhook_to(receiver)
    request = TransactionRequest(chain_id=31337, sender="sender", to="0x" + "11" * 20, value=1)
    with transaction.atomic():
        found = submit_transactions([(request, f"key-{number}") for number in range(MANY)])
        again = submit_transactions([(request, f"key-{number}") for number in range(MANY)])
    assert not any(is_new for _, is_new in again)
    manual.drain()
    manual.mine(6)
    manual.watch()
    manual.watch()
    for row, _ in found:
        assert [(kind.partition(".")[2], told(row).count(kind)) for kind in told(row)] == [
            (word, 1) for word in ("received", "preparing", "broadcasting", "completed")
        ], states_told(row)
    nonces = sorted(data_of(row, "transaction.completed")["nonce"] for row, _ in found)
    assert nonces == list(range(MANY))


@pytest.mark.sqlite_too
def test_block_taken_back_is_told(manual: Stage, receiver: Receiver) -> None:
    webhook_to(receiver)
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    manual.rpc("anvil_reorg", 1, [])
    manual.watch()
    assert states_told(row)[-2:] == [("BROADCASTING", "CONFIRMING"), ("CONFIRMING", "BROADCASTING")]
    assert json.loads(Delivery.objects.latest("pk").body)["data"]["sub_state"] == "REORGED"
    manual.later(120)
    manual.drain()
    manual.mine(6)
    manual.watch()
    manual.watch()
    assert told(row)[-1] == "transaction.completed"


@pytest.mark.sqlite_too
def test_final_state_that_turns_out_wrong_is_retracted(manual: Stage, receiver: Receiver) -> None:
    webhook_to(receiver, *DEFAULT_TYPES)
    rows = [manual.submit(), manual.submit()]
    manual.drain()
    manual.mine(6)
    manual.watch()
    manual.watch()
    rows[0].refresh_from_db()
    assert rows[0].state == TransactionState.COMPLETED
    tell_of_deep_reorg(manual.chain, [rows[0].block_hash])
    for row in rows:
        assert told(row) == ["transaction.completed", "transaction.retracted"]
        assert data_of(row, "transaction.retracted")["state"] == "COMPLETED"
    tell_of_deep_reorg(manual.chain, [rows[0].block_hash])
    assert Delivery.objects.filter(type="transaction.retracted").count() == 2, "told once, as people are"
    # An index that went too far back says nothing of transactions.
    Incident.objects.create(
        kind="DEEP_REORG", subject="index of 31337", text="-", chain=manual.chain, details={}
    )
    assert Delivery.objects.filter(type="transaction.retracted").count() == 2


@pytest.mark.sqlite_too
def test_what_is_rolled_back_is_not_told(rows: Rows, receiver: Receiver) -> None:
    webhook_to(receiver)
    [row] = rows.submit()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        rows.fail(row)
        assert told(row) == ["transaction.received", "transaction.failed"]
        raise ZeroDivisionError
    assert told(row) == ["transaction.received"]


@pytest.mark.sqlite_too
def test_each_is_told_what_it_wants_and_only_while_it_is_enabled(
    rows: Rows, receiver: Receiver, other: Receiver
) -> None:
    everything, _ = webhook_to(receiver)
    final, _ = webhook_to(other, *DEFAULT_TYPES)
    rows.fail(*rows.submit(2))
    assert Delivery.objects.filter(webhook=everything).count() == 4
    assert set(Delivery.objects.filter(webhook=final).values_list("type", flat=True)) == {
        "transaction.failed"
    }
    ids = set(Delivery.objects.values_list("message_id", flat=True))
    assert len(ids) == 6
    assert {each.version for each in ids} == {4}
    registering.disable(everything, actor="ada", reason="maintenance")
    rows.submit()
    assert Delivery.objects.count() == 6


def test_every_state_is_a_type_and_the_final_ones_are_told_without_asking() -> None:
    assert len(TYPES) == len(TransactionState) + 1
    assert {kind.partition(".")[2].upper() for kind in DEFAULT_TYPES} == {*FINAL, "RETRACTED"}


@pytest.mark.sqlite_too
def test_without_webhooks_nothing_is_written(rows: Rows) -> None:
    [row] = rows.submit()
    with CaptureQueriesContext(
        connection,
    ) as asked:
        rows.fail(row)
    assert len(asked) == 1
    assert not Delivery.objects.exists()


@pytest.mark.postgresql("SQLite has one writer at a time")
def test_webhook_that_is_being_deleted_keeps_the_signer_neither_waiting_nor_failing(
    rows: Rows, receiver: Receiver
) -> None:
    from django.db import connections

    from dalp.webhooks.forgetting import forget

    webhook, _ = webhook_to(receiver)
    deleted, go_on = threading.Event(), threading.Event()

    def delete() -> None:
        with transaction.atomic():
            registering.remove(webhook, actor="ada", reason="-")
            deleted.set()
            go_on.wait(20)
        connections.close_all()

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        assert deleted.wait(20)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1s'")
        rows.fail(*rows.submit(3))
    finally:
        go_on.set()
        thread.join()
    assert not Webhook.objects.exists()
    assert Delivery.objects.count() == 6, "overlooked by the deletion"
    assert forget() == 6
