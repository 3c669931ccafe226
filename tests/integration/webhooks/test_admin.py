"""Webhooks in the console: how each is, what waits, what may be done; nothing secret on any page."""

from typing import Any

import pytest
from django.test import Client

from dalp.webhooks import courier
from dalp.webhooks.models import Delivery, Webhook
from dalp.webhooks.sealing import key_bytes, new_secret, unseal
from signer.models import Act
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.rows import Rows, deliver_until_done, webhook_to

pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


@pytest.fixture
def client(rows: Rows, django_user_model: Any) -> Client:
    client = Client()
    client.force_login(
        django_user_model.objects.create_superuser("anna", "op@example.com", "a long password")
    )
    return client


def page(client: Client, path: str, **query: Any) -> str:
    response = client.get(f"/admin/webhooks/{path}", query)
    assert response.status_code == 200, path
    return str(response.content.decode())


def act(client: Client, path: str, **given: Any) -> Any:
    return client.post(f"/admin/webhooks/{path}", {"reason": "the auditors are here", **given})


@pytest.mark.sqlite_too
def test_pages_say_how_a_receiver_is_and_nothing_secret(
    client: Client, rows: Rows, receiver: Receiver
) -> None:
    webhook, secret = webhook_to(receiver)
    receiver.answer(503)
    rows.fail(*rows.submit(3))
    courier.deliver()
    webhook.refresh_from_db()
    delivery = Delivery.objects.exclude(last_error="").latest("pk")
    texts = {
        path: page(client, path)
        for path in (
            "webhook/", f"webhook/{webhook.pk}/change/", "delivery/", f"delivery/{delivery.pk}/change/",
            f"webhook/{webhook.pk}/secret/", f"webhook/{webhook.pk}/disable/",
        )
    }  # fmt: skip
    for path, text in texts.items():
        for never in ("verysecret", secret, webhook.secret_sealed):
            assert never not in text, path
    for path in ("webhook/", f"webhook/{webhook.pk}/change/"):
        for said in ("AWAY", f"127.0.0.1:{receiver.port}", "it answered 503", "6, the oldest for"):
            assert said in texts[path], (path, said)
    assert "it was not there once, and is tried again at" in texts[f"webhook/{webhook.pk}/change/"]
    assert "it answered 503" in texts["delivery/"]
    assert "waits for the event before it" in texts["delivery/"]
    assert str(delivery.message_id) in page(client, "delivery/", q=str(delivery.transaction_id))


def test_webhook_is_disabled_and_enabled_with_a_reason(
    client: Client, rows: Rows, receiver: Receiver
) -> None:
    webhook, _ = webhook_to(receiver)
    base = f"webhook/{webhook.pk}"
    assert client.post(f"/admin/webhooks/{base}/disable/", {}).status_code == 200, (
        "without a reason nothing happens"
    )
    assert act(client, f"{base}/disable/").status_code == 302
    assert "the auditors are here (anna)" in page(client, f"{base}/change/")
    rows.submit()
    assert not Delivery.objects.exists()
    act(client, f"{base}/test/")
    assert "waits: the webhook is disabled" in page(client, "delivery/")
    Delivery.objects.all().delete()
    assert act(client, f"{base}/disable/").status_code == 403, "it is, already"
    act(client, f"{base}/enable/")
    rows.submit()
    assert courier.deliver() == 1
    verbs = ["add_webhook", "disable_webhook", "test_webhook", "enable_webhook"]
    assert list(Act.objects.order_by("at").values_list("verb", flat=True)) == verbs


def test_what_was_given_up_is_replayed_together_or_one_by_one(
    client: Client, rows: Rows, receiver: Receiver
) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    receiver.answer(500)
    rows.submit(3)
    assert act(client, f"webhook/{webhook.pk}/replay/").status_code == 403, "nothing is given up"
    deliver_until_done()
    assert "FAILING" in page(client, "webhook/")
    assert "3" in page(client, f"webhook/{webhook.pk}/replay/")
    first = Delivery.objects.earliest("pk")
    assert act(client, f"delivery/{first.pk}/replay/").status_code == 302
    receiver.answer(200)
    assert courier.deliver() == 1
    assert act(client, f"webhook/{webhook.pk}/replay/").status_code == 302
    assert courier.deliver() == 2
    assert set(Delivery.objects.values_list("state", flat=True)) == {"DELIVERED"}
    assert "WELL" in page(client, "webhook/")


def test_trial_is_sent(client: Client, rows: Rows, receiver: Receiver) -> None:
    webhook, secret = webhook_to(receiver)
    assert act(client, f"webhook/{webhook.pk}/test/").status_code == 302
    courier.deliver()
    assert receiver.types == ["webhook.test"]
    receiver.got[0].verify(secret)


def test_secret_that_the_receiver_made_is_set_and_never_shown(
    client: Client, rows: Rows, receiver: Receiver
) -> None:
    webhook, old = webhook_to(receiver)
    path = f"webhook/{webhook.pk}/secret/"
    wrong = act(client, path, secret="whsec_notasecret")
    assert wrong.status_code == 200
    assert "notasecret" not in wrong.content.decode()
    new = new_secret()
    answer = act(client, path, secret=new)
    assert answer.status_code == 302
    followed = client.get(answer["Location"]).content.decode()
    assert new not in followed
    assert "the one before signs, too, until" in followed
    webhook.refresh_from_db()
    assert unseal(webhook.secret_sealed) == key_bytes(new)
    assert unseal(webhook.previous_secret_sealed) == key_bytes(old)
    assert new not in str([vars(each) for each in Act.objects.all()])


def test_who_may_not_change_webhooks_looks_only(
    rows: Rows, receiver: Receiver, django_user_model: Any
) -> None:
    from django.contrib.auth.models import Permission

    webhook, _ = webhook_to(receiver)
    person = django_user_model.objects.create_user("bob", "b@example.com", "a long password", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=["view_webhook", "view_delivery"]))
    client = Client()
    client.force_login(person)
    assert "Disable" not in page(client, f"webhook/{webhook.pk}/change/")
    for what in ("disable", "test", "secret"):
        assert act(client, f"webhook/{webhook.pk}/{what}/").status_code == 403
    assert Webhook.objects.get().enabled
