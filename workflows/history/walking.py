"""Reading one run's chain from its first event to its last, wherever the events come from. Pure."""

from datetime import datetime
from typing import Any

from workflows.history.digests import event_digest, output_digest

DIGEST_LENGTH = 64


class Walk:
    """One run's history as far as it was read: whether it fits, and what it says that the run's rows must be.

    Usage: `take` each event in order, then `finish` with the head that the run names. `fault` is the number of the
    first event that does not fit, and why; None while everything does.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.fault: tuple[int, str] | None = None
        self.events = 0
        self.outputs: dict[str, tuple[int, str]] = {}  # of each operation the last output's event and digest
        self.lists: dict[str, tuple[int, str]] = {}  # of the lists of outputs that a fork has copied
        self.input: str | None = None
        self.ended: dict[str, Any] | None = None
        self._hash = ""

    def take(self, seq: int, kind: str, at: datetime, data: Any, previous_hash: str, hash: str) -> None:
        if self.fault is None:
            self.fault = self._look_at(seq, kind, at, data, previous_hash, hash)
        self.events, self._hash = self.events + 1, hash
        self._remember(seq, kind, data)

    def _look_at(
        self, seq: int, kind: str, at: datetime, data: Any, previous_hash: str, hash: str
    ) -> tuple[int, str] | None:
        expected = self.events + 1
        if seq != expected:
            return expected, "missing: an event was removed or moved"
        if previous_hash != self._hash:
            return seq, "does not follow the event before it"
        if hash != event_digest(self.run_id, seq, kind, at, data, previous_hash):
            return seq, "altered: its content does not give its hash"
        return None

    def _remember(self, seq: int, kind: str, data: Any) -> None:
        if not isinstance(data, dict):
            return  # altered, and said to be
        if kind == "run_finished":
            self.ended = data
        elif kind == "run_forked":
            self._remember_copies(seq, data["copied"])
        elif "output" in data and "step" in data:
            self.outputs[data["step"]] = seq, data["output"]
        self.input = data.get("input_after", data.get("input", self.input))

    def _remember_copies(self, seq: int, copied: dict[str, str]) -> None:
        for operation, digest in copied.items():
            if operation.endswith("*"):
                self.lists[operation.removesuffix("*")] = seq, digest
            elif len(digest) == DIGEST_LENGTH:  # else it is the state of a step that was left out
                self.outputs[operation] = seq, digest

    def finish(self, seq: int, hash: str) -> None:
        """Compare with the head that the run names."""
        if self.fault is not None:
            return
        if self.events < seq:
            self.fault = self.events + 1, "missing: the end of the history was cut off"
        elif hash != self._hash or self.events != seq:
            self.fault = self.events, "is not the last event that the run knows of"

    def find_other_row(self, input: Any, state: str, output: Any) -> str | None:
        """Return in what a run's row differs from its history, or None. Of a run that has not ended only the input counts."""
        if self.input is not None and output_digest(input) != self.input:
            return "the run's input is not the one of its history"
        if self.ended is None:
            return None
        if state != self.ended.get("state"):
            return f"the run is {state}, and ended {self.ended.get('state')} by its history"
        if output_digest(output) != self.ended.get("output", output_digest(None)):
            return "the run's output is not the one of its history"
        return None
