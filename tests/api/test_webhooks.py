"""Webhooks over REST: registered, shown without their URL and secret, followed, replayed, removed."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.callers import Caller

URL = "http://127.0.0.1:9/hook?key=verysecret"
PATHS = ("/webhooks", "/webhooks/{id}/rotate-secret", "/webhooks/{id}/test")


@pytest.fixture
def webhook(operator: Caller) -> dict[str, Any]:
    answer = operator.post("/webhooks", {"url": URL, "description": "the shop"})
    assert answer.status_code == 201, answer.content
    made: dict[str, Any] = answer.json()
    return made


def failed_transaction() -> Any:
    from django.utils import timezone

    from signer.models import Chain, Lane, Transaction

    chain = Chain.objects.create(chain_id=31337, name="test", genesis_hash="0x" + "00" * 32)
    lane = Lane.objects.create(chain=chain, address="0x" + "11" * 20)
    row = Transaction.objects.create(chain=chain, lane=lane, kind="CALL", idempotency_key="order-7")
    Transaction.objects.update(state="FAILED", settled_at=timezone.now())
    return row


def test_the_secret_is_shown_once_and_the_url_never(operator: Caller, viewer: Caller) -> None:
    first = operator.post("/webhooks", {"url": URL}, key="mine")
    again = operator.post("/webhooks", {"url": URL}, key="mine")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again["Idempotent-Replayed"] == "true"
    secret = first.json()["secret"]
    assert secret.startswith("whsec_")
    assert again.json() == {**first.json(), "secret": None}
    one = viewer.get(f"/webhooks/{first.json()['id']}")
    listed = viewer.get("/webhooks")
    assert [each["id"] for each in listed.json()["items"]] == [first.json()["id"]]
    assert one.json()["host"] == "127.0.0.1:9"
    from dalp.models import IdempotencyRecord
    from dalp.webhooks.models import Webhook
    from signer.models import Act

    stored = [str(record.body) for record in IdempotencyRecord.objects.all()]
    stored += [str(vars(act)) for act in Act.objects.all()] + [repr(Webhook.objects.get())]
    for text in (again.content.decode(), one.content.decode(), listed.content.decode(), *stored):
        assert secret not in text
        assert "verysecret" not in text
    assert secret.removeprefix("whsec_") not in str(vars(Webhook.objects.get()))


def test_without_being_asked_the_final_states_and_retractions_are_told(webhook: dict[str, Any]) -> None:
    assert sorted(webhook["events"]) == [
        f"transaction.{word}"
        for word in ("cancelled", "completed", "dead_letter", "expired", "failed", "retracted")
    ]
    assert webhook.keys() >= {
        "id",
        "host",
        "events",
        "enabled",
        "pending",
        "dead",
        "last_error",
        "created_at",
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "not a url"}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://user:word@example.com/"}, "url"),
        ({"url": URL, "events": ["transaction.done"]}, "events"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "description": "x" * 201}, "description"),
        ({"url": URL, "colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_is_said_by_field(operator: Caller, body: dict[str, Any], field: str) -> None:
    answer = operator.post("/webhooks", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "API_INVALID_INPUT")
    assert list(answer.json()["errors"]) == [field]
    assert "word@" not in answer.content.decode()


@pytest.mark.case("PE16")
@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://2130706433/",
    ],
)
def test_addresses_within_are_refused_in_production(operator: Caller, settings: Any, url: str) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    answer = operator.post("/webhooks", {"url": url})
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["url"])


def test_the_name_server_is_not_asked_within_a_transaction_nor_for_a_repetition(
    operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connection

    from dalp.webhooks import addresses

    asked = []
    outer = len(connection.savepoint_ids)
    monkeypatch.setattr(addresses, "check", lambda url: asked.append(len(connection.savepoint_ids) - outer))
    operator.post("/webhooks", {"url": URL}, key="mine")
    operator.post("/webhooks", {"url": URL}, key="mine")
    assert asked == [0]


def test_deliveries_are_listed_and_replayed(operator: Caller, webhook: dict[str, Any]) -> None:
    from dalp.webhooks.models import Delivery
    from signer.models import Act

    row = failed_transaction()
    path = f"/webhooks/{webhook['id']}/deliveries"
    [listed] = operator.get(path).json()["items"]
    assert (listed["type"], listed["state"], listed["transaction_id"]) == (
        "transaction.failed",
        "PENDING",
        str(row.pk),
    )
    assert operator.get(f"/webhooks/{webhook['id']}").json()["pending"] == 1
    Delivery.objects.update(
        state="DEAD", settled_at=row.created_at, attempts=16, last_error="it answered 500"
    )
    shown = operator.get(f"/webhooks/{webhook['id']}").json()
    assert (shown["pending"], shown["dead"], shown["pending_since"]) == (0, 1, None)
    answer = operator.post(f"/webhooks/deliveries/{listed['id']}/replay", {"reason": "mended"}, key=None)
    assert (answer.status_code, answer.json()["state"], answer.json()["attempts"]) == (202, "PENDING", 0)
    assert answer.json()["id"] == listed["id"]
    act = Act.objects.get(verb="replay_delivery")
    assert (act.reason, act.transaction_id) == ("mended", row.pk)
    for filters, count in (({"state": "DEAD"}, 0), ({"transaction_id": str(row.pk)}, 1), ({"type": "x"}, 0)):
        assert len(operator.get(path, **filters).json()["items"]) == count


def test_lists_of_deliveries_go_on_where_the_cursor_says(operator: Caller, webhook: dict[str, Any]) -> None:
    for _ in range(5):
        operator.post(f"/webhooks/{webhook['id']}/test", {}, key=None)
    path = f"/webhooks/{webhook['id']}/deliveries"
    whole = [each["id"] for each in operator.get(path).json()["items"]]
    first = operator.get(path, limit=3).json()
    rest = operator.get(path, limit=3, cursor=first["next_cursor"]).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == whole
    assert rest["next_cursor"] is None


def test_trial_and_another_secret(operator: Caller, webhook: dict[str, Any]) -> None:
    from dalp.webhooks.models import Delivery

    sent = operator.post(f"/webhooks/{webhook['id']}/test", {}, key=None)
    assert (sent.status_code, sent.json()["type"], sent.json()["transaction_id"]) == (
        202,
        "webhook.test",
        None,
    )
    assert json.loads(Delivery.objects.get().body)["data"] == {"webhook_id": webhook["id"]}
    path = f"/webhooks/{webhook['id']}/rotate-secret"
    assert operator.post(path, {}, key=None).status_code == 400
    first, again = (
        operator.post(path, {"reason": "leaked"}, key="r"),
        operator.post(path, {"reason": "leaked"}, key="r"),
    )
    assert first.json()["secret"] not in (None, webhook["secret"])
    assert again.json()["secret"] is None


def test_removed_webhook_is_gone_with_its_deliveries(operator: Caller, webhook: dict[str, Any]) -> None:
    from dalp.webhooks.models import Delivery

    failed_transaction()
    path = f"/api/v1/webhooks/{webhook['id']}"
    assert operator.client.delete(path).status_code == 204
    assert operator.client.delete(path).status_code == 404
    assert operator.get("/webhooks").json()["items"] == []
    assert not Delivery.objects.exists()


def test_viewers_look_and_do_nothing(
    caller: Callable[..., Caller], operator: Caller, webhook: dict[str, Any]
) -> None:
    viewer = caller("viewer")
    for path in PATHS:
        assert viewer.post(path.format(id=webhook["id"]), {"url": URL}).status_code == 403, path
    assert viewer.client.delete(f"/api/v1/webhooks/{webhook['id']}").status_code == 403
    assert viewer.get(f"/webhooks/{webhook['id']}/deliveries").status_code == 200
    unknown = uuid.uuid4()
    assert operator.post(f"/webhooks/deliveries/{unknown}/replay", {}, key=None).status_code == 404
    assert operator.get(f"/webhooks/{unknown}/deliveries").status_code == 404
