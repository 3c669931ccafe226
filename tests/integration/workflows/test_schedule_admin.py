"""The pages of the schedules: what an operator enters, sees, and does by hand."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from pydantic import BaseModel

from workflows import Workflow, step
from workflows.models import Act, Run
from workflows.redaction import Sensitive
from workflows.schedules.firing import fire_due_schedules
from workflows.schedules.models import Schedule, Tick

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]

NASTY = "<script>alert('x')</script>"
EVENING = datetime(2026, 3, 28, 20, tzinfo=UTC)  # in Berlin, the clock is put forward this night
ENTERED = {
    "name": "nightly",
    "workflow": "sample.ledger",
    "input": '{"key": "a"}',
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "catch_up": "last",
    "reason": "as agreed",
    "ticks-TOTAL_FORMS": "0",
    "ticks-INITIAL_FORMS": "0",
}


SetClock = Callable[[datetime], None]


@pytest.fixture
def at(set_clock: SetClock) -> SetClock:
    set_clock(EVENING)
    return set_clock


@pytest.fixture
def ada(at: Any) -> Client:
    """An operator with every permission."""
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


def enter(client: Client, row: Schedule | None = None, **changed: str) -> Any:
    view = "admin:workflows_schedule_" + ("change" if row else "add")
    address = reverse(view, args=[row.pk] if row else [])
    data = {name: value for name, value in {**ENTERED, **changed}.items() if value}
    return client.post(address, data, follow=True)


def page(client: Client, row: Schedule) -> str:
    return client.get(reverse("admin:workflows_schedule_change", args=[row.pk])).content.decode()


def test_a_schedule_is_made_and_its_page_shows_what_comes_by_both_clocks(ada: Client) -> None:
    enter(ada)
    row = Schedule.objects.get()
    assert row.next_at == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert row.input == {"key": "a"}
    text = page(ada, row)
    assert "Sun 2026-03-29 03:00 CEST" in text
    assert "Sun 2026-03-29 01:00 UTC" in text
    assert "the moment at which the clock is changed" in text
    assert "Thu 2026-04-02 02:30 CEST" in text, "five of them"
    assert "Fri 2026-04-03" not in text
    assert "nothing yet" in text


def test_the_form_offers_workflows_and_zones(ada: Client) -> None:
    text = ada.get(reverse("admin:workflows_schedule_add")).content.decode()
    for field, choice in (("workflow", "sample.ledger"), ("timezone", "Europe/Berlin")):
        assert f'list="{field}-choices"' in text
        assert f'<option value="{choice}">' in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cron": "61 * * * *"}, "Minute &#x27;61&#x27; cannot be read: 0 to 59"),
        ({"cron": "0 0 31 4 *"}, "No month &#x27;4&#x27; has a day &#x27;31&#x27;"),
        (
            {"timezone": "Europe/Berln"},
            "There is no time zone &#x27;Europe/Berln&#x27;; did you mean Europe/Berlin",
        ),
        (
            {"workflow": "sample.leger"},
            "There is no workflow &#x27;sample.leger&#x27;; did you mean sample.ledger",
        ),
        ({"input": '{"times": "x"}'}, "times: Input should be a valid integer"),
        ({"input": '{"tims": 1}'}, "tims: SampleInput has no such field"),
        ({"input": '{"tims": 1, "times": "x"}'}, "times: Input should be a valid integer"),
        ({"input": "{times: 1}"}, "Enter a valid JSON"),
        ({"input": "[]"}, "It must be a JSON object with the fields of SampleInput"),
        ({"name": ""}, "This field is required"),
        ({"cron": "", "workflow": "", "timezone": ""}, "This field is required"),
        (
            {
                "starts_at_0": "2026-05-02",
                "starts_at_1": "12:00",
                "ends_at_0": "2026-05-01",
                "ends_at_1": "12:00",
            },
            "The end must come after the start",
        ),
    ],
)
def test_a_mistake_is_named_and_nothing_is_stored(ada: Client, changed: dict[str, str], said: str) -> None:
    assert said in enter(ada, **changed).content.decode()
    assert not Schedule.objects.exists()


def test_a_change_plans_anew_and_says_who_and_why(ada: Client) -> None:
    enter(ada)
    row = Schedule.objects.get()
    assert "This field is required" in enter(ada, row, cron="0 23 * * *", reason="").content.decode()
    enter(ada, row, cron="0 23 * * *", timezone="Asia/Kolkata", reason="moved to India")
    row.refresh_from_db()
    assert row.next_at == datetime(2026, 3, 29, 17, 30, tzinfo=UTC)
    made, changed = Act.objects.filter(target="schedule:nightly").order_by("id")
    assert (made.actor, made.action, made.reason) == ("ada", "schedule_edit", "as agreed")
    assert changed.details == {"cron": "0 23 * * *", "timezone": "Asia/Kolkata"}
    assert "moved to India" in page(ada, row)


def test_the_name_stays(ada: Client) -> None:
    enter(ada)
    enter(ada, Schedule.objects.get(), name="other")
    assert Schedule.objects.get().name == "nightly"


class Wired(BaseModel):
    iban: Annotated[str, Sensitive]
    amount: int = 0


class Wire(Workflow[Wired, str]):
    class Meta:
        name = "schedules.wire"

    @step
    def send(self, input: Wired) -> str:
        return input.iban


def test_what_is_sensitive_in_the_input_is_not_shown_and_not_lost(ada: Client) -> None:
    enter(ada, workflow="schedules.wire", input='{"iban": "DE89", "amount": 1}')
    row = Schedule.objects.get()
    assert "DE89" not in page(ada, row)
    enter(ada, row, workflow="schedules.wire", input='{"iban": "•••", "amount": 2}')
    assert Schedule.objects.get().input == {"iban": "DE89", "amount": 2}
    enter(ada, row, workflow="schedules.wire", input='{"iban": "FR76", "amount": 2}')
    assert Schedule.objects.get().input == {"iban": "FR76", "amount": 2}
    noted = str(list(Act.objects.values_list("details", flat=True)))
    assert "DE89" not in noted
    assert "FR76" not in noted


def test_the_list_says_when_each_comes_and_what_came_of_it(ada: Client, at: Any) -> None:
    enter(ada, name="good")
    enter(ada, name="bad", input="")
    enter(ada, name="off")
    Schedule.objects.filter(name="off").update(enabled=False)
    Schedule.objects.filter(name="bad").update(workflow="sample.gone")
    at(EVENING + timedelta(hours=6))
    fire_due_schedules()
    text = ada.get(reverse("admin:workflows_schedule_changelist")).content.decode()
    for said in ("At 02:30 every day", "Mon 2026-03-30 02:30 CEST", "STARTED", "FAILED", "PAUSED"):
        assert said in text
    bad, good = Schedule.objects.get(name="bad"), Schedule.objects.get(name="good")
    assert "WORKFLOW_UNKNOWN: there is no workflow named &#x27;sample.gone&#x27;" in page(ada, bad)
    assert reverse("admin:workflows_run_change", args=[Run.objects.get().pk]) in page(ada, good)
    ticks = ada.get(reverse("admin:workflows_tick_changelist"), {"outcome__exact": "failed"}).content.decode()
    assert "sample.gone" in ticks


def test_the_first_page_says_which_schedule_starts_nothing(ada: Client, at: Any) -> None:
    enter(ada)
    Schedule.objects.update(workflow="sample.gone")
    at(EVENING + timedelta(hours=6))
    fire_due_schedules()
    text = ada.get(reverse("admin:index")).content.decode()
    assert "schedule nightly could not start its last run: WORKFLOW_UNKNOWN" in text


def test_a_tick_goes_on_naming_a_run_that_was_archived(ada: Client) -> None:
    enter(ada)
    row, gone = Schedule.objects.get(), uuid.uuid4()
    Tick.objects.create(schedule=row, due_at=EVENING, outcome="started", run_id=gone, late_by_seconds=0)
    assert str(gone) in page(ada, row)


def test_a_backlog_that_was_skipped_is_told(ada: Client, at: Any) -> None:
    enter(ada, cron="0 * * * *", catch_up="none")
    at(EVENING + timedelta(hours=30, minutes=5))
    fire_due_schedules()
    assert "30 missed and not caught up on" in page(ada, Schedule.objects.get())


def act(client: Client, row: Schedule, name: str, **data: str) -> Any:
    address = f"/admin/workflows/schedule/{row.pk}/{name}/"
    return client.post(address, {"reason": "because", **data}, follow=True)


def test_run_now_starts_one_run_however_often_it_is_sent(ada: Client) -> None:
    enter(ada)
    row = Schedule.objects.get()
    asked = ada.get(f"/admin/workflows/schedule/{row.pk}/run-now/").content.decode()
    assert 'name="token" value="' in asked
    assert not Run.objects.exists(), "a GET starts nothing"
    for _ in range(2):
        text = act(ada, row, "run-now", token="one").content.decode()
        assert (
            f'Started run <a class="text-primary-600 underline" href="/admin/workflows/run/{Run.objects.get().pk}'
            in text
        )
    act(ada, row, "run-now", token="two")
    assert Run.objects.count() == 2
    assert Schedule.objects.get().next_at == row.next_at
    assert not Tick.objects.exists()
    acts = Act.objects.filter(action="schedule_run_now").order_by("id")
    assert [(each.actor, each.reason) for each in acts] == [("ada", "because")] * 2
    assert {each.details["run"] for each in acts} == {str(run.pk) for run in Run.objects.all()}


def test_run_now_says_why_it_cannot(ada: Client) -> None:
    enter(ada)
    Schedule.objects.update(input={"times": "x"})
    text = act(ada, Schedule.objects.get(), "run-now", token="one").content.decode()
    assert "times: Input should be a valid integer" in text
    assert not Run.objects.exists()
    assert not Act.objects.filter(action="schedule_run_now").exists()


def test_pause_and_resume(ada: Client, at: Any) -> None:
    enter(ada)
    row = Schedule.objects.get()
    act(ada, row, "pause")
    at(EVENING + timedelta(days=3))
    assert fire_due_schedules() == 0
    assert "Paused. Resumed now" in page(ada, row)
    assert act(ada, row, "pause").status_code == 403, "it is paused already"
    act(ada, row, "resume")
    assert Schedule.objects.get().next_at == datetime(2026, 4, 1, 0, 30, tzinfo=UTC)
    assert act(ada, row, "resume").status_code == 403
    actions = Act.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["schedule_edit", "schedule_pause", "schedule_resume"]
    Schedule.objects.update(enabled=False, timezone="Europe/Atlantis")
    assert "it could not work. timezone: There is no time zone" in act(ada, row, "resume").content.decode()
    assert not Schedule.objects.get().enabled


def test_a_schedule_that_has_ticks_stays_and_ticks_are_not_touched(ada: Client, at: Any) -> None:
    enter(ada)
    row = Schedule.objects.get()
    delete = reverse("admin:workflows_schedule_delete", args=[row.pk])
    assert ada.get(delete).status_code == 200
    at(EVENING + timedelta(hours=6))
    fire_due_schedules()
    assert ada.post(delete, {"post": "yes"}).status_code == 403
    tick = Tick.objects.get()
    assert ada.get(reverse("admin:workflows_tick_add")).status_code == 403
    assert (
        ada.post(reverse("admin:workflows_tick_delete", args=[tick.pk]), {"post": "yes"}).status_code == 403
    )
    assert ada.get(reverse("admin:workflows_tick_change", args=[tick.pk])).status_code == 200


def test_a_person_who_may_only_look_changes_and_starts_nothing(client: Client, ada: Client) -> None:
    enter(ada)
    row = Schedule.objects.get()
    eve = User.objects.create_user("eve", is_staff=True)
    eve.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(eve)
    assert "Sun 2026-03-29 03:00 CEST" in page(client, row)
    assert client.get(reverse("admin:workflows_schedule_changelist")).status_code == 200
    for name in ("run-now", "pause", "resume"):
        assert act(client, row, name, token="one").status_code == 403
    assert enter(client, row, cron="* * * * *").status_code == 403
    row.refresh_from_db()
    assert (row.cron, row.enabled, Run.objects.count()) == ("30 2 * * *", True, 0)


def test_texts_of_others_are_escaped(ada: Client, at: Any) -> None:
    enter(ada, name=NASTY, input=json.dumps({"key": NASTY}))
    Schedule.objects.update(workflow=NASTY)
    at(EVENING + timedelta(hours=6))
    fire_due_schedules()
    for view in ("schedule_changelist", "tick_changelist"):
        assert NASTY not in ada.get(reverse(f"admin:workflows_{view}")).content.decode()
    row = Schedule.objects.get()
    assert NASTY not in page(ada, row)
    Schedule.objects.update(cron=NASTY, timezone=NASTY)
    assert NASTY not in page(ada, row)
    assert NASTY not in enter(ada, row, cron=NASTY, timezone=NASTY, workflow=NASTY).content.decode()
