"""The console: every page opens, finds what an operator types, changes nothing but what is meant to be decided."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.core import mail
from django.test import Client
from django.urls import reverse

from dalp import alerts
from dalp.models import ApiToken
from keyguard import create_key
from signer.models import Attempt, Chain, Lane, Transaction
from tests.sample.workflows import Ledger, SampleInput
from workflows.models import DeadLetter, Event, Run, Step, VirtualObjectState, Wait

NASTY = "<script>alert('x')</script>"
HASH = "0x" + "ab" * 32


@pytest.fixture
def ada(db: None) -> Client:
    """An operator with every permission."""
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture
def stopped(db: None) -> DeadLetter:
    """A run that waits for a person, after a transaction; its texts are those of an attacker."""
    run = Ledger.start(SampleInput(key=NASTY), correlation_id="order-7")
    Run.objects.filter(pk=run.pk).update(state="DEAD_LETTER", wake_at=None, object_key="saga:7")
    Step.objects.update_or_create(
        run=run,
        operation_id="reserve#0",
        defaults={
            "name": "reserve",
            "seq": 1,
            "state": "FAILED",
            "attempt": 5,
            "error": {"code": "X", "message": NASTY},
        },
    )
    chain = Chain.objects.create(chain_id=31337, name=NASTY, genesis_hash="0x" + "00" * 32)
    lane = Lane.objects.create(chain=chain, address=create_key("treasury").address)
    row = Transaction.objects.create(
        chain=chain,
        lane=lane,
        kind="CALL",
        to=lane.address,
        state="BROADCASTING",
        nonce=0,
        idempotency_key="t1",
    )
    Attempt.objects.create(
        transaction=row, seq=0, nonce=0, gas_limit=21000, value=0, raw=b"\x02signed", hash=HASH, epoch=1,
        max_fee_per_gas_wei=2, max_priority_fee_per_gas_wei=1,
    )  # fmt: skip
    Wait.objects.create(
        run=run, operation_id="reserve#0", attempt=1, index=0, kind="transaction", reference=str(row.pk)
    )
    VirtualObjectState.objects.create(key="saga:7", holder=run)
    return DeadLetter.objects.create(
        run=run, operation_id="reserve#0", reason="retries_exhausted", error={"code": "X", "message": NASTY}
    )


def pages() -> list[str]:
    """The list and the add page of every model, and the first page."""
    models = [model for model in admin.site._registry if model._meta.managed]
    return [reverse("admin:index")] + [
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist") for model in models
    ]


def test_every_list_opens_and_every_row_too(ada: Client, stopped: DeadLetter) -> None:
    ApiToken.issue("ci", "viewer")
    for page in pages():
        response = ada.get(page)
        assert response.status_code == 200, page
        assert NASTY not in response.content.decode(), page
    for model in admin.site._registry:
        for row in model._default_manager.all()[:3]:
            page = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.pk])
            response = ada.get(page)
            assert response.status_code == 200, page
            assert NASTY not in response.content.decode(), page


def test_every_model_of_ours_has_a_page(db: None) -> None:
    from django.apps import apps

    admin.autodiscover()  # which the URLs do, when a test before this one has asked for a page

    ours = {
        model
        for label in ("workflows", "signer", "keyguard", "dalp", "assets", "webhooks")
        for model in apps.get_app_config(label).get_models()
    }
    inline = {
        "Step",
        "Wait",
        "Event",
        "Signal",
        "Vote",
        "AuditChain",
        "GuardedGroup",
        "WrappingKey",
        "MembershipAct",
        "BulkItem",
        "KeyMaterial",
        "Endpoint",
        "Authorization",
        "KeyAct",
        "KekDrill",
    }
    not_for_people = {
        "Payload",
        "Turn",
        "ArchivedLeaves",
        "Blob",
        "Spending",
        "WrongPassword",
        "Authenticator",
        "BackupCodes",
    }
    missing = {model.__name__ for model in ours if model not in admin.site._registry}
    missing -= inline | not_for_people
    assert missing == set()


def test_an_anonymous_person_sees_the_login_alone(client: Client, db: None) -> None:
    for page in pages():
        response = client.get(page)
        assert (response.status_code, response["Location"].split("?")[0]) == (302, reverse("admin:login"))


def test_the_first_page_says_what_needs_a_decision(ada: Client, stopped: DeadLetter) -> None:
    text = ada.get(reverse("admin:index")).content.decode()
    assert "1 dead letter waiting for a decision" in text
    assert "DEAD_LETTER" in text


@pytest.mark.parametrize(
    "term", ["id", "order-7", "saga:7", "transaction", HASH, HASH.upper().replace("X", "x")]
)
def test_a_run_is_found_by_what_a_person_has_at_hand(ada: Client, stopped: DeadLetter, term: str) -> None:
    other = Ledger.start(SampleInput())
    named = {"id": str(stopped.run_id), "transaction": str(Transaction.objects.get().pk)}
    response = ada.get(reverse("admin:workflows_run_changelist"), {"q": named.get(term, term)})
    text = response.content.decode()
    assert str(stopped.run_id) in text
    assert str(other.pk) not in text


def test_a_search_for_junk_finds_nothing_and_breaks_nothing(ada: Client, stopped: DeadLetter) -> None:
    for term in ("'; DROP TABLE", "\x00", "0x", "%", "🙂", "x" * 5000):
        assert ada.get(reverse("admin:workflows_run_changelist"), {"q": term}).status_code == 200


def test_the_page_of_a_run_says_what_it_waits_for_and_links_to_the_decision(
    ada: Client, stopped: DeadLetter
) -> None:
    text = ada.get(reverse("admin:workflows_run_change", args=[stopped.run_id])).content.decode()
    assert "a person: reserve#0, retries exhausted (X)" in text
    assert reverse("admin:workflows_deadletter_change", args=[stopped.pk]) in text
    assert reverse("admin:signer_transaction_change", args=[Transaction.objects.get().pk]) in text
    assert "run_started" in text


def replay(client: Client, letter: DeadLetter, reason: str) -> Any:
    return client.post(f"/admin/workflows/deadletter/{letter.pk}/replay/", {"reason": reason}, follow=True)


def test_a_replay_needs_a_reason_and_writes_it_down(ada: Client, stopped: DeadLetter) -> None:
    assert ada.get(f"/admin/workflows/deadletter/{stopped.pk}/replay/").status_code == 200
    replay(ada, stopped, "")
    assert DeadLetter.objects.get().state == "OPEN"
    assert "Replay the step: done." in replay(ada, stopped, "the bank is back").content.decode()
    assert Run.objects.get(pk=stopped.run_id).state == "READY"
    letter = DeadLetter.objects.get()
    assert (letter.state, letter.resolved_by, letter.note) == ("RESOLVED", "ada", "the bank is back")
    assert Event.objects.filter(run=stopped.run).latest("seq").data["actor"] == "ada"


def test_a_resolved_dead_letter_cannot_be_replayed(ada: Client, stopped: DeadLetter) -> None:
    replay(ada, stopped, "once")
    assert replay(ada, stopped, "twice").status_code == 403


def test_a_person_who_may_only_look_cannot_replay(client: Client, stopped: DeadLetter) -> None:
    eve = User.objects.create_user("eve", is_staff=True)
    eve.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(eve)
    assert client.get(reverse("admin:workflows_deadletter_change", args=[stopped.pk])).status_code == 200
    assert replay(client, stopped, "let me").status_code == 403
    assert DeadLetter.objects.get().state == "OPEN"


@pytest.mark.parametrize("model", ["run", "deadletter", "virtualobjectstate"])
def test_nothing_of_the_engine_is_added_changed_or_deleted_by_hand(
    ada: Client, stopped: DeadLetter, model: str
) -> None:
    row = {"run": stopped.run_id, "deadletter": stopped.pk, "virtualobjectstate": "saga_3A7"}[model]
    assert ada.get(reverse(f"admin:workflows_{model}_add")).status_code == 403
    assert ada.post(
        reverse(f"admin:workflows_{model}_change", args=[row]), {"state": "SUCCEEDED"}
    ).status_code in (302, 403)
    assert ada.post(reverse(f"admin:workflows_{model}_delete", args=[row]), {"post": "yes"}).status_code in (
        302,
        403,
    )
    assert Run.objects.get(pk=stopped.run_id).state == "DEAD_LETTER"


def test_people_are_told_about_a_dead_letter(stopped: DeadLetter, settings: Any) -> None:
    settings.ADMINS = [("operations", "ops@example.org")]
    alerts.tell_about_dead_letter(stopped)
    [message] = mail.outbox
    assert message.to == ["ops@example.org"]
    assert str(stopped.run_id) in message.subject + message.body


def test_a_mail_server_that_fails_does_not_stop_the_alert(
    stopped: DeadLetter, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("no mail today")

    monkeypatch.setattr(alerts, "mail_admins", refuse)
    alerts.tell_about_dead_letter(stopped)
    assert "alert mail failed" in caplog.text
