"""The history of a run: append-only events, each carrying the hash of the one before.

Upholds: an event that was altered, removed, inserted or moved no longer fits its neighbours or the head kept on the
run. Does not uphold: a rewrite of a whole chain and its head together by somebody who may write to every table.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db.models import QuerySet

from workflows.models import Event, Run
from workflows.statements import insert_rows


def _digest(run_id: str, seq: int, kind: str, at: datetime, data: Any, previous: str) -> str:
    text = json.dumps([run_id, seq, kind, at.astimezone(UTC).isoformat(), data, previous], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def output_digest(value: Any) -> str:
    """Return the digest of a step's output: the history proves it without holding it twice."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Chain:
    """The growing end of one run's history, held by whoever owns the run.

    Usage: `add` events, then write `head()` with the run and what `take()` returns, in one transaction.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seq = run.history_seq
        self.hash = run.history_hash
        self._new: list[Event] = []

    def add(self, kind: str, at: datetime, /, **data: Any) -> None:
        event = Event(
            run_id=self.run.pk, seq=self.seq + 1, kind=kind, at=at, data=data, previous_hash=self.hash
        )
        event.hash = _digest(str(self.run.pk), event.seq, kind, at, data, self.hash)
        self.seq, self.hash = event.seq, event.hash
        self._new.append(event)

    def head(self) -> dict[str, Any]:
        """Return the columns of the run that name the last event."""
        return {"history_seq": self.seq, "history_hash": self.hash}

    def take(self) -> list[Event]:
        """Return the events added since the last call, to be inserted with the head."""
        taken, self._new = self._new, []
        return taken

    def save(self) -> None:
        """Insert the events added since the last call."""
        insert_rows(self.take())

    def forget(self, seq: int, hash: str) -> None:
        """Drop the unsaved events and return to an earlier head, after a rollback."""
        self.seq, self.hash, self._new = seq, hash, []


@dataclass(frozen=True)
class HistoryFault:
    """The first entry of a run's history that does not fit."""

    run_id: str
    seq: int
    problem: str


def verify_history(runs: "QuerySet[Run] | None" = None) -> Iterator[HistoryFault]:
    """Walk the history of the runs (all of them by default) and yield the first fault of each that has one."""
    for run in (runs if runs is not None else Run.objects.order_by("id")).iterator(chunk_size=500):
        fault = _first_fault(run)
        while fault and _has_moved_on(run):  # its events were read later than the run
            fault = _first_fault(run)
        if fault:
            yield fault


def _has_moved_on(run: Run) -> bool:
    """Read the run again; tell whether events were added to it meanwhile."""
    before = run.history_seq
    run.refresh_from_db(fields=["history_seq", "history_hash"])
    return run.history_seq != before


def _first_fault(run: Run) -> HistoryFault | None:
    previous, expected = "", 1
    for event in Event.objects.filter(run=run).order_by("seq").iterator(chunk_size=2000):
        if event.seq != expected:
            return HistoryFault(str(run.pk), expected, "missing: an event was removed or moved")
        if event.previous_hash != previous:
            return HistoryFault(str(run.pk), event.seq, "does not follow the event before it")
        if event.hash != _digest(str(run.pk), event.seq, event.kind, event.at, event.data, previous):
            return HistoryFault(str(run.pk), event.seq, "altered: its content does not give its hash")
        previous, expected = event.hash, expected + 1
    if expected - 1 < run.history_seq:
        return HistoryFault(str(run.pk), expected, "missing: the end of the history was cut off")
    if run.history_hash != previous:
        return HistoryFault(str(run.pk), expected - 1, "is not the last event that the run knows of")
    return None
