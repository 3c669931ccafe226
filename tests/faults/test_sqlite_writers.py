"""Four processes write to one SQLite database at once: each waits for its turn, none is told that it is locked."""

import json
import sys
from pathlib import Path

import pytest
from django.db import connection

from dalp.local.processes import Process
from tests.sample.models import Effect
from tests.services import Live

WRITERS, SECONDS = 4, 5
# Reads, then writes: the order in which a deferred transaction fails at once with "database is locked".
PROGRAM = f"""
import django, json, time
django.setup()
from django.db import transaction
from tests.sample.models import Effect
took, end = [], time.monotonic() + {SECONDS}
while time.monotonic() < end:
    begun = time.monotonic()
    with transaction.atomic():
        row = Effect.objects.get(key="turns")
        row.attempt += 1
        row.save()
    took.append(time.monotonic() - begun)
    time.sleep(0.003)  # SQLite has no queue: writers that never pause starve one another
took.sort()
print(json.dumps({{"turns": len(took), "p99": took[len(took) * 99 // 100]}}))
"""


@pytest.mark.case("PB11")
@pytest.mark.sqlite_too
def test_four_writers_lose_no_write_and_meet_no_lock_error(live: Live, tmp_path: Path) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("about SQLite")
    Effect.objects.create(key="turns", attempt=0)
    writers = [
        Process("writer", [sys.executable, "-c", PROGRAM], log=tmp_path / f"writer{n}.log", env=live.env)
        for n in range(WRITERS)
    ]
    live.processes.extend(writers)
    assert [writer.wait(60) for writer in writers] == [0] * WRITERS
    reports = [json.loads(writer.output().splitlines()[-1]) for writer in writers]
    assert Effect.objects.get(key="turns").attempt == sum(report["turns"] for report in reports)
    assert min(report["turns"] for report in reports) > 0
    print(reports)
    assert max(report["p99"] for report in reports) < 2
