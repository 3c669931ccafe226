"""A run's history without what differs from run to run: identifiers, hashes, instants, texts."""

from pathlib import Path
from typing import Any

from workflows.models import Event, Run

Line = tuple[Any, ...]
# What tells one event from another of its kind, in this order; an event has some of them.
_TELLING = ("step", "operation", "attempt", "state", "reason", "code", "branches", "recoveries")
_PEOPLE = frozenset({"run_paused", "run_resumed", "run_killed", "dead_letter_replayed"})


def history_of(run: Run) -> list[Line]:
    """Return the run's events as tuples: the kind, then the step, attempt, state, … as far as it has them."""
    return [_line(event) for event in Event.objects.filter(run=run).order_by("seq")]


def _line(event: Event) -> Line:
    told = [event.data[name] for name in _TELLING if name in event.data]
    if event.kind in _PEOPLE:
        told.append(event.data.get("actor", ""))
    told += [kind for kind, _ in event.data.get("commands", [])]
    return (event.kind, *told)


def assert_history(run: Run, path: Path) -> None:
    """Compare the run's history with the file; one that is missing is written, for somebody to look at and commit."""
    text = "".join(" ".join(map(str, line)) + "\n" for line in history_of(run))
    if not path.exists():
        path.write_text(text)
        raise AssertionError(
            f"{path} was missing and is written now: look whether it is right, then run again"
        )
    kept = path.read_text()
    assert text == kept, (
        f"the history is not that of {path}; if it is right so, delete the file and run again"
    )
