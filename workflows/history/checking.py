"""Verifying an archive file without the database: its lines, the chains in it, the rows, the proofs."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from workflows.errors import ArchiveError
from workflows.history.archives import Line, read_archive
from workflows.history.digests import output_digest, seal_digest
from workflows.history.proofs import leads_to
from workflows.history.walking import Walk

Operation = tuple[str, str]
HAS_OUTPUT = ("SUCCEEDED", "UNDOING", "UNDONE")
NOTHING = output_digest(None)  # of a step that failed, perhaps after its effect, and was undone for that


@dataclass
class Contents:
    """What an archive was found to hold."""

    sha256: str = ""
    lines: int = 0
    events: int = 0
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)  # the last event of each run
    seals: dict[int, str] = field(default_factory=dict)  # the hash of each seal that the proofs lead to


def verify_archive(path: Path) -> Contents:
    """Verify an archive file and return what it holds. Raises ArchiveError with the first line that doesn't hold.

    It shows that nothing in it was altered since, provided its digest or one of its seals is known from elsewhere.
    Reads no database.
    """
    check = _Check(path)
    try:
        for line in read_archive(path):
            check.take(line)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        check.refuse(line.number, f"lacks something, or has it in another shape ({type(error).__name__})")
    return check.contents


class _Check:
    """The lines of an archive held against one another, as they come: runs, steps, events, seals, proofs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents = Contents()
        self.runs: dict[str, tuple[int, dict[str, Any]]] = {}
        self.steps: set[Operation] = set()
        self.outputs: dict[
            Operation, tuple[int, str]
        ] = {}  # the line and the digest of each that no event had yet
        self.seals: dict[int, dict[str, Any]] = {}
        self.walked: set[str] = set()
        self.proven: set[str] = set()
        self.walk: Walk | None = None

    def refuse(self, line: int, problem: str) -> NoReturn:
        raise ArchiveError(self.path.name, line, problem)

    def take(self, line: Line) -> None:
        if line.kind != "event":
            self._finish_walk(line.number)
        match line.kind:
            case "run":
                self.runs[line.row["id"]] = line.number, line.row
            case "step":
                self.steps.add((line.row["run_id"], line.row["operation_id"]))
                if line.row["state"] in HAS_OUTPUT and not line.row["large"]:
                    self._note_output(line, line.row["output"])
            case "payload":
                self._note_output(line, line.row["data"])
            case "event":
                self._take_event(line)
            case "seal":
                self._take_seal(line)
            case "proof":
                self._take_proof(line)
            case "end":
                self._end(line)
        self._require_run(line)

    def _require_run(self, line: Line) -> None:
        run_id = line.row.get("run_id")
        if run_id is not None and run_id not in self.runs:
            self.refuse(line.number, f"belongs to run {run_id}, which is not in this file")

    def _note_output(self, line: Line, output: Any) -> None:
        self.outputs[line.row["run_id"], line.row["operation_id"]] = line.number, output_digest(output)

    def _take_event(self, line: Line) -> None:
        row = line.row
        if self.walk is None or self.walk.run_id != row["run_id"]:
            self._finish_walk(line.number)
            self.walk = Walk(row["run_id"])
        at = datetime.fromisoformat(row["at"])
        self.walk.take(row["seq"], row["kind"], at, row["data"], row["previous_hash"], row["hash"])
        if self.walk.fault is not None:
            seq, problem = self.walk.fault
            self.refuse(line.number, f"has event {seq} of run {row['run_id']}: {problem}")
        self.contents.events += 1

    def _finish_walk(self, line: int) -> None:
        """Hold a run whose last event was read against its own line and those of its steps."""
        walk, self.walk = self.walk, None
        if walk is None:
            return
        number, run = self.runs[walk.run_id]
        walk.finish(run["history_seq"], run["history_hash"])
        if walk.fault is not None:
            self.refuse(line, f"comes where event {walk.fault[0]} of run {walk.run_id} {walk.fault[1]}")
        problem = walk.find_other_row(run["input"], run["state"], run["output"])
        if problem is not None:
            self.refuse(number, f"is not what the events say: {problem}")
        self._hold_outputs(walk, number, run["parent_id"] if run["branch"] else run["id"])
        self.walked.add(walk.run_id)
        self.contents.heads[walk.run_id] = run["history_seq"], run["history_hash"]

    def _hold_outputs(self, walk: Walk, line: int, home: str) -> None:
        for operation, (seq, digest) in walk.outputs.items():
            if (home, operation) not in self.steps:
                self.refuse(line, f"is a run without the step {operation}, of which its event {seq} speaks")
            number, found = self.outputs.pop((home, operation), (line, digest))
            if found != digest:
                self.refuse(
                    number, f"has another output of {operation} than event {seq} of run {walk.run_id}"
                )
        if walk.lists:  # those that a fork has copied are covered by the digests of the lists
            copied = [
                key for key in self.outputs if key[0] == home and key[1].partition("#")[0] in walk.lists
            ]
            for key in copied:
                del self.outputs[key]

    def _take_seal(self, line: Line) -> None:
        if line.row["hash"] != seal_digest(line.row):
            self.refuse(line.number, "is a seal that does not give its hash")
        self.seals[line.row["number"]] = line.row
        self.contents.seals[line.row["number"]] = line.row["hash"]

    def _take_proof(self, line: Line) -> None:
        row, head = line.row, self.runs[line.row["run_id"]][1]["history_hash"]
        if not leads_to(self.seals[row["seal"]], head, row["index"], row["path"]):
            self.refuse(
                line.number, f"does not lead from run {row['run_id']}'s last event to seal {row['seal']}"
            )
        self.proven.add(row["run_id"])

    def _end(self, line: Line) -> None:
        for (_, operation), (number, digest) in self.outputs.items():
            if digest != NOTHING:
                self.refuse(number, f"has an output of {operation} that no event speaks of")
        for run_id, (number, _) in self.runs.items():
            if run_id not in self.walked:
                self.refuse(number, f"is run {run_id}, whose events are missing")
            if run_id not in self.proven:
                self.refuse(number, f"is run {run_id}, which no proof leads to")
        self.contents.sha256, self.contents.lines = line.row["sha256"], line.number
