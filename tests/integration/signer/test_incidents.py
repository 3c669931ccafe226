"""Incidents: told once by every channel, with what to do; open first in the admin; closed by a person with a reason."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.db import transaction
from django.db.models import F
from django.test import Client
from django.urls import reverse

from dalp import alerts, tasks
from keyguard import create_key
from signer import incidents
from signer.models import Act, Chain, Incident, Lane, LaneMoney, TopUp
from signer.states import IncidentKind

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),  # whitenoise, before `collectstatic`
]

NASTY = "<script>alert('x')</script>"
SECRET = "ab" * 32


@pytest.fixture
def lane() -> Lane:
    chain = Chain.objects.create(chain_id=1, name="test", genesis_hash="0x" + "00" * 32)
    return Lane.objects.create(chain=chain, address=create_key("payer").address)


@pytest.fixture
def ada() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


def open_one(
    lane: Lane, kind: IncidentKind = IncidentKind.LOW_BALANCE, text: str = "It is empty."
) -> Incident:
    incidents.open_incident(kind, str(lane), text, lane=lane)
    return Incident.objects.get(kind=kind, closed_at=None)


def page(client: Client, view: str, *args: Any, **query: str) -> str:
    response = client.get(reverse(f"admin:signer_{view}", args=args), query)
    assert response.status_code == 200
    return str(response.content.decode())


def test_list_begins_with_the_open_ones(ada: Client, lane: Lane) -> None:
    first = open_one(lane, text="the first one")
    Incident.objects.update(opened_at=F("opened_at") - timedelta(days=9))
    second = open_one(lane, IncidentKind.FEE_CAPPED, "the second one")
    incidents.close_incident(IncidentKind.FEE_CAPPED, second.subject, "over")
    text = page(ada, "incident_changelist")
    assert text.index("the first one") < text.index("the second one")
    assert "the second one" not in page(ada, "incident_changelist", state="open")
    assert "the first one" not in page(ada, "incident_changelist", state="closed")
    assert "the first one" not in page(ada, "incident_changelist", kind__exact="FEE_CAPPED")
    assert str(first.pk) in page(ada, "incident_changelist", q=lane.address)


def test_page_says_what_to_do_and_leads_there(ada: Client, lane: Lane) -> None:
    LaneMoney.objects.create(lane=lane)
    rule = TopUp.objects.create(
        lane=lane, treasury="treasury", level_wei=1, daily_cap_wei=1, created_by="ada"
    )
    incident = open_one(lane, text=NASTY)
    text = page(ada, "incident_change", incident.pk)
    assert "1. Send the address money, on the chain that the incident names." in text
    assert reverse("admin:signer_lane_change", args=[lane.pk]) in text
    assert reverse("admin:signer_lanemoney_change", args=[lane.pk]) in text
    assert reverse("admin:signer_topup_change", args=[rule.pk]) in text
    assert NASTY not in text


def test_person_closes_an_incident_with_a_reason_once(ada: Client, lane: Lane) -> None:
    incident = open_one(lane)
    address = reverse("admin:signer_incident_close", args=[incident.pk])
    assert "opens it again" in ada.get(address).content.decode()
    ada.post(address, {"reason": ""})
    assert Incident.objects.get().closed_at is None
    ada.post(address, {"reason": "sent 3 ether"})
    closed = Incident.objects.get()
    assert (closed.closed_by, closed.closed_because) == ("ada", "sent 3 ether")
    assert ada.post(address, {"reason": "again"}).status_code == 403
    assert incidents.close_by_person(incident.pk, actor="bob", reason="late") is False
    act = Act.objects.get()
    assert (act.actor, act.verb, act.reason, act.lane) == ("ada", "close_incident", "sent 3 ether", lane)
    listed = page(ada, "act_changelist")
    assert "close_incident" in listed
    assert lane.address in listed
    page(ada, "act_change", act.pk)


def test_who_may_only_look_closes_nothing(lane: Lane) -> None:
    from django.contrib.auth.models import Permission

    incident = open_one(lane)
    viewer = User.objects.create_user("eve", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    eve = Client()
    eve.force_login(viewer)
    assert "Close this incident" not in page(eve, "incident_change", incident.pk)
    assert (
        eve.post(reverse("admin:signer_incident_close", args=[incident.pk]), {"reason": "x"}).status_code
        == 403
    )
    assert Incident.objects.get().closed_at is None


def test_first_page_and_sidebar_show_open_incidents(ada: Client, lane: Lane) -> None:
    assert "It is empty." not in ada.get(reverse("admin:index")).content.decode()
    incident = open_one(lane)
    text = ada.get(reverse("admin:index")).content.decode()
    assert "It is empty." in text
    assert reverse("admin:signer_incident_change", args=[incident.pk]) in text


def test_people_are_told_once_after_the_commit(
    lane: Lane, settings: Any, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    settings.ADMINS = [("operations", "ops@example.org")]
    told: list[str] = []
    monkeypatch.setattr("sentry_sdk.capture_message", lambda text, **_: told.append(text))
    monkeypatch.setattr(tasks.mail_incident, "apply_async", lambda args, **_: tasks.mail_incident(*args))
    with django_capture_on_commit_callbacks(execute=True):
        for _ in range(2):
            open_one(lane, text=f"It is empty, says {SECRET}.")
    assert told == [f"an address runs out of money: {lane}"]
    [message] = mail.outbox
    assert message.to == ["ops@example.org"]
    assert "It is empty" in message.body
    assert "Send the address money" in message.body
    assert SECRET not in message.body + message.subject


def test_nobody_is_told_of_what_was_rolled_back(
    lane: Lane, settings: Any, django_capture_on_commit_callbacks: Any
) -> None:
    settings.ADMINS = [("operations", "ops@example.org")]
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        open_one(lane)
        transaction.set_rollback(True)
    assert not Incident.objects.exists()
    assert mail.outbox == []


def test_mail_waits_neither_for_the_broker_nor_for_the_mail_server(
    lane: Lane, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ADMINS = [("operations", "ops@example.org")]
    incident = open_one(lane)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("not today")

    monkeypatch.setattr(tasks.mail_incident, "apply_async", fail)
    alerts.tell_about_incident(incident)
    assert len(mail.outbox) == 1, "sent at once instead"
    monkeypatch.setattr(alerts, "mail_admins", fail)
    alerts.tell_about_incident(incident)
    assert "alert mail failed" in caplog.text


def test_mail_about_what_is_over_by_now_is_not_sent(lane: Lane, settings: Any) -> None:
    settings.ADMINS = [("operations", "ops@example.org")]
    incident = open_one(lane)
    incidents.close_incident(IncidentKind.LOW_BALANCE, incident.subject, "over")
    tasks.mail_incident(str(incident.pk))
    assert mail.outbox == []
