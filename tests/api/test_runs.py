"""Starting and following runs."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from django.test import Client
from pydantic import BaseModel

from tests.api.callers import Caller
from workflows import Workflow, start_workflow, step
from workflows.models import Payload, Run, Step, Wait
from workflows.redaction import HIDDEN, Sensitive

RUN_FIELDS = {
    "id", "workflow", "version", "state", "input", "output", "error", "correlation_id", "created_at", "finished_at", "steps",
    "parent_id", "branch", "forked_from", "priority", "deadline_at",
}  # fmt: skip
STEP_FIELDS = {
    "name", "operation_id", "state", "attempt", "output", "error", "transaction_id", "started_at", "finished_at",
}  # fmt: skip
RUN_ACTS = ("cancel", "pause", "resume", "compensate", "kill", "fork")
LETTER_ACTS = ("replay", "complete", "skip", "compensate", "discard")


class Account(BaseModel):
    iban: Annotated[str, Sensitive]
    name: str


class Opened(BaseModel):
    pin: Annotated[str, Sensitive]
    ok: bool


class Secretive(Workflow[Account, Opened]):
    class Meta:
        name, version = "api.secretive", 1

    @step
    def pay(self, input: Account) -> Opened:
        return Opened(pin="1234", ok=True)


def test_the_definitions_show_name_version_steps_and_schema(viewer: Caller) -> None:
    found = {item["name"]: item for item in viewer.get("/workflows").json()["items"]}
    greet = found["test.greet"]
    assert greet["version"] == 3
    assert [step["name"] for step in greet["steps"]] == ["greet"]
    assert greet["input_schema"]["properties"]["name"]["maxLength"] == 50


def test_a_started_run_is_accepted_and_can_be_followed(operator: Caller, viewer: Caller) -> None:
    response = operator.start(**{"X-Correlation-ID": "order-7"})
    assert response.status_code == 202
    run = response.json()
    assert run.keys() >= RUN_FIELDS
    assert (run["workflow"], run["version"], run["state"]) == ("test.greet", 3, "READY")
    assert run["input"] == {"name": "Ada", "times": 1}
    assert run["correlation_id"] == "order-7"
    shown = viewer.get(f"/runs/{run['id']}").json()
    assert shown == run


def test_steps_show_the_transactions_of_their_latest_attempt(operator: Caller) -> None:
    run = operator.start().json()
    row = Run.objects.get(pk=run["id"])
    Step.objects.create(run=row, operation_id="pay#0", name="pay", seq=1, state="WAITING", attempt=2)
    for attempt, index, reference in [(1, 0, "old"), (2, 1, "second"), (2, 0, "first")]:
        Wait.objects.create(
            run=row,
            operation_id="pay#0",
            attempt=attempt,
            index=index,
            kind="transaction",
            reference=reference,
        )
    step = next(s for s in operator.get(f"/runs/{run['id']}").json()["steps"] if s["name"] == "pay")
    assert step.keys() >= STEP_FIELDS
    assert (step["transaction_id"], step["transaction_ids"]) == ("first", ["first", "second"])


def claimed(run_id: str, **columns: Any) -> Run:
    """A run that a worker holds, at its operation."""
    now = datetime.now(UTC)
    columns = {"state": "RUNNING", "attempt": 1, "operation_at": now, "lease_until": now, **columns}
    Run.objects.filter(pk=run_id).update(**columns)
    return Run.objects.get(pk=run_id)


def test_what_is_under_way_is_shown_before_it_has_an_outcome(operator: Caller) -> None:
    run = operator.start().json()
    assert run["steps"] == []
    row = claimed(run["id"])
    [step] = operator.get(f"/runs/{run['id']}").json()["steps"]
    assert (step["name"], step["operation_id"], step["state"], step["attempt"]) == (
        "greet",
        "greet#0",
        "RUNNING",
        1,
    )
    assert step["started_at"] is not None
    Step.objects.create(run=row, operation_id="greet#0", name="greet", seq=0, state="WAITING", attempt=1)
    Run.objects.filter(pk=run["id"]).update(attempt=2)
    [step] = operator.get(f"/runs/{run['id']}").json()["steps"]
    assert (step["state"], step["attempt"]) == ("RUNNING", 2), "its second attempt"
    Step.objects.update(state="SUCCEEDED", attempt=2)
    [step] = operator.get("/runs").json()["items"][0]["steps"]
    assert step["state"] == "SUCCEEDED"


def branch(run_id: str, operation: str) -> Run:
    parent = Run.objects.get(pk=run_id)
    return Run.objects.create(
        parent=parent, branch=operation, operation=operation, workflow=parent.workflow, version=3, queue="test",
        fingerprint=parent.fingerprint, input={"item": 7}, input_hash="?",
    )  # fmt: skip


def test_a_runs_branches_lend_it_their_transactions_and_what_they_work_at(operator: Caller) -> None:
    run = operator.start().json()
    waiting, working = branch(run["id"], "pay#0"), branch(run["id"], "pay#1")
    Step.objects.create(run_id=run["id"], operation_id="pay#0", name="pay", seq=5, state="WAITING", attempt=1)
    Wait.objects.create(
        run=waiting, operation_id="pay#0", attempt=1, index=0, kind="transaction", reference="t-0"
    )
    claimed(str(working.pk))
    shown = operator.get(f"/runs/{run['id']}").json()
    assert [(step["operation_id"], step["state"], step["transaction_id"]) for step in shown["steps"]] == [
        ("pay#0", "WAITING", "t-0"),
        ("pay#1", "RUNNING", None),
    ]


def test_branches_are_listed_only_with_their_parent(operator: Caller) -> None:
    run = operator.start().json()
    one = branch(run["id"], "pay#0")
    assert [each["id"] for each in operator.get("/runs").json()["items"]] == [run["id"]]
    [shown] = operator.get("/runs", parent_id=run["id"]).json()["items"]
    assert (shown["id"], shown["parent_id"], shown["branch"]) == (str(one.pk), run["id"], "pay#0")
    assert shown["input"] == {"item": "•••"}, (
        "the workflow has no such step: nobody knows what in it is sensitive"
    )


def test_large_outputs_are_shown_with_their_run_and_left_out_of_lists(operator: Caller) -> None:
    run = operator.start().json()
    row = Run.objects.get(pk=run["id"])
    Step.objects.create(run=row, operation_id="greet#0", name="greet", seq=0, state="SUCCEEDED", large=True)
    Payload.objects.create(run=row, operation_id="greet#0", data={"text": "long"})
    assert operator.get(f"/runs/{run['id']}").json()["steps"][0]["output"] == {"text": "long"}
    assert operator.get("/runs").json()["items"][0]["steps"][0]["output"] is None


def test_marked_fields_are_hidden(operator: Caller) -> None:
    run, _ = start_workflow("api.secretive", {"iban": "CH93", "name": "Ada"})
    row = Step.objects.create(
        run=run, operation_id="pay#0", name="pay", seq=0, output={"pin": "1234", "ok": True}
    )
    shown = operator.get(f"/runs/{run.pk}").json()
    assert (shown["input"]["iban"], shown["input"]["name"]) == (HIDDEN, "Ada")
    assert shown["steps"][0]["output"] == {"pin": HIDDEN, "ok": True}
    Run.objects.filter(pk=run.pk).update(output=row.output)
    assert operator.get(f"/runs/{run.pk}").json()["output"]["pin"] == HIDDEN


def test_lists_go_through_every_run_once_newest_first(operator: Caller) -> None:
    started = [operator.start(name).json()["id"] for name in "abcde"]
    seen, cursor = [], None
    while True:
        page = operator.get("/runs", limit=2, **({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) <= 2
        seen += [run["id"] for run in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(started, reverse=True)


def test_filters_narrow_the_list(operator: Caller) -> None:
    one = operator.start("one", **{"X-Correlation-ID": "c-1"}).json()
    two = operator.start("two", **{"X-Correlation-ID": "c-2"}).json()
    Run.objects.filter(pk=two["id"]).update(state="FAILED", finished_at=datetime.now(UTC))

    def ids(**query: Any) -> list[str]:
        return [run["id"] for run in operator.get("/runs", **query).json()["items"]]

    assert ids(state="FAILED") == [two["id"]]
    assert ids(correlation_id="c-1") == [one["id"]]
    assert ids(workflow="test.greet") == [two["id"], one["id"]]
    assert ids(workflow="other") == []
    now = datetime.now(UTC)
    assert ids(created_after=(now - timedelta(hours=1)).isoformat()) == [two["id"], one["id"]]
    assert ids(created_after=(now + timedelta(hours=1)).isoformat()) == []


def test_the_number_of_queries_does_not_grow_with_the_list(
    operator: Caller, django_assert_max_num_queries: Any
) -> None:
    for name in "abcdefgh":
        operator.start(name)
    with django_assert_max_num_queries(6):
        operator.get("/runs")


def test_the_history_is_a_chain_from_the_first_event(operator: Caller) -> None:
    run = operator.start().json()
    history = operator.get(f"/runs/{run['id']}/history").json()
    assert history["run_id"] == run["id"]
    assert history["next_cursor"] is None
    assert [event["seq"] for event in history["items"]] == list(range(1, len(history["items"]) + 1))
    previous = ""
    for event in history["items"]:
        assert event.keys() == {"seq", "kind", "at", "data", "previous_hash", "hash"}
        assert event["previous_hash"] == previous
        previous = event["hash"]


def test_the_openapi_document_is_3_1_and_names_every_path(client: Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == {
        "/api/v1/workflows",
        "/api/v1/workflows/{name}/runs",
        "/api/v1/runs",
        "/api/v1/runs/{run_id}",
        "/api/v1/runs/{run_id}/history",
        *(f"/api/v1/runs/{{run_id}}/{act}" for act in RUN_ACTS),
        "/api/v1/runs/{run_id}/signals/{name}",
        "/api/v1/dead-letters",
        "/api/v1/dead-letters/groups",
        *(f"/api/v1/dead-letters/{{letter_id}}/{act}" for act in LETTER_ACTS),
        "/api/v1/dead-letters/bulk",
        "/api/v1/dead-letters/bulk/{job_id}",
        "/api/v1/dead-letters/bulk/{job_id}/items",
        "/api/v1/dead-letters/bulk/{job_id}/stop",
        "/api/v1/approvals",
        "/api/v1/approvals/{approval_id}/approve",
        "/api/v1/approvals/{approval_id}/reject",
        "/api/v1/completions/{token}",
        "/api/v1/webhooks",
        "/api/v1/webhooks/{webhook_id}",
        "/api/v1/webhooks/{webhook_id}/deliveries",
        "/api/v1/webhooks/{webhook_id}/rotate-secret",
        "/api/v1/webhooks/{webhook_id}/test",
        "/api/v1/webhooks/deliveries/{delivery_id}/replay",
        "/api/v1/transactions",
        "/api/v1/transactions/{transaction_id}",
        "/api/v1/transactions/{transaction_id}/cancel",
        "/api/v1/transactions/{transaction_id}/give-up",
        "/api/v1/transactions/{transaction_id}/requeue",
        "/api/v1/transactions/{transaction_id}/speed-up",
        "/api/v1/keys",
        "/api/v1/keys/{key_id}",
        "/api/v1/keys/{key_id}/revoke",
        "/api/v1/keys/{key_id}/rotate",
        "/api/v1/keys/{key_id}/suspend",
        "/api/v1/lanes",
        "/api/v1/lanes/{chain_id}/{address}",
        "/api/v1/lanes/{chain_id}/{address}/drain",
        "/api/v1/lanes/{chain_id}/{address}/pause",
        "/api/v1/lanes/{chain_id}/{address}/resume",
        "/api/v1/lanes/{chain_id}/{address}/resync",
    }


def test_the_docs_page_loads_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/api/v1/docs")
    assert page.status_code == 200
    assert "https://" not in page.content.decode()


def test_the_openapi_document_describes_the_key_the_token_and_the_errors(client: Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    start = document["paths"]["/api/v1/workflows/{name}/runs"]["post"]
    [header] = [parameter for parameter in start["parameters"] if parameter["in"] == "header"]
    assert (header["name"], header["required"]) == ("Idempotency-Key", True)
    assert start["security"]
    assert {"202", "400", "401", "403", "404", "409", "413", "422"} <= start["responses"].keys()
    assert set(document["components"]["schemas"]["Run"]["required"]) >= RUN_FIELDS
    assert set(document["components"]["schemas"]["Step"]["required"]) >= STEP_FIELDS
