"""Approvals by the groups of a token, and completions by whoever holds the run's own token."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import call_command
from django.test import Client

from dalp.models import ApiToken
from tests.api.callers import API, Asking, Caller, GreetInput
from tests.integration.workflows.stopped import Script, drive_all, finished
from workflows import cancel_run
from workflows.models import Approval, Run

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _afresh(script: Script) -> None:
    Asking.tokens.clear()


@pytest.fixture
def run() -> Run:
    """A run that waits for two of the treasury."""
    run = Asking.start(GreetInput(name="Ada"))
    drive_all()
    return run


@pytest.fixture
def member(caller: Callable[..., Caller]) -> Callable[[], Caller]:
    return lambda: caller("operator", ["treasury", "audit"])


def say(caller: Caller, word: str, body: Any = None, **arguments: Any) -> Any:
    arguments.setdefault("key", None)
    return caller.post(f"/approvals/{Approval.objects.get().pk}/{word}", body or {}, **arguments)


def complete(token: str, body: Any) -> Any:
    return Client().post(f"{API}/completions/{quote(token)}", body, content_type="application/json")


def test_what_waits_for_people_is_listed(viewer: Caller, run: Run) -> None:
    [shown] = viewer.get("/approvals", state="PENDING").json()["items"]
    assert (
        shown.items()
        >= {
            "run_id": str(run.pk),
            "workflow": "api.asking",
            "operation_id": "ask#0",
            "group": "treasury",
            "needed": 2,
            "show": {"name": "Ada"},
            "votes": [],
        }.items()
    )
    assert viewer.get("/approvals", group="others").json()["items"] == []
    assert viewer.get("/approvals", run_id=run.pk).json()["items"] == [shown]


def test_run_goes_on_when_enough_members_have_approved(member: Callable[[], Caller], run: Run) -> None:
    first, second = member(), member()
    response = say(first, "approve", {"reason": "looks right"})
    assert response.status_code == 202, response.content
    assert response.json()["state"] == "PENDING"
    answer = say(second, "approve").json()
    assert (answer["state"], answer["decided_at"] is not None) == ("APPROVED", True)
    assert [(vote["approved"], vote["reason"]) for vote in answer["votes"]] == [
        (True, "looks right"),
        (True, ""),
    ]
    drive_all()
    assert len(Asking.tokens) == 1


def test_one_rejection_is_enough(member: Callable[[], Caller], run: Run) -> None:
    assert say(member(), "reject", {"reason": "too much"}).json()["state"] == "REJECTED"
    assert finished(run).state == "FAILED"
    assert (run.error["code"], "too much" in run.error["message"]) == ("APPROVAL_REJECTED", True)
    late = say(member(), "approve")
    assert (late.status_code, late.json()["code"]) == (409, "RUN_NOT_IN_STATE")


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_only_members_have_a_say_whatever_their_role(
    caller: Callable[..., Caller], run: Run, word: str
) -> None:
    for role, groups in (("admin", []), ("operator", ["audit"])):
        response = say(caller(role, groups), word)
        assert (response.status_code, response.json()["code"]) == (403, "NOT_PERMITTED")
        assert "treasury" in response.json()["detail"]
    assert say(caller("viewer", ["treasury"]), word).status_code == 403
    assert Approval.objects.get().state == "PENDING"
    assert not Approval.objects.get().votes.exists()


def test_one_token_counts_once(member: Callable[[], Caller], run: Run) -> None:
    one = member()
    assert say(one, "approve", key="k1").status_code == 202
    assert say(one, "approve", key="k1")["Idempotent-Replayed"] == "true"
    assert say(one, "approve").status_code == 409
    assert Approval.objects.get().state == "PENDING"


@pytest.mark.case("E35")
def test_approval_after_the_run_was_cancelled_is_refused(member: Callable[[], Caller], run: Run) -> None:
    cancel_run(run.pk, actor="ops", reason="no longer wanted")
    assert finished(run).state == "CANCELLED"
    response = say(member(), "approve")
    assert (response.status_code, "WITHDRAWN" in response.json()["detail"]) == (409, True)


def test_token_is_made_with_the_groups_of_its_holder(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_api_token", "--name", "a", "--role", "operator", "--group", "b", "--group", "a")
    token = ApiToken.find(capsys.readouterr().out.strip())
    assert token is not None
    assert token.groups == ["a", "b"]
    call_command("create_api_token", name="b", role="admin")
    assert ApiToken.find(capsys.readouterr().out.strip()).groups == []  # type: ignore[union-attr]


# --- Completions -----------------------------------------------------------------------------------------


@pytest.fixture
def waiting(member: Callable[[], Caller], run: Run) -> Run:
    """The run, waiting for another system."""
    for caller in (member(), member()):
        say(caller, "approve")
    drive_all()
    return run


def test_token_ends_the_wait_with_a_value_and_needs_nothing_else(waiting: Run) -> None:
    [token] = Asking.tokens
    response = complete(token, {"value": "done"})
    assert (response.status_code, response.json()) == (202, {"accepted": True})
    assert complete(token, {"value": "something else"}).status_code == 202, "the first call counts"
    assert finished(waiting).output == "done"


def test_token_ends_the_wait_with_an_error(waiting: Run) -> None:
    complete(Asking.tokens[0], {"error": {"code": "REFUSED", "message": "by the bank"}})
    assert finished(waiting).error["code"] == "REFUSED"


@pytest.mark.parametrize("token", ["x", "a:b:c", "%00", "é"])
def test_token_that_is_none_of_ours_is_not_found(waiting: Run, token: str) -> None:
    altered = Asking.tokens[0][:-1] + ("A" if Asking.tokens[0][-1] != "A" else "B")
    for each in (token, altered):
        response = complete(each, {"value": 1})
        assert (response.status_code, response.json()["code"]) == (404, "COMPLETION_TOKEN_INVALID")
    assert Run.objects.get().finished_at is None


def test_token_of_a_run_that_has_ended_is_refused(waiting: Run) -> None:
    cancel_run(waiting.pk, actor="ops", reason="no longer wanted")
    finished(waiting)
    response = complete(Asking.tokens[0], {"value": "late"})
    assert (response.status_code, response.json()["code"]) == (409, "RUN_ENDED")


@pytest.mark.parametrize("body", [{"value": 1, "error": {"code": "X"}}, {"error": {}}, {"other": 1}, []])
def test_end_that_is_neither_or_both_is_refused(waiting: Run, body: Any) -> None:
    assert complete(Asking.tokens[0], body).status_code in (400, 422)
    assert Run.objects.get().finished_at is None
