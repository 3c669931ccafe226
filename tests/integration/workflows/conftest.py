"""Driving runs inside the test process: no broker, no worker, the real database."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workflows.models import Run


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
