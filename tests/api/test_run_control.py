"""What people do to a run over REST: signals, cancelling, pausing, killing, forking."""

from typing import Any

import pytest

from tests.api.callers import Caller, GreetInput, Parked
from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import Lines, Order, OrderInput, Script, drive_all, finished, stop_at
from workflows.engine.drive import advance
from workflows.models import Act, Run, Signal

pytestmark = [pytest.mark.sqlite_too, pytest.mark.usefixtures("script")]
ACTS = ["cancel", "pause", "compensate", "kill"]
REASON = {"reason": "the customer said so"}


@pytest.fixture
def run(db: None) -> Run:
    return Order.start(OrderInput())


def act(caller: Caller, run: Run, name: str, body: Any = REASON, **arguments: Any) -> Any:
    arguments.setdefault("key", None)
    return caller.post(f"/runs/{run.pk}/{name}", body, **arguments)


@pytest.mark.parametrize(("name", "state"), [("pause", "PAUSED"), ("kill", "CANCELLED")])
def test_what_happens_at_once_is_in_the_answer(operator: Caller, run: Run, name: str, state: str) -> None:
    response = act(operator, run, name)
    assert response.status_code == 202, response.content
    assert (response.json()["id"], response.json()["state"]) == (str(run.pk), state)
    noted = Act.objects.get()
    assert (noted.action, noted.target, noted.reason) == (name, f"run:{run.pk}", REASON["reason"])
    assert operator.token.prefix in noted.actor


@pytest.mark.parametrize(
    ("name", "state", "code"),
    [("cancel", "CANCELLED", "RUN_CANCELLED"), ("compensate", "COMPENSATED", "RUN_COMPENSATED")],
)
def test_what_is_asked_for_is_done_by_the_worker(
    operator: Caller, run: Run, script: Script, name: str, state: str, code: str
) -> None:
    def in_the_middle(operation: Any, note: object = "") -> None:
        script.called.append(operation.id)
        if operation.id == "pay#0":
            assert act(operator, run, name).status_code == 202

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopped, "script", in_the_middle)
        finished(run)
    assert (run.state, run.error["code"]) == (state, code)
    assert REASON["reason"] in run.error["message"]
    assert script.called == ["reserve#0", "pay#0", "pay.undo#0", "reserve.undo#0"]


def test_paused_run_goes_on_when_it_is_resumed(operator: Caller, run: Run) -> None:
    act(operator, run, "pause")
    drive_all()
    assert not run.steps.exists()
    assert act(operator, run, "resume").json()["state"] == "READY"
    assert finished(run).state == "SUCCEEDED"
    response = act(operator, run, "resume")
    assert (response.status_code, response.json()["code"]) == (409, "RUN_ENDED")


def test_run_that_is_not_paused_can_not_be_resumed(operator: Caller, run: Run) -> None:
    response = act(operator, run, "resume")
    assert (response.status_code, response.json()["code"]) == (409, "RUN_NOT_IN_STATE")
    assert "is READY" in response.json()["detail"]


@pytest.mark.parametrize("name", ACTS)
def test_run_that_has_ended_can_not_be_stopped_and_a_fork_is_offered(
    operator: Caller, run: Run, name: str
) -> None:
    finished(run)
    response = act(operator, run, name)
    assert (response.status_code, response.json()["code"], response.json()["retryable"]) == (
        409,
        "RUN_ENDED",
        False,
    )
    assert "fork" in response.json()["fix"]


@pytest.mark.parametrize("name", [*ACTS, "resume", "fork", "signals/paid"])
def test_only_operators_act_and_only_on_runs_that_exist(
    operator: Caller, viewer: Caller, run: Run, name: str
) -> None:
    body = {"payload": 1} if "/" in name else {**REASON, **({"from": "pay"} if name == "fork" else {})}
    assert act(viewer, run, name, body, key="").status_code == 403
    run.pk = "01a2b3c4-0000-7000-8000-000000000000"
    assert act(operator, run, name, body, key="").status_code == 404
    assert not Act.objects.exists()


@pytest.mark.parametrize("name", [*ACTS, "resume", "fork"])
@pytest.mark.parametrize("body", [{}, {"reason": " "}, {"reason": "x", "because": "y"}])
def test_reason_is_required(operator: Caller, run: Run, name: str, body: Any) -> None:
    response = act(operator, run, name, {**body, **({"from": "pay"} if name == "fork" else {})}, key="")
    assert response.status_code == 422
    assert list(response.json()["errors"]) in (["reason"], ["because"])


def test_repeated_key_gets_the_first_answer_again(operator: Caller, run: Run) -> None:
    first = act(operator, run, "pause", key="k1")
    again = act(operator, run, "pause", key="k1")
    assert (again["Idempotent-Replayed"], again.json()) == ("true", first.json())
    assert Act.objects.count() == 1
    assert act(operator, run, "pause", {"reason": "another"}, key="k1").status_code == 422


# --- Signals ---------------------------------------------------------------------------------------------


def test_signal_is_stored_with_its_sender(operator: Caller, run: Run) -> None:
    response = act(operator, run, "signals/paid", {"payload": {"amount": "5"}, "dedup_id": "p-1"})
    assert response.status_code == 202, response.content
    assert response.json().items() >= {"name": "paid", "dedup_id": "p-1", "run_id": str(run.pk)}.items()
    signal = Signal.objects.get()
    assert (signal.payload, operator.token.prefix in signal.sender) == ({"amount": "5"}, True)


def test_same_dedup_id_is_one_signal(operator: Caller, run: Run) -> None:
    answers = [act(operator, run, "signals/paid", {"payload": n, "dedup_id": "p-1"}).json() for n in range(2)]
    assert answers[0] == answers[1]
    assert Signal.objects.get().payload == 0
    act(operator, run, "signals/paid", {})
    assert Signal.objects.count() == 2


@pytest.mark.parametrize("name", ["completion:pay%230", "a%00b", "x" * 101])
def test_signal_can_not_pose_as_a_completion(operator: Caller, run: Run, name: str) -> None:
    assert act(operator, run, f"signals/{name}", {"payload": {"value": 1}}).status_code == 422
    assert not Signal.objects.exists()


def test_signal_to_a_run_that_has_ended_is_refused(operator: Caller, run: Run) -> None:
    finished(run)
    assert act(operator, run, "signals/paid", {"payload": 1}).json()["code"] == "RUN_ENDED"


# --- Forks -----------------------------------------------------------------------------------------------


def test_fork_is_a_new_run_that_names_its_origin(operator: Caller, script: Script, db: None) -> None:
    run = stop_at("ship")
    response = act(operator, run, "fork", {"from": "ship", **REASON}, key="k1")
    assert response.status_code == 202, response.content
    fork = response.json()
    assert (fork["forked_from"], fork["state"]) == (str(run.pk), "READY")
    assert [step["operation_id"] for step in fork["steps"]] == ["reserve#0", "pay#0"]
    assert operator.get(f"/runs/{run.pk}").json()["error"]["code"] == "RUN_FORKED"
    assert act(operator, run, "fork", {"from": "ship", **REASON}, key="k1").json() == fork
    again = act(operator, run, "fork", {"from": "ship", **REASON}, key="k2")
    assert (again.status_code, fork["id"] in again.json()["detail"]) == (409, True)
    assert finished(Run.objects.get(pk=fork["id"])).state == "SUCCEEDED"


def test_fork_needs_a_key_a_step_and_an_input_that_fits(operator: Caller, run: Run) -> None:
    finished(run)
    assert (
        act(operator, run, "fork", {"from": "ship", **REASON}).json()["code"] == "API_IDEMPOTENCY_KEY_MISSING"
    )
    response = act(operator, run, "fork", {"from": "nowhere", **REASON}, key="")
    assert (response.status_code, list(response.json()["errors"])) == (422, ["from"])
    response = act(operator, run, "fork", {"from": "pay", "input": {"amount": "many"}, **REASON}, key="")
    assert list(response.json()["errors"]) == ["input.amount"]
    assert Run.objects.count() == 1


def test_live_run_can_not_be_forked(operator: Caller, run: Run) -> None:
    response = act(operator, run, "fork", {"from": "reserve", **REASON}, key="")
    assert (response.status_code, "cancel it first" in response.json()["detail"]) == (409, True)


def test_branch_can_not_be_cancelled_apart_from_its_parent(operator: Caller, db: None) -> None:
    run = Lines.start(OrderInput())
    advance(run.pk)
    [branch, *_] = operator.get("/runs", parent_id=run.pk).json()["items"]
    response = operator.post(f"/runs/{branch['id']}/cancel", REASON, key=None)
    assert (response.status_code, str(run.pk) in response.json()["detail"]) == (409, True)


def test_key_of_a_stopped_object_is_refused_for_now(operator: Caller, db: None) -> None:
    first = Parked.start(GreetInput(name="Ada"))
    Run.objects.filter(pk=first.pk).update(state="DEAD_LETTER", wake_at=None)
    response = operator.post("/workflows/api.parked/runs", {"input": {"name": "Ada"}})
    problem = response.json()
    assert (response.status_code, problem["code"], problem["retryable"]) == (409, "OBJECT_PARKED", True)
