"""Two sweepers that want to archive the same runs at the same moment. SQLite has one writer, who waits for no other."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F

from tests.sample.workflows import KeptFamily, SampleInput
from tests.threads import at_once
from workflows import verify_archives, verify_history, verify_seals
from workflows.engine.drive import advance
from workflows.history import families, retention, seals
from workflows.history.retention import archive_expired
from workflows.history.seals import seal_events
from workflows.models import ArchivedRun, Run

MONTH = timedelta(days=31)


@pytest.mark.case("E46")
def test_family_that_two_sweepers_want_is_archived_by_the_one_that_has_its_head(
    fresh_db: str, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DALP_ARCHIVE_DIR = str(tmp_path)
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    monkeypatch.setattr(seals, "_noted", None)
    monkeypatch.setattr(retention, "_places", {})
    KeptFamily.start(SampleInput())
    while unfinished := list(Run.objects.filter(finished_at__isnull=True)):
        for run in unfinished:
            advance(run.pk)
    Run.objects.update(finished_at=F("finished_at") - MONTH, created_at=F("created_at") - MONTH)
    while seal_events():
        pass
    both_looked, other_past, tried = threading.Barrier(2), threading.Event(), threading.Event()
    lock, has_head = families._lock, threading.local()

    def lock_in_turns(ids: list[Any]) -> dict[Any, Run]:
        """Have the one without the head go first, and keep what it takes until the other has tried, too."""
        if not hasattr(has_head, "is_so"):
            locked = lock(ids)
            has_head.is_so = bool(locked)
            both_looked.wait(10)
            return locked
        if has_head.is_so:
            other_past.wait(10)
            locked = lock(ids)
            tried.set()
        else:
            locked = lock(ids)
            other_past.set()
            tried.wait(10)
        return locked

    def archive(number: int) -> int:
        archived = archive_expired()
        other_past.set()
        return archived

    monkeypatch.setattr(families, "_lock", lock_in_turns)
    assert sorted(at_once(2, archive)) == [0, 5]
    assert (ArchivedRun.objects.count(), Run.objects.count()) == (5, 0)
    assert not [*verify_history(), *verify_seals(), *verify_archives()]
