"""Every error is a problem document that says what to do and nothing about our insides."""

from typing import Any

import pytest

from dalp.api import runs as runs_api
from tests.api.callers import Caller
from workflows.models import Run

FIELDS = {"type", "title", "status", "detail", "code", "retryable"}
UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body.keys() >= FIELDS
    assert (body["status"], body["code"]) == (status, code)
    assert body["correlation_id"] == response["X-Correlation-ID"]
    assert "Traceback" not in response.content.decode()
    return body


@pytest.mark.parametrize(
    "path",
    [
        "/nothing-here",
        "/runs/not-a-uuid",
        f"/runs/{UNKNOWN_ID}",
        f"/runs/{UNKNOWN_ID}/history",
        f"/transactions/{UNKNOWN_ID}",
        "/transactions/../../etc/passwd",
        "/runs/%00",
    ],
)
def test_unknown_paths_and_ids_are_404(viewer: Caller, path: str) -> None:
    assert_problem(viewer.get(path), 404, "API_NOT_FOUND")


@pytest.mark.parametrize("path", ["/workflows/no.such/runs", f"/dead-letters/{UNKNOWN_ID}/replay"])
def test_posts_to_unknown_things_are_404(operator: Caller, path: str) -> None:
    body = {"input": {}} if "runs" in path else {"reason": "because"}
    assert_problem(operator.post(path, body), 404, "API_NOT_FOUND")


def test_a_wrong_method_is_405_and_names_the_right_ones(operator: Caller) -> None:
    response = operator.post("/runs", {})
    assert_problem(response, 405, "API_METHOD_NOT_ALLOWED")
    assert response["Allow"] == "GET"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "!!"}, "cursor"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"cursor": "\x00"}, "cursor"),
        ({"state": "SLEEPY"}, "state"),
        ({"created_after": "yesterday"}, "created_after"),
        ({"created_after": "2026-01-01T00:00:00"}, "created_after"),
        ({"correlation_id": "a\x00b"}, "correlation_id"),
        ({"workflow": "x" * 300}, "workflow"),
        ({"stat": "READY"}, "stat"),
    ],
)
def test_a_bad_filter_is_422_and_named(viewer: Caller, query: dict[str, Any], field: str) -> None:
    body = assert_problem(viewer.get("/runs", **query), 422, "API_INVALID_INPUT")
    assert list(body["errors"]) == [field]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "API_INVALID_INPUT"),
        (b"{", 400, "API_MALFORMED_BODY"),
        (b"[]", 400, "API_MALFORMED_BODY"),
        (b"null", 400, "API_MALFORMED_BODY"),
        (b"\xff\xfe", 400, "API_MALFORMED_BODY"),
        (b'{"input": {"name": NaN}}', 400, "API_MALFORMED_BODY"),
        (b'{"input": {"name": "a", "name": "b"}}', 400, "API_MALFORMED_BODY"),
        (b'{"input": {"name": "\\u0000"}}', 400, "API_MALFORMED_BODY"),
        (b'{"input": {"name": "\\ud800"}}', 400, "API_MALFORMED_BODY"),
        (b'{"input": {"name": 1' + b"0" * 5000 + b"}}", 400, "API_MALFORMED_BODY"),
        (b'{"input":' * 1000 + b"1" + b"}" * 1000, 400, "API_MALFORMED_BODY"),
        (b'{"input":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, "API_MALFORMED_BODY"),
        (b'{"input": {"name": "' + b"x" * 1024 * 1024 + b'"}}', 413, "API_BODY_TOO_LARGE"),
        (b"\x00" * (1024 * 1024 + 1), 413, "API_BODY_TOO_LARGE"),
        (b'{"input": 3}', 422, "API_INVALID_INPUT"),
        (b'{"inputs": {}}', 422, "API_INVALID_INPUT"),
        (b'{"input": {"name": ""}}', 422, "WORKFLOW_INPUT_INVALID"),
        (b'{"input": {"name": "Ada", "times": 1.5}}', 422, "WORKFLOW_INPUT_INVALID"),
        (b'{"input": {"name": "Ada", "times": 1e400}}', 422, "WORKFLOW_INPUT_INVALID"),
        (b'{"input": {"name": "Ada", "tmes": 2}}', 422, "WORKFLOW_INPUT_INVALID"),
    ],
)
def test_a_bad_body_is_refused_and_nothing_is_stored(
    operator: Caller, body: bytes, status: int, code: str
) -> None:
    response = operator.post("/workflows/test.greet/runs", body)
    assert_problem(response, status, code)
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"input": {"name": "", "times": 0}}, {"input.name", "input.times"}),
        ({"input": {"name": "Ada", "extra": 1}}, {"input.extra"}),
        ({"input": {}}, {"input.name"}),
        ({}, {"input"}),
        ({"input": {"name": "Ada"}, "queue": "x"}, {"queue"}),
    ],
)
def test_bad_input_names_its_fields(operator: Caller, given: dict[str, Any], fields: set[str]) -> None:
    response = operator.post("/workflows/test.greet/runs", given)
    assert response.status_code == 422
    assert response.json()["errors"].keys() == fields


def test_an_unforeseen_error_is_500_without_its_text(viewer: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(runs_api, "paginate", fail)
    response = viewer.get("/runs")
    body = assert_problem(response, 500, "API_INTERNAL_ERROR")
    assert body["retryable"] is True
    assert "swordfish" not in response.content.decode()


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1:2_3.4", True), ("", False), ("x" * 101, False), ("a b", False), ("a;b", False)]
)
def test_a_fit_correlation_id_comes_back_and_another_is_replaced(
    viewer: Caller, sent: str, kept: bool
) -> None:
    response = viewer.client.get("/api/v1/runs", headers={"X-Correlation-ID": sent})
    assert (response["X-Correlation-ID"] == sent) is kept
    assert response["X-Correlation-ID"]
