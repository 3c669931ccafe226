"""What an operator reads and does in the console at three in the morning: nothing stands still without a word, no button
breaks, nothing sensitive is shown, and a list of many rows asks as often as a list of few.
"""

import json
from typing import Annotated, Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pydantic import BaseModel

from dalp.console import site
from tests.integration.workflows.stopped import drive_all
from workflows import (
    ApprovalRequest,
    Approved,
    Operation,
    Retry,
    TransientError,
    VirtualObject,
    WaitForSignal,
    Workflow,
    edit_state,
    exclusive,
    pause_run,
    pause_scope,
    set_limit,
    start_bulk,
    step,
)
from workflows.definition import find_definition
from workflows.models import Act, Approval, BulkJob, DeadLetter, Limit, Run, VirtualObjectState
from workflows.redaction import HIDDEN, Sensitive
from workflows.schedules.models import Schedule

pytestmark = pytest.mark.usefixtures("db", "script")
ONCE = Retry(attempts=1)
SECRET = "DE89-3704-0044"


class Line(BaseModel):
    iban: Annotated[str, Sensitive] = SECRET
    fails: bool = False


class PayInput(Line):
    lines: list[Line] = []
    mode: str = ""


class Pay(Workflow[PayInput, list[Line]]):
    """Asks, waits, fails, or pays each line, as its input says."""

    class Meta:
        name, version, key = "console.pay", 1, "desk:{input.mode}"

    @step(retry=ONCE)
    def prepare(self, input: PayInput) -> Line:
        if input.mode == "fail":
            raise TransientError("BANK_DOWN", "the bank does not answer")
        return Line()

    @prepare.undo
    def put_back(self, prepare: Line) -> Line:
        return Line()

    @step(when=lambda input: input.mode == "signal")
    def hear(self) -> WaitForSignal[str]:
        return WaitForSignal[str](name="bank_confirmed", timeout=3600)

    @step(when=lambda input: input.mode == "approval")
    def ask(self) -> ApprovalRequest:
        return ApprovalRequest(group="treasury", show={"payee": "Ada", "amount": 5})

    @step(each="input.lines", retry=ONCE)
    def pay_line(self, item: Line, ask: Approved | None, operation: Operation) -> Line:
        if item.fails:
            raise TransientError("BANK_DOWN", "the bank does not answer")
        return item


class SafeState(BaseModel):
    pin: Annotated[str, Sensitive] = ""
    opened: int = 0


class Safe(VirtualObject[SafeState]):
    class Meta:
        name = "console-safe"

    @exclusive
    def set(self, pin: str) -> int:
        self.state.pin = pin
        return 1


@pytest.fixture
def ada() -> Client:
    """An operator with every permission, and of the treasury."""
    client, user = Client(), User.objects.create_superuser("ada")
    user.groups.add(Group.objects.create(name="treasury"))
    client.force_login(user)
    return client


def started(mode: str = "", lines: int = 0, fails: int = 0) -> Run:
    run = Pay.start(PayInput(mode=mode, lines=[Line(fails=number < fails) for number in range(lines)]))
    drive_all()
    run.refresh_from_db()
    return run


def page(client: Client, row: Any) -> str:
    view = f"admin:workflows_{row._meta.model_name}_change"
    response = client.get(reverse(view, args=[quote(row.pk)]))
    assert response.status_code == 200
    return response.content.decode()


def act(client: Client, row: Any, what: str, /, **data: Any) -> Any:
    """Open the form of an act, then send it."""
    address = f"/admin/workflows/{row._meta.model_name}/{quote(str(row.pk))}/{what}/"
    assert client.get(address).status_code == 200, address
    return client.post(address, {"reason": "as agreed", **data}, follow=True)


def test_the_sidebar_leads_to_every_page_of_the_engine(ada: Client) -> None:
    shown = {view for pages in site.PAGES.values() for _, _, view in pages}
    for view in shown:
        reverse(view)  # one that is misspelt would only be missing
    for model in admin.site._registry:
        if model._meta.app_label == "workflows":
            assert f"admin:workflows_{model._meta.model_name}_changelist" in shown


def test_a_run_whose_branch_stopped_says_so_and_leads_to_the_decision(ada: Client) -> None:
    run = started(lines=3, fails=1)
    letter = DeadLetter.objects.get()
    text = page(ada, run)
    assert "1 branch of pay_line*" in text
    assert reverse("admin:workflows_deadletter_change", args=[letter.pk]) in text
    assert text.index("pay_line#0</a>") < text.index("pay_line#1</a>"), "the one that stopped comes first"
    assert "a dead letter below it" in ada.get(reverse("admin:workflows_run_changelist")).content.decode()


def test_what_is_paused_says_so(ada: Client) -> None:
    run = started("signal")
    assert "the signal &#x27;bank_confirmed&#x27;, for hear#0" in page(ada, run)
    pause_scope("workflow:console.pay", actor="eve", reason="release")
    assert "which is paused; then the signal" in page(ada, run)
    assert "workflow:console.pay is paused by eve: release" in ada.get("/admin/").content.decode()
    pause_run(run.pk, actor="eve", reason="later")
    assert "somebody to resume it: this run is paused" in page(ada, run)


def test_the_form_of_a_signal_has_the_name_that_is_waited_for(ada: Client) -> None:
    run = started("signal")
    assert 'value="bank_confirmed"' in ada.get(f"/admin/workflows/run/{run.pk}/signal/").content.decode()
    act(ada, run, "signal", name="bank_confirmed", payload='"yes"')
    drive_all()
    run.refresh_from_db()
    assert run.state == "SUCCEEDED"


def test_an_object_whose_holder_stopped_says_so_and_those_behind_it_too(ada: Client) -> None:
    started("fail")
    behind = started("fail")
    row = VirtualObjectState.objects.get(pk="desk:fail")
    decision = reverse("admin:workflows_deadletter_change", args=[DeadLetter.objects.get().pk])
    assert "Stopped: the run that holds it waits for a person." in page(ada, row)
    assert decision in page(ada, row)
    assert "which waits for a person" in page(ada, behind)
    assert "desk:fail is held by a run that waits for a person" in ada.get("/admin/").content.decode()
    act(ada, row, "skip")
    behind.refresh_from_db()
    assert behind.state == "CANCELLED"


def test_a_dead_letter_says_what_to_do(ada: Client) -> None:
    started("fail")
    letter = DeadLetter.objects.get()
    assert "Mend what the error names, then replay." in page(ada, letter)
    refused = act(ada, letter, "complete", value='{"fails": "perhaps"}').content.decode()
    assert "fails: Input should be a valid boolean" in refused


def test_limits_are_changed_paused_and_resumed_on_their_page(ada: Client) -> None:
    set_limit("queue:a_3A:b", concurrency=1, actor="eve", reason="slow")
    row = Limit.objects.get()
    act(ada, row, "limit", concurrency="7", per_seconds="1")
    act(ada, row, "pause")
    row.refresh_from_db()
    assert (row.concurrency, row.paused) == (7, True)
    act(ada, row, "resume")
    assert not Limit.objects.get().paused


def test_an_approval_shows_in_the_form_what_is_decided(ada: Client) -> None:
    run = started("approval")
    row = Approval.objects.get()
    assert "<b>payee</b> Ada" in ada.get(f"/admin/workflows/approval/{row.pk}/approve/").content.decode()
    assert reverse("admin:workflows_approval_change", args=[row.pk]) in page(ada, run)
    act(ada, row, "approve")
    row.refresh_from_db()
    assert row.state == "APPROVED"
    assert "1 of 1 said yes" in page(ada, row)


@pytest.mark.parametrize("name", ["pause", "fork", "signal"])
@pytest.mark.parametrize("identifier", ["01a20527-3d8a-726f-b00f-35e9d5ec3695", "no-uuid"])
def test_an_address_of_no_run_is_not_an_error_of_ours(ada: Client, name: str, identifier: str) -> None:
    assert ada.get(f"/admin/workflows/run/{identifier}/{name}/").status_code in (302, 403, 404)


@pytest.mark.case("E62")
def test_nothing_sensitive_is_on_a_page_or_in_a_form(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(lines=2, fails=1)
    letter = DeadLetter.objects.get()
    branches = list(Run.objects.filter(parent=run))
    schedule = Schedule.objects.create(name="s", workflow="console.pay", cron="0 0 1 1 *")
    Safe("a").set(SECRET).start()
    drive_all()
    safe = VirtualObjectState.objects.get(pk="console-safe:a")
    edit_state(safe.pk, {"pin": SECRET}, expected_version=1, actor="eve", reason="asked for")
    rows = [run, letter, *branches, schedule, safe, Act.objects.get(action="edit_state")]
    for row in rows:
        assert SECRET not in page(ada, row), row
    assert SECRET not in ada.get(f"/admin/workflows/deadletter/{letter.pk}/edit/").content.decode()
    assert (
        SECRET not in ada.get(f"/admin/workflows/virtualobjectstate/{quote(safe.pk)}/edit/").content.decode()
    )
    # Nor where this code no longer has the workflow, and nobody can tell what is sensitive in it.
    monkeypatch.setattr("workflows.shown.find_definition", lambda name: None)
    monkeypatch.setattr("workflows.admin.runs.find_definition", lambda name: None)
    for row in rows[:-3]:
        assert SECRET not in page(ada, row), row


@pytest.mark.case("E62")
def test_what_is_hidden_in_an_input_stays_as_it_is_when_it_is_left_alone(ada: Client) -> None:
    started("fail")
    letter = DeadLetter.objects.select_related("run").get()
    other = {**letter.run.input, "mode": "", "iban": HIDDEN, "lines": [{"iban": HIDDEN}]}
    assert "enter the value itself" in act(ada, letter, "edit", input=json.dumps(other)).content.decode()
    assert DeadLetter.objects.get().state == "OPEN"
    act(ada, letter, "edit", input=json.dumps({**other, "lines": []}))
    run = Run.objects.get(pk=letter.run_id)
    assert (run.input["iban"], run.input["lines"]) == (SECRET, [])


def test_a_list_of_many_asks_as_often_as_a_list_of_few(ada: Client) -> None:
    definition = find_definition("console.pay")
    assert definition is not None

    def more() -> None:
        for mode in ("signal", "approval", "fail"):
            started(mode)
        started(lines=2, fails=1)
        start_bulk("discard", DeadLetter.objects.all(), actor="ada", reason="gone")
        number = VirtualObjectState.objects.count()
        for each in range(3):
            Safe(f"{number}-{each}").set("1").start()
            Schedule.objects.create(name=f"{number}-{each}", workflow="console.pay", cron="0 0 1 1 *")

    def asked(model: str) -> int:
        address = reverse(f"admin:workflows_{model}_changelist")
        with CaptureQueriesContext(connection) as queries:
            assert ada.get(address).status_code == 200
        return len(queries)

    models = ["run", "deadletter", "approval", "virtualobjectstate", "bulkjob", "definitionrecord", "act"]
    models += ["schedule", "tick", "seal", "archivedrun"]
    more()
    for model in models:
        asked(model)  # what is remembered from then on
    few = {model: asked(model) for model in models}
    for _ in range(4):
        more()
    assert BulkJob.objects.count() == 5
    assert {model: asked(model) for model in models} == few
