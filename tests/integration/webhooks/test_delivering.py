"""Sending: signed, in order for each transaction, again until it is taken, and never held up by another receiver."""

import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from dalp.alerts import mail_about_incident
from dalp.webhooks import courier, posting, registering, replaying
from dalp.webhooks.models import Delivery, Webhook
from signer.models import Incident
from tests.integration.signer.stage import Crash
from tests.integration.webhooks.receiver import Received, Receiver
from tests.integration.webhooks.rows import Rows, deliver_until_done, later, webhook_to
from tests.services import Live
from workflows import claim

ENDS = "transaction.received", "transaction.failed"


def die_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Have the process "die" the first time that it gets to a crash point, and its lease run out."""
    armed = [point]

    def crashpoint(reached: str) -> None:
        if reached in armed:
            armed.remove(reached)
            raise Crash(reached)

    monkeypatch.setattr(courier, "crashpoint", crashpoint)


def forget_leases() -> None:
    Webhook.objects.update(lease_until=None)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers have half a second to answer."""
    monkeypatch.setattr(posting, "TIMEOUT_SECONDS", 0.5)


@pytest.mark.case("S79")
@pytest.mark.sqlite_too
def test_delivery_is_signed_and_says_what_happened(rows: Rows, receiver: Receiver) -> None:
    webhook, secret = webhook_to(receiver)
    [row] = rows.submit()
    rows.fail(row)
    assert courier.deliver() == 2
    assert receiver.of(row.pk) == list(ENDS)
    for received in receiver.got:
        received.verify(secret)
        assert received.headers["content-type"] == "application/json"
        assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert received.path == "/hook?key=verysecret"
        uuid.UUID(received.id)
    assert set(Delivery.objects.values_list("state", "attempts", "last_status")) == {("DELIVERED", 1, 200)}
    webhook.refresh_from_db()
    assert webhook.delivered_at is not None
    assert webhook.lease_until is None
    assert courier.deliver() == 0


@pytest.mark.case("S9", "S79")
@pytest.mark.sqlite_too
@pytest.mark.parametrize(("point", "sent_before"), [("webhooks.before_post", 0), ("webhooks.after_post", 1)])
def test_death_on_either_side_of_the_post_has_it_sent_with_the_same_id_and_bytes(
    rows: Rows, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, point: str, sent_before: int
) -> None:
    _, secret = webhook_to(receiver, "transaction.failed")
    rows.fail(*rows.submit())
    die_at(monkeypatch, point)
    with pytest.raises(Crash):
        courier.deliver()
    assert len(receiver.got) == sent_before
    assert Delivery.objects.get().attempts == 0
    assert courier.deliver() == 0, "the dead one's lease stands for a while"
    forget_leases()
    assert courier.deliver() == 1
    assert len(receiver.got) == sent_before + 1
    assert {(received.id, received.body) for received in receiver.got} == {
        (str(Delivery.objects.get().message_id), Delivery.objects.get().body.encode())
    }
    for received in receiver.got:
        received.verify(secret)


@pytest.mark.case("S9")
def test_process_killed_after_the_state_changed_loses_no_event(live: Live, receiver: Receiver) -> None:
    """Real processes: one commits the state and is gone, one sends and is killed before it has recorded that."""
    rows = Rows()
    _, secret = webhook_to(receiver, "transaction.failed")
    rows.submit()
    setup = "import django, os; django.setup(); "
    commit = "from signer.models import Transaction as T; from django.utils import timezone as z; "
    commit += "T.objects.update(state='FAILED', settled_at=z.now()); os._exit(9)"
    assert live.run("-c", setup + commit).returncode == 9
    assert receiver.got == []
    send = setup + "from dalp.webhooks.courier import deliver; deliver()"
    assert live.run("-c", send, env={"DALP_FAULT": "webhooks.after_post=exit"}).returncode == 137
    assert len(receiver.got) == 1
    forget_leases()
    courier.deliver()
    assert len({received.id for received in receiver.got}) == 1
    assert len(receiver.got) == 2
    assert receiver.got[1].body == receiver.got[0].body
    receiver.got[1].verify(secret)


@pytest.mark.case("S78")
@pytest.mark.sqlite_too
def test_failing_receiver_gets_each_transactions_events_in_order_and_others_wait_for_nothing(
    rows: Rows, receiver: Receiver, other: Receiver
) -> None:
    webhook_to(receiver)
    webhook_to(other)
    bad, good = rows.submit(2)
    rows.fail(bad, good)
    failures = {str(bad.pk): 3}

    def manner(received: Received) -> tuple[int, dict[str, str]]:
        if failures.get(received.transaction, 0) > 0:
            failures[received.transaction] -= 1
            return 500, {}
        return 200, {}

    receiver.manner = manner
    courier.deliver()
    assert receiver.of(good.pk) == list(ENDS), "another transaction goes on"
    assert other.of(bad.pk) == other.of(good.pk) == list(ENDS)
    assert receiver.of(bad.pk) == ["transaction.received"], "nothing overtakes what was refused"
    deliver_until_done()
    assert receiver.of(bad.pk) == ["transaction.received"] * 4 + ["transaction.failed"]
    assert Delivery.objects.get(transaction=bad, type="transaction.received", attempts=4).state == "DELIVERED"
    assert (
        len({each.id for each in receiver.got if each.type == ENDS[0] and each.transaction == str(bad.pk)})
        == 1
    )


@pytest.mark.case("S78")
def test_receiver_that_turns_us_away_is_left_alone_as_long_as_it_asks(rows: Rows, receiver: Receiver) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    receiver.answer(429, Retry_After="600")
    rows.submit(20)
    courier.deliver()
    assert 1 <= len(receiver.got) <= courier.WINDOW, "what was not under way yet waits"
    webhook.refresh_from_db()
    assert webhook.paused_until is not None
    assert timedelta(seconds=590) < webhook.paused_until - timezone.now() <= timedelta(seconds=600)
    before = len(receiver.got)
    later(300)
    assert courier.deliver() == 0
    receiver.answer(200)
    later(301)
    courier.deliver()
    assert len(receiver.got) == before + 20
    webhook.refresh_from_db()
    assert (webhook.failures, webhook.paused_until) == (0, None)


@pytest.mark.case("S78")
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", ["hangs", "dribbles", "drops", "is not there"])
def test_receiver_that_does_not_answer_holds_up_no_other(
    rows: Rows, receiver: Receiver, other: Receiver, how: str
) -> None:
    bad, _ = webhook_to(receiver)
    webhook_to(other)
    if how == "hangs":
        receiver.hangs.set()
    elif how == "is not there":
        Webhook.objects.filter(pk=bad.pk).update(url="http://127.0.0.1:9/hook?key=verysecret")
    else:
        setattr(receiver, how, True)
    rows.fail(*rows.submit(30))
    begun = time.monotonic()
    courier.deliver()
    assert time.monotonic() - begun < 5, "one timeout, not one for each"
    assert len(other.got) == 60
    bad.refresh_from_db()
    assert bad.failures == 1
    assert "verysecret" not in bad.last_error
    wanted = {
        "hangs": "within",
        "dribbles": "within",
        "drops": "without an answer",
        "is not there": "reached",
    }
    assert wanted[how] in bad.last_error, bad.last_error
    assert Delivery.objects.filter(webhook=bad, state="PENDING").count() == 60


@pytest.mark.case("S78")
@pytest.mark.usefixtures("hasty")
def test_receiver_that_hangs_is_asked_by_one_thread_alone(rows: Rows, receiver: Receiver) -> None:
    webhook_to(receiver)
    rows.submit(20)
    receiver.hangs.set()
    courier.deliver()
    assert receiver.most_at_once <= courier.WINDOW
    first = len(receiver.got)
    later(20)
    courier.deliver()
    assert len(receiver.got) == first + 1


def test_quick_receiver_gets_several_transactions_at_once_within_its_window(
    rows: Rows, receiver: Receiver
) -> None:
    webhook_to(receiver, "transaction.received")
    gate = threading.Barrier(courier.WINDOW)

    def manner(_: Received) -> tuple[int, dict[str, str]]:
        gate.wait(5)  # passes only when a window full of them is here
        return 200, {}

    receiver.manner = manner
    rows.submit(3 * courier.WINDOW)
    assert courier.deliver() == 3 * courier.WINDOW
    assert receiver.most_at_once == courier.WINDOW


@pytest.mark.case("S78")
@pytest.mark.sqlite_too
def test_what_is_not_taken_for_a_day_is_given_up_told_and_replayed(rows: Rows, receiver: Receiver) -> None:
    webhook, _ = webhook_to(receiver, "transaction.failed")
    receiver.answer(500)
    rows.fail(*rows.submit())
    deliver_until_done()
    dead = Delivery.objects.get()
    assert (dead.state, dead.last_status, dead.last_error) == ("DEAD", 500, "it answered 500")
    incident = Incident.objects.get(closed_at=None)
    assert incident.kind == "WEBHOOK_FAILED"
    assert "has not taken an event for 24 hours" in incident.text
    assert "verysecret" not in incident.text
    receiver.answer(200)
    assert courier.deliver() == 0
    replaying.replay_dead(webhook, actor="ada", reason="mended")
    assert courier.deliver() == 1
    assert len({received.id for received in receiver.got}) == 1
    dead.refresh_from_db()
    assert (dead.state, dead.attempts) == ("DELIVERED", 1)
    assert not Incident.objects.filter(closed_at=None).exists()


def test_later_event_follows_when_the_earlier_one_is_given_up(rows: Rows, receiver: Receiver) -> None:
    webhook_to(receiver)
    receiver.manner = lambda received: (500 if received.type == ENDS[0] else 200, {})
    rows.fail(*rows.submit())
    deliver_until_done()
    assert set(Delivery.objects.values_list("type", "state")) == {(ENDS[0], "DEAD"), (ENDS[1], "DELIVERED")}


@pytest.mark.sqlite_too
def test_receiver_that_is_gone_is_not_asked_again(rows: Rows, receiver: Receiver) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    receiver.answer(410)
    rows.submit()
    courier.deliver()
    webhook.refresh_from_db()
    assert (webhook.enabled, webhook.disabled_because) == (
        False,
        "it answered 410 Gone: it wants nothing more",
    )
    assert Incident.objects.get().kind == "WEBHOOK_FAILED"
    rows.submit()
    assert Delivery.objects.count() == 1
    assert courier.deliver() == 0


@pytest.mark.case("PE16")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(rows: Rows, receiver: Receiver, other: Receiver, status: int) -> None:
    webhook_to(receiver, "transaction.received")
    receiver.answer(status, Location=other.url)
    rows.submit()
    courier.deliver()
    assert other.got == []
    assert "redirects are not followed" in Delivery.objects.get().last_error


@pytest.mark.case("PE16")
def test_address_is_checked_again_at_each_sending(rows: Rows, receiver: Receiver, settings: Any) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    Webhook.objects.update(url=webhook.url.replace("http:", "https:"))
    rows.submit()
    settings.WEBHOOK_ALLOW_PRIVATE = False
    courier.deliver()
    assert receiver.got == []
    assert (
        Delivery.objects.get().last_error
        == "its address is refused: its host has an address that is not public"
    )


def test_no_proxy_of_the_environment_is_used(
    rows: Rows, receiver: Receiver, other: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, other.url)
    webhook_to(receiver, "transaction.received")
    rows.submit()
    courier.deliver()
    assert (len(receiver.got), len(other.got)) == (1, 0)


@pytest.mark.sqlite_too
def test_both_secrets_sign_for_a_day_after_one_was_replaced(rows: Rows, receiver: Receiver) -> None:
    webhook, old = webhook_to(receiver, "transaction.received")
    new = registering.rotate(webhook, actor="ada", reason="leaked")
    rows.submit()
    courier.deliver()
    for secret in (old, new):
        receiver.got[0].verify(secret)
    later(24 * 3600 + 1)
    rows.submit()
    courier.deliver()
    assert len(receiver.got[1].headers["webhook-signature"].split(" ")) == 1
    receiver.got[1].verify(new)


def test_secret_that_cannot_be_read_stops_its_webhook_and_is_told(
    rows: Rows, receiver: Receiver, other: Receiver, settings: Any
) -> None:
    lost, _ = webhook_to(receiver, "transaction.received")
    settings.SECRET_KEY = "another key than the one by which that secret was sealed"
    webhook_to(other, "transaction.received")
    rows.submit()
    courier.deliver()
    assert (len(receiver.got), len(other.got)) == (0, 1)
    assert "SECRET_KEY was changed" in Incident.objects.get().text
    secret = registering.rotate(lost, actor="ada", reason="SECRET_KEY was changed")
    courier.deliver()
    receiver.got[0].verify(secret)
    assert not Incident.objects.filter(closed_at=None).exists()


def before_the_record(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen when a receiver has answered, and nothing of that is recorded yet."""
    monkeypatch.setattr(courier, "crashpoint", lambda reached: reached == "webhooks.after_post" and act())


@pytest.mark.sqlite_too
def test_courier_that_was_replaced_records_nothing(
    rows: Rows, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    rows.submit()

    def taken_over() -> None:
        forget_leases()
        assert claim(Webhook, webhook.pk, 30) is not None

    before_the_record(monkeypatch, taken_over)
    assert courier.deliver() == 0
    assert (Delivery.objects.get().state, Delivery.objects.get().attempts) == ("PENDING", 0)
    webhook.refresh_from_db()
    assert webhook.lease_until is not None, "the other's lease stands"


def test_replay_while_it_is_on_its_way_stands(
    rows: Rows, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_to(receiver, "transaction.received")
    rows.submit()
    receiver.answer(500)
    courier.deliver()
    later(100)
    receiver.answer(200)

    def replayed() -> None:
        monkeypatch.setattr(courier, "crashpoint", lambda _: None)
        replaying.replay(Delivery.objects.get(), actor="ada", reason="-")

    before_the_record(monkeypatch, replayed)
    courier.deliver()
    assert len(receiver.got) >= 2
    deliver_until_done()
    assert len(receiver.got) == 3
    assert Delivery.objects.get().attempts == 1


@pytest.mark.sqlite_too
def test_webhook_disabled_while_much_is_to_be_sent_is_sent_no_more(
    rows: Rows, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    rows.submit(20)

    before_the_record(monkeypatch, lambda: registering.disable(webhook, actor="ada", reason="-"))
    assert courier.deliver() == 0
    assert len(receiver.got) <= courier.WINDOW


@pytest.mark.sqlite_too
def test_webhook_removed_while_something_is_on_its_way_is_gone(
    rows: Rows, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, _ = webhook_to(receiver, "transaction.received")
    rows.submit()

    before_the_record(monkeypatch, lambda: registering.remove(webhook, actor="ada", reason="-"))
    assert courier.deliver() == 0
    assert (Webhook.objects.count(), Delivery.objects.count()) == (0, 0)


def test_worker_delivers_without_being_told_to(live: Live, receiver: Receiver) -> None:
    """The queue and the schedule: a worker without options and a beat are enough."""
    rows = Rows()
    _, secret = webhook_to(receiver)
    live.start_worker(concurrency=2)
    live.start_beat()
    rows.fail(*rows.submit())
    live.wait_until(lambda: receiver.types == list(ENDS), 30, what=lambda: str(receiver.types))
    for received in receiver.got:
        received.verify(secret)


def test_people_are_mailed_what_to_do_and_no_url(rows: Rows, receiver: Receiver, settings: Any) -> None:
    settings.ADMINS = [("operations", "ops@example.com")]
    webhook, _ = webhook_to(receiver, "transaction.received")
    receiver.answer(410)
    rows.submit()
    courier.deliver()
    mail_about_incident(Incident.objects.get().pk)
    assert "does not take what it is sent" in mail.outbox[-1].subject
    assert "Replay what was given up" in mail.outbox[-1].body
    assert "verysecret" not in mail.outbox[-1].body
    assert Incident.objects.get().details == {"webhook": str(webhook.pk)}
