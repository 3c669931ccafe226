"""Finding what needs a person, and deciding about it."""

from typing import Any

import pytest

from tests.api.callers import Caller
from workflows.models import DeadLetter, Event, Run, Step


@pytest.fixture
def letter(operator: Caller) -> DeadLetter:
    """A run that stopped at its step."""
    run = Run.objects.get(pk=operator.start().json()["id"])
    Run.objects.filter(pk=run.pk).update(state="DEAD_LETTER", wake_at=None)
    Step.objects.update_or_create(
        run=run, operation_id="greet#0", defaults={"name": "greet", "seq": 1, "state": "FAILED", "attempt": 5}
    )
    return DeadLetter.objects.create(
        run=run,
        operation_id="greet#0",
        reason="retries_exhausted",
        error={"code": "X", "message": "no answer"},
    )


def replay(caller: Caller, letter: DeadLetter, body: Any, **arguments: Any) -> Any:
    return caller.post(f"/dead-letters/{letter.pk}/replay", body, **arguments)


def test_open_dead_letters_are_listed_with_their_run_and_reason(viewer: Caller, letter: DeadLetter) -> None:
    [found] = viewer.get("/dead-letters", state="OPEN").json()["items"]
    assert (found["id"], found["run_id"]) == (str(letter.pk), str(letter.run_id))
    assert (found["operation_id"], found["reason"], found["state"]) == (
        "greet#0",
        "retries_exhausted",
        "OPEN",
    )
    assert found["error"] == {"code": "X", "message": "no answer"}
    assert viewer.get("/dead-letters", state="RESOLVED").json()["items"] == []


def test_a_replay_sends_the_run_on_and_writes_down_who_and_why(operator: Caller, letter: DeadLetter) -> None:
    response = replay(operator, letter, {"reason": "provider is back"})
    assert response.status_code == 202, response.content
    shown = response.json()
    assert (shown["state"], shown["resolution"], shown["note"]) == ("RESOLVED", "replay", "provider is back")
    assert operator.token.prefix in shown["resolved_by"]
    assert Run.objects.get(pk=letter.run_id).state == "READY"
    event = Event.objects.filter(run=letter.run).latest("seq")
    assert event.data["reason"] == "provider is back"


def test_a_second_replay_is_refused(operator: Caller, letter: DeadLetter) -> None:
    assert replay(operator, letter, {"reason": "once"}, key="k1").status_code == 202
    assert replay(operator, letter, {"reason": "once"}, key="k1")["Idempotent-Replayed"] == "true"
    response = replay(operator, letter, {"reason": "twice"})
    assert (response.status_code, response.json()["code"]) == (409, "DEAD_LETTER_NOT_OPEN")


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": "   "}, {"reason": None}, {"reason": "x" * 1001}]
)
def test_a_replay_needs_a_reason(operator: Caller, letter: DeadLetter, body: Any) -> None:
    response = replay(operator, letter, body)
    assert response.status_code == 422
    assert list(response.json()["errors"]) == ["reason"]
    assert DeadLetter.objects.get().state == "OPEN"


def test_a_viewer_may_not_replay(viewer: Caller, letter: DeadLetter) -> None:
    assert replay(viewer, letter, {"reason": "please"}).status_code == 403


def test_a_replay_needs_no_idempotency_key(operator: Caller, letter: DeadLetter) -> None:
    assert replay(operator, letter, {"reason": "because"}, key=None).status_code == 202
    assert replay(operator, letter, {"reason": "because"}, key=None).status_code == 409
