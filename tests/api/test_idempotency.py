"""The same request twice starts one thing, whatever comes in between."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction

from dalp.api import idempotency
from dalp.models import IdempotencyRecord
from tests.api.callers import Caller
from tests.threads import at_once
from workflows.models import Run


def test_a_post_without_a_key_is_refused(operator: Caller) -> None:
    response = operator.start(key=None)
    assert (response.status_code, response.json()["code"]) == (400, "API_IDEMPOTENCY_KEY_MISSING")
    assert not Run.objects.exists()


@pytest.mark.parametrize("key", ["ä", "x" * 256, '"', '""', "a\tb"])
def test_a_key_that_is_no_key_is_refused(operator: Caller, key: str) -> None:
    response = operator.start(key=key)
    assert (response.status_code, response.json()["code"]) == (400, "API_IDEMPOTENCY_KEY_INVALID")


@pytest.mark.case("E25")
@pytest.mark.sqlite_too
def test_the_same_key_and_body_gets_the_first_answer_again(operator: Caller) -> None:
    first = operator.start(key="k1")
    again = operator.start(key="k1")
    quoted = operator.start(key='"k1"')
    assert "Idempotent-Replayed" not in first
    for response in (again, quoted):
        assert response.status_code == 202
        assert response["Idempotent-Replayed"] == "true"
        assert response.json() == first.json()
    assert Run.objects.count() == 1


def test_the_first_answer_stays_although_the_run_went_on(operator: Caller) -> None:
    first = operator.start(key="k1").json()
    Run.objects.update(state="RUNNING")
    assert operator.start(key="k1").json() == first


def test_spacing_and_order_of_names_make_no_other_body(operator: Caller) -> None:
    path = "/workflows/test.greet/runs"
    first = operator.post(path, b'{"input":{"name":"Ada","times":1}}', key="k1")
    again = operator.post(path, b'{ "input": {"times": 1, "name": "Ada"} }', key="k1")
    assert again["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()


@pytest.mark.case("E26")
@pytest.mark.sqlite_too
def test_the_same_key_with_another_body_is_refused_and_names_the_first(operator: Caller) -> None:
    first = operator.start("Ada", key="k1").json()
    response = operator.start("Bob", key="k1")
    assert (response.status_code, response.json()["code"]) == (422, "API_IDEMPOTENCY_KEY_REUSED")
    assert first["id"] in response.json()["detail"]
    assert Run.objects.count() == 1


def test_keys_of_two_callers_never_meet(operator: Caller, caller: Callable[[str], Caller]) -> None:
    other = caller("operator")
    assert operator.start(key="k1").json()["id"] != other.start(key="k1").json()["id"]


def test_a_refused_request_does_not_use_up_its_key(operator: Caller) -> None:
    assert operator.start("", key="k1").status_code == 422
    assert not IdempotencyRecord.objects.exists()
    assert operator.start("Ada", key="k1").status_code == 202


def test_a_crash_while_starting_leaves_neither_run_nor_key(
    operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Run) -> None:
        raise RuntimeError("after the insert")

    from dalp.api import workflows as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "present_run", fail)
        assert operator.start(key="k1").status_code == 500
    assert not Run.objects.exists()
    assert operator.start(key="k1").status_code == 202


@pytest.fixture
def committed(fresh_db: str) -> Iterator[Caller]:
    """A caller whose token other threads see."""
    yield Caller("operator")
    connection.close()


@pytest.mark.case("E25", "PD2")
@pytest.mark.sqlite_too
def test_fifty_at_once_with_one_key_start_one_run(committed: Caller) -> None:
    responses = at_once(50, lambda _: committed.start(key="k1"))
    statuses = {response.status_code for response in responses}  # type: ignore[attr-defined]
    accepted = [response for response in responses if response.status_code == 202]  # type: ignore[attr-defined]
    assert statuses <= {202, 409}
    assert len({response.json()["id"] for response in accepted}) == 1  # type: ignore[attr-defined]
    assert sum("Idempotent-Replayed" not in response for response in accepted) == 1  # type: ignore[operator]
    assert Run.objects.count() == 1


@pytest.mark.case("E26")
@pytest.mark.sqlite_too
def test_of_two_bodies_at_once_with_one_key_one_is_refused(committed: Caller) -> None:
    responses = at_once(2, lambda number: committed.start(f"name {number}", key="k1"))
    assert sorted(response.status_code for response in responses) == [202, 422]  # type: ignore[attr-defined]
    assert Run.objects.count() == 1


@pytest.mark.postgresql("SQLite has one writer at a time: the second request waits for the first")
def test_a_second_request_is_told_to_come_back_while_the_first_is_in_flight(
    committed: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "IN_FLIGHT_WAIT_MS", 100)
    with transaction.atomic():
        IdempotencyRecord.objects.create(
            token=committed.token,
            method="POST",
            path="/api/v1/workflows/test.greet/runs",
            key="k1",
            body_sha256="?",
        )
        [response] = at_once(1, lambda _: committed.start(key="k1"))
        transaction.set_rollback(True)
    assert response.status_code == 409  # type: ignore[attr-defined]
    assert response.json()["code"] == "API_IDEMPOTENCY_IN_FLIGHT"  # type: ignore[attr-defined]
    assert response.json()["retryable"] is True  # type: ignore[attr-defined]
    assert committed.start(key="k1").status_code == 202


def test_keys_are_compared_exactly(operator: Caller) -> None:
    ids = {operator.start(key=key).json()["id"] for key in ("k", "K", "k ", "k.", str(uuid.uuid4()))}
    assert len(ids) == 4  # white space around a header's value is no part of it
