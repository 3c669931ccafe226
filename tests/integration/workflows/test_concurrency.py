"""Several threads on one database, really committing."""

import uuid

import pytest
from django.db import transaction

from tests.sample.workflows import Ledger, Saga, SampleInput
from tests.threads import at_once
from workflows.models import Run

pytestmark = pytest.mark.sqlite_too


@pytest.mark.case("E25")
def test_concurrent_starts_with_one_key_make_one_run(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    got: list[uuid.UUID] = []
    at_once(8, lambda _: got.append(Ledger.start(SampleInput(), idempotency_key="one").pk))
    assert len(got) == 8
    assert set(got) == {Run.objects.get().pk}


@pytest.mark.case("E58", "PB11")
def test_writers_wait_for_each_other_instead_of_failing(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)

    def write(number: int) -> None:
        for _ in range(10):
            # Reads first and writes later: what SQLite refuses at once unless the transaction began as a writer.
            with transaction.atomic():
                Run.objects.count()
                Saga.start(SampleInput(key=str(number % 2)))

    at_once(4, write)
    assert Run.objects.count() == 40
    assert Run.objects.filter(waiting_for="").count() == 2, "one holder per key"
