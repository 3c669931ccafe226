"""A report that runs for too long slows every claim: the doctor says so before people notice."""

import psycopg
import pytest

from dalp import diagnosis
from tests.services import Services


def finding(name: str) -> diagnosis.Finding:
    return next(each for each in diagnosis.check_vacuum() if each.name == name)


@pytest.mark.case("E54")
def test_the_doctor_names_the_transaction_that_keeps_dead_rows(
    fresh_db: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    if services.postgres is None:
        assert diagnosis.check_vacuum() == [], "SQLite has no such trouble"
        return
    assert finding("long transactions").ok
    assert finding("dead rows").ok
    with psycopg.connect(services.postgres.url(fresh_db)) as report:
        report.execute("SELECT count(*) FROM workflows_run")
        monkeypatch.setattr(diagnosis, "LONG_TRANSACTION_SECONDS", 0)
        found = finding("long transactions")
        assert not found.ok
        assert str(report.info.backend_pid) in found.remedy
