"""What people decide about dead letters over REST, one by one and many at once."""

from typing import Any

import pytest

from tests.api.callers import Caller
from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import (
    Lines,
    OrderInput,
    Script,
    broken,
    drive_all,
    finished,
    stop_at,
    stop_many,
    the_letter,
)
from workflows.engine.bulk import work_off_bulk
from workflows.models import BulkJob, DeadLetter, Run

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db, pytest.mark.usefixtures("script")]
REASON = {"reason": "the bank said so"}


def decide(caller: Caller, name: str, body: Any = None, **arguments: Any) -> Any:
    arguments.setdefault("key", None)
    letter = arguments.pop("letter", None) or the_letter()
    return caller.post(f"/dead-letters/{letter.pk}/{name}", {**REASON, **(body or {})}, **arguments)


# --- One -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "step", "ended"),
    [
        ("replay", {}, "pay", "SUCCEEDED"),
        ("replay", {"input": {"amount": 5}}, "pay", "SUCCEEDED"),
        ("complete", {"value": {"receipt": "by hand"}}, "pay", "SUCCEEDED"),
        ("skip", {}, "ship", "SUCCEEDED"),
        ("compensate", {}, "pay", "COMPENSATED"),
        ("discard", {}, "pay", "FAILED"),
    ],
)
def test_decision_is_carried_out_with_who_and_why(
    operator: Caller, name: str, body: Any, step: str, ended: str
) -> None:
    run = stop_at(step)
    response = decide(operator, name, body)
    assert response.status_code == 202, response.content
    shown = response.json()
    assert (shown["state"], shown["resolution"], shown["note"]) == ("RESOLVED", name, REASON["reason"])
    assert operator.token.prefix in shown["resolved_by"]
    assert finished(run).state == ended
    assert run.input["amount"] == body.get("input", {"amount": 1})["amount"]
    again = decide(operator, name, body, letter=run.dead_letters.get())
    assert (again.status_code, again.json()["code"]) == (409, "DEAD_LETTER_NOT_OPEN")


@pytest.mark.case("E57")
def test_replay_of_what_succeeded_offers_a_fork(operator: Caller) -> None:
    run = stop_at("pay")
    decide(operator, "replay")
    finished(run)
    detail = decide(operator, "replay", letter=run.dead_letters.get()).json()["detail"]
    assert f"run {run.pk} has ended SUCCEEDED: to do it again, fork it" in detail


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("complete", {"value": {"amount": "x"}}, "value.receipt"),
        ("complete", {}, "value"),
        ("replay", {"input": {"amount": "many"}}, "input.amount"),
        ("replay", {"inputs": {}}, "inputs"),
        ("discard", {"reason": ""}, "reason"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_decided(
    operator: Caller, name: str, body: Any, field: str
) -> None:
    stop_at("pay")
    response = decide(operator, name, body)
    assert response.status_code == 422
    assert field in response.json()["errors"]
    assert the_letter()


def test_step_that_is_needed_can_not_be_skipped(operator: Caller) -> None:
    stop_at("pay")
    response = decide(operator, "skip")
    assert (response.status_code, response.json()["code"]) == (409, "RUN_NOT_IN_STATE")
    assert "ship takes its output as Paid" in response.json()["detail"]


def test_item_of_a_branch_is_replaced(operator: Caller) -> None:
    run = stop_at("pack#1", lambda: Lines.start(OrderInput()))
    assert decide(operator, "replay", {"input": "better"}).status_code == 202
    finished(run)
    assert run.steps.get(operation_id="pack#1").output == "BETTER"


@pytest.mark.parametrize("name", ["replay", "complete", "skip", "compensate", "discard"])
def test_viewers_decide_nothing_and_nobody_about_what_is_not_there(
    operator: Caller, viewer: Caller, name: str
) -> None:
    stop_at("ship")
    assert decide(viewer, name).status_code == 403
    gone = DeadLetter(pk="01a2b3c4-0000-7000-8000-000000000000")
    assert decide(operator, name, letter=gone).status_code == 404
    assert the_letter()


# --- Groups ----------------------------------------------------------------------------------------------


def test_groups_show_how_many_since_when_and_the_newest(
    operator: Caller, viewer: Caller, script: Script
) -> None:
    for number in range(3):
        script.fails = {"pay": broken(message=f"no answer within {number} s")}
        stopped.Order.start(OrderInput(customer=str(number)))
        drive_all()
    [group] = viewer.get("/dead-letters/groups").json()["items"]
    assert group["count"] == 3
    assert group["sample"]["error"]["message"] == "no answer within 2 s"
    assert group["first_at"] < group["last_at"]
    found = viewer.get("/dead-letters", fingerprint=group["fingerprint"], state="OPEN").json()["items"]
    assert len(found) == 3
    assert viewer.get("/dead-letters", fingerprint="none").json()["items"] == []
    assert viewer.get("/dead-letters/groups", workflow="other").json()["items"] == []
    assert viewer.get("/dead-letters/groups", stat="OPEN").status_code == 422


# --- Many ------------------------------------------------------------------------------------------------


def bulk(caller: Caller, body: Any, **arguments: Any) -> Any:
    return caller.post("/dead-letters/bulk", {**REASON, "action": "replay", **body}, **arguments)


@pytest.mark.case("E55")
def test_bulk_job_is_followed_to_its_end_item_by_item(operator: Caller, viewer: Caller) -> None:
    stop_many(5)
    chosen = DeadLetter.objects.order_by("pk").first()
    assert chosen is not None
    response = bulk(operator, {"fingerprint": chosen.fingerprint, "per_second": 1000})
    assert response.status_code == 202, response.content
    job = response.json()
    assert (job["total"], job["state"], job["counts"]["PENDING"]) == (5, "RUNNING", 5)
    decide(operator, "discard", letter=chosen)
    while work_off_bulk(seconds=30):
        pass
    shown = viewer.get(f"/dead-letters/bulk/{job['id']}").json()
    assert (shown["state"], shown["counts"]) == ("DONE", {"PENDING": 0, "DONE": 4, "FAILED": 0, "SKIPPED": 1})
    [item] = viewer.get(f"/dead-letters/bulk/{job['id']}/items", state="SKIPPED").json()["items"]
    assert item["dead_letter_id"] == str(chosen.pk)
    assert operator.token.prefix in item["detail"]
    assert viewer.get("/dead-letters/bulk").json()["items"] == [shown]


def test_items_of_a_bulk_job_are_read_page_by_page(operator: Caller) -> None:
    stop_many(5)
    job = bulk(operator, {"workflow": "stopped.order"}).json()
    seen, cursor = [], 0
    while cursor is not None:
        page = operator.get(f"/dead-letters/bulk/{job['id']}/items", limit=2, cursor=cursor).json()
        seen += [item["dead_letter_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [str(pk) for pk in DeadLetter.objects.order_by("pk").values_list("pk", flat=True)]


def test_stopped_bulk_job_leaves_the_rest(operator: Caller) -> None:
    stop_many(2)
    job = bulk(operator, {"workflow": "stopped.order"}).json()
    stopped_job = operator.post(f"/dead-letters/bulk/{job['id']}/stop", REASON, key=None).json()
    assert (stopped_job["state"], stopped_job["counts"]["PENDING"]) == ("STOPPED", 2)
    again = operator.post(f"/dead-letters/bulk/{job['id']}/stop", REASON, key=None)
    assert (again.status_code, again.json()["code"]) == (409, "RUN_NOT_IN_STATE")
    assert work_off_bulk() == 0


def test_value_is_for_completing(operator: Caller) -> None:
    stop_many(2)
    ids = [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)]
    job = bulk(operator, {"ids": ids[:1], "action": "complete", "value": "by hand"}).json()
    work_off_bulk(seconds=30)
    assert BulkJob.objects.get(pk=job["id"]).state == "DONE"
    assert Run.objects.filter(operation="pay#0").count() == 1
    assert bulk(operator, {"ids": ids, "value": 1}).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": []},
        {"ids": ["x"]},
        {"workflow": "w", "action": "fork"},
        {"workflow": "w", "per_second": 0},
    ],
)
def test_bulk_job_about_nothing_in_particular_is_refused(operator: Caller, body: Any) -> None:
    stop_many(1)
    assert bulk(operator, body).status_code == 422
    assert not BulkJob.objects.exists()


def test_bulk_job_needs_an_operator_a_key_and_something_open(operator: Caller, viewer: Caller) -> None:
    stop_many(1)
    chosen = {"workflow": "stopped.order"}
    assert bulk(viewer, chosen).status_code == 403
    assert bulk(operator, chosen, key=None).json()["code"] == "API_IDEMPOTENCY_KEY_MISSING"
    first = bulk(operator, chosen, key="k1").json()
    assert bulk(operator, chosen, key="k1").json() == first
    assert bulk(operator, {"workflow": "none"}).status_code == 409
    assert operator.get(f"/dead-letters/bulk/{'0' * 8}-0000-7000-8000-{'0' * 12}").status_code == 404
