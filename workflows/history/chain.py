"""The growing end of a run's history: append-only events, each carrying the hash of the one before."""

from datetime import datetime
from typing import Any

from workflows.history.digests import event_digest
from workflows.models import Event, Run
from workflows.statements import insert_rows


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
        event.hash = event_digest(str(self.run.pk), event.seq, kind, at, data, self.hash)
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

    def unsaved(self) -> list[Event]:
        return list(self._new)

    def forget(self, seq: int, hash: str, unsaved: list[Event]) -> None:
        """Return to an earlier head, with the events that were unsaved then, after a rollback."""
        self.seq, self.hash, self._new = seq, hash, list(unsaved)
