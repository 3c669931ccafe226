"""Driving runs inside the test process: no broker, no worker, the real database."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datetime import datetime

    from workflows.models import Run
    from workflows.testing import Engine


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> "Callable[[Run], Run]":
    """Return a function that advances a run until it ends, stops for a person, or waits for another run's key."""
    # Django is not set up yet when pytest reads this file.
    from workflows.engine.drive import advance
    from workflows.states import RunState

    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)

    def until_it_rests(run: "Run") -> "Run":
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            advance(run.pk)
            run.refresh_from_db()
            if run.finished_at or run.state == RunState.DEAD_LETTER or run.waiting_for == "key":
                return run
            time.sleep(0.005)
        raise AssertionError(f"run {run.pk} is still {run.state}, waiting for {run.waiting_for!r}")

    return until_it_rests


@pytest.fixture
def drive_all(monkeypatch: pytest.MonkeyPatch) -> "Callable[..., Run]":
    """Return a function that advances a run with its children and branches, as workers would.

    Until the run ends, stops for a person, or `until(run)` holds; or until nothing of it can be claimed, now or later.
    """
    from workflows.engine.drive import advance
    from workflows.models import Run
    from workflows.states import CLAIMABLE, RunState

    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)

    def family(run: "Run") -> "list[Run]":
        found, level = [run], [run]
        while level:
            level = list(Run.objects.filter(parent__in=level).order_by("id"))
            found += level
        return found

    def until_it_rests(
        run: "Run", until: "Callable[[Run], bool] | None" = None, seconds: float = 20
    ) -> "Run":
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            moved = False
            for each in family(run):
                moved = advance(each.pk) is not None or moved
                run.refresh_from_db()
                if run.finished_at or run.state == RunState.DEAD_LETTER or (until and until(run)):
                    return run
            timers = [each for each in family(run) if each.wake_at and each.state in CLAIMABLE]
            if not moved and not timers:
                return run
            time.sleep(0 if moved else 0.005)
        raise AssertionError(f"run {run.pk} is still {run.state}, waiting for {run.waiting_for!r}")

    return until_it_rests


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> "Callable[..., Run]":
    """Return a function that advances a run until its worker dies at a crash point, and lets its lease run out."""
    from workflows.crashpoints import crashpoint
    from workflows.engine.drive import advance
    from workflows.models import Run

    class Died(BaseException):
        """No `except Exception` sees it, as none sees a kill -9."""

    def until_it_dies(run: "Run", point: str, at: int = 1) -> "Run":
        left = at

        def watch(reached: str) -> None:
            nonlocal left
            left -= reached == point
            if left == 0 and reached == point:
                raise Died(point)

        monkeypatch.setattr(crashpoint, "watcher", watch)
        with pytest.raises(Died):
            advance(run.pk)
        monkeypatch.setattr(crashpoint, "watcher", None)
        Run.objects.filter(pk=run.pk, lease_until__isnull=False).update(lease_until=run.created_at)
        run.refresh_from_db()
        return run

    return until_it_dies


@pytest.fixture
def t(db: None) -> "Iterator[Engine]":
    """The engine in this process, with a virtual clock. Every history must be whole at the end."""
    from workflows import verify_history
    from workflows.testing import engine

    with engine() as opened:
        yield opened
        assert list(verify_history()) == []


@pytest.fixture
def quiet(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database that is really committed to, from any thread, and nobody who answers a doorbell."""
    from workflows import verify_history

    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    yield
    assert list(verify_history()) == []


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> "Callable[[datetime], None]":
    """Set the time; it then stands still. Nobody answers a doorbell."""
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    return lambda instant: monkeypatch.setattr("workflows.clock.now", lambda: instant)
