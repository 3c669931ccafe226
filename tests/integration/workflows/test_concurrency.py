"""Several threads on one database, really committing."""

import threading
import uuid
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from tests.sample.workflows import Ledger, Saga, SampleInput
from workflows.models import Run

pytestmark = pytest.mark.sqlite_too


def in_threads(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Run `work` in so many threads at once; return what they raised."""
    barrier, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.case("E25")
def test_concurrent_starts_with_one_key_make_one_run(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    got: list[uuid.UUID] = []
    errors = in_threads(8, lambda _: got.append(Ledger.start(SampleInput(), idempotency_key="one").pk))
    assert errors == []
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

    assert in_threads(4, write) == []
    assert Run.objects.count() == 40
    assert Run.objects.filter(waiting_for="").count() == 2, "one holder per key"
