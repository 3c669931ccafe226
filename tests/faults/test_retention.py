"""Sweepers that are killed while they seal and archive: no row without its file, no seal twice."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F

from tests.sample.workflows import KeptFamily, SampleInput
from tests.services import Live
from workflows import restore_archive, verify_archive, verify_archives, verify_history, verify_seals
from workflows.history import seals
from workflows.history.seals import seal_events
from workflows.models import ArchivedRun, Event, Run, Seal
from workflows.tasks import sweep

pytestmark = pytest.mark.sqlite_too

KILLED = 137
RUNS = 5  # the parent, its child, three branches
ARCHIVING = ["history.archive_written", "history.archive_named", "history.in_archiving", "history.archived"]


@pytest.fixture
def directory(settings: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process and its workers keep archives."""
    settings.DALP_ARCHIVE_DIR = str(tmp_path / "archives")  # type: ignore[attr-defined]
    monkeypatch.setattr(seals, "_noted", None)
    return tmp_path / "archives"


@pytest.fixture
def old(live: Live, drive_all: Callable[[Run], Run], directory: Path) -> Run:
    """A family past its retention; `drive_all` is that of the integration tests."""
    run = drive_all(KeptFamily.start(SampleInput()))
    month = timedelta(days=31)
    Run.objects.update(finished_at=F("finished_at") - month, created_at=F("created_at") - month)
    return run


@pytest.fixture
def drive_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], Run]:
    from workflows.engine.drive import advance

    def to_the_end(run: Run) -> Run:
        with monkeypatch.context() as patch:
            patch.setattr("workflows.doorbell.send", lambda run: None)
            while run.finished_at is None:
                for each in (run, *Run.objects.filter(parent=run)):
                    advance(each.pk)
                run.refresh_from_db()
        return run

    return to_the_end


def swept_until_killed(live: Live, point: str, directory: Path) -> None:
    """Have a worker sweep that dies at the crash point."""
    env = {"DALP_ARCHIVE_DIR": str(directory), "DALP_WORKFLOWS_SEAL_SECONDS": "0"}
    worker = live.start_worker(fault=f"{point}=exit", env=env)
    looks = itertools.count()

    def dead() -> bool:
        if next(looks) % 40 == 0:  # again, for a sweep that waits for ten seconds is dropped
            sweep.delay()
        return not worker.alive

    live.wait_until(dead, 60, what=f"the worker dies at {point}")
    assert worker.returncode == KILLED, f"the worker ended otherwise: {worker.tail()}"


def sweep_to_the_end(live: Live, directory: Path, done: Callable[[], bool]) -> None:
    env = {"DALP_ARCHIVE_DIR": str(directory), "DALP_WORKFLOWS_SEAL_SECONDS": "0"}
    live.start_worker(env=env)

    def swept() -> bool:
        sweep.delay()
        return done()

    live.wait_until(swept, 30, what="the sweeper does the rest")


def sound() -> bool:
    return not [*verify_history(), *verify_seals(), *verify_archives()]


@pytest.mark.parametrize("point", ARCHIVING)
def test_killed_while_it_archives_a_sweeper_loses_no_run(
    live: Live, old: Run, directory: Path, point: str
) -> None:
    while seal_events():
        pass
    swept_until_killed(live, point, directory)
    gone = point == "history.archived"
    assert Run.objects.count() == (0 if gone else RUNS)
    assert ArchivedRun.objects.count() == (RUNS if gone else 0)
    assert sound(), "as the dead one left it"
    left = {path.name for path in directory.glob("*.jsonl.gz")}
    assert len(left) == (0 if point == "history.archive_written" else 1)
    sweep_to_the_end(live, directory, lambda: ArchivedRun.objects.count() == RUNS)
    assert not Run.objects.exists()
    assert not Event.objects.exists()
    assert sound()
    [path] = directory.glob("*.jsonl.gz")
    assert left <= {path.name}, "the file that was left behind is the one that is used"
    assert str(old.pk) in verify_archive(path).heads
    assert restore_archive(path, actor="a", reason="b").runs == RUNS
    assert sound()


@pytest.mark.parametrize("point", ["history.before_seal", "history.sealed"])
def test_killed_while_it_seals_a_sweeper_seals_everything_once(
    live: Live, old: Run, directory: Path, point: str
) -> None:
    swept_until_killed(live, point, directory)
    assert Seal.objects.count() == (1 if point == "history.sealed" else 0)
    sweep_to_the_end(live, directory, Seal.objects.exists)
    assert sum(Seal.objects.values_list("event_count", flat=True)) == old_events(old)
    assert list(verify_seals()) == []


def old_events(run: Run) -> int:
    """Return how many events the family has; it may be archived by now."""
    live = Event.objects.count()
    return live or sum(ArchivedRun.objects.values_list("history_seq", flat=True))
