"""Has anybody altered the history, or what it proves? Run by run.

Each chain is read event by event up to the head that its run names; then the run's input, end and output and its steps'
outputs are held against the digests in the events. What leaves no trace in the chains (a run that is gone with all its
events, a chain made anew) the seals show: workflows.history.auditing.

Reads while workers write: what does not fit is read again, for it may only have moved on. Memory does not grow with the
number of runs.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db.models import Q, QuerySet

from workflows.history.digests import output_digest
from workflows.history.walking import Walk
from workflows.models import Event, Payload, Run, Step
from workflows.states import StepState

CHUNK = 500
RUN_COLUMNS = (
    "parent", "branch", "forked_from", "input", "output", "state", "history_seq", "history_hash",
)  # fmt: skip
EVENT_COLUMNS = ("run_id", "seq", "kind", "at", "data", "previous_hash", "hash")
HAS_OUTPUT = frozenset({StepState.SUCCEEDED, StepState.UNDOING, StepState.UNDONE})
# What a step shows that failed, perhaps after its effect, and was undone for that: it never succeeded.
NOTHING = output_digest(None)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class HistoryFault:
    """The first entry of a run's history that does not fit."""

    run_id: str
    seq: int
    problem: str

    def __str__(self) -> str:
        return f"run {self.run_id}, event {self.seq}: {self.problem}"


def verify_history(
    runs: "QuerySet[Run] | None" = None, *, progress: Progress | None = None
) -> Iterator[HistoryFault]:
    """Walk the history of the runs (all of them by default) and yield the first fault of each that has one.

    progress: called now and then with the number of events read since it was called before.
    """
    progress = progress or (lambda events: None)
    if runs is not None:
        rest = iter(runs.iterator(chunk_size=CHUNK))
        while chunk := list(islice(rest, CHUNK)):
            yield from _faults(chunk, Event.objects.filter(run_id__in=[run.pk for run in chunk]), progress)
        return
    # By ranges of ids, so that events whose run isn't there are found, too.
    last = None
    while chunk := list(_after(Run.objects.only(*RUN_COLUMNS), "pk", last).order_by("pk")[:CHUNK]):
        events = _after(Event.objects.filter(run_id__lte=chunk[-1].pk), "run_id", last)
        yield from _faults(chunk, events, progress)
        last = chunk[-1].pk
    yield from _faults([], _after(Event.objects.all(), "run_id", last), progress)


def _after(rows: Any, column: str, last: Any) -> Any:
    return rows if last is None else rows.filter(**{f"{column}__gt": last})


def _faults(runs: list[Run], events: "QuerySet[Event]", progress: Progress) -> Iterator[HistoryFault]:
    """Yield the first fault of each of the runs, and of each run that has events and isn't there."""
    walks = {run.pk: Walk(str(run.pk)) for run in runs}
    strangers = _walk(walks, events, progress)
    for run in runs:
        walks[run.pk].finish(run.history_seq, run.history_hash)
    suspect = {run.pk for run in runs if _fault_of(run, walks[run.pk])}
    suspect |= {run.pk for run, _ in _other_outputs(runs, walks)}
    for run in runs:
        fault = _settled(run) if run.pk in suspect else None
        if fault:
            yield fault
    for stranger in strangers:
        if not Run.objects.filter(pk=stranger).exists() and Event.objects.filter(run=stranger).exists():
            yield HistoryFault(str(stranger), 1, "belongs to a run that does not exist")


def _walk(walks: dict[Any, Walk], events: "QuerySet[Event]", progress: Progress) -> list[Any]:
    """Read the events into the walks; return the runs that have none."""
    strangers: dict[Any, None] = {}
    count = 0
    rows = events.order_by("run_id", "seq").values_list(*EVENT_COLUMNS)
    for run_id, *event in rows.iterator(chunk_size=2000):
        count += 1
        walk = walks.get(run_id)
        if walk is None:
            strangers[run_id] = None
        else:
            walk.take(*event)
    progress(count)
    return list(strangers)


def _settled(run: Run) -> HistoryFault | None:
    """Look at one run again, until it stood still meanwhile; return its first fault."""
    while True:
        try:
            run.refresh_from_db()
        except Run.DoesNotExist:  # archived while it was read; if not, its events are found as a stranger's
            return None
        fault = _first_fault(run)
        if fault is None or Run.objects.filter(pk=run.pk, history_seq=run.history_seq).exists():
            return fault


def _first_fault(run: Run) -> HistoryFault | None:
    """Return the first fault of the run as it was read, without asking whether it has moved on since."""
    walk = Walk(str(run.pk))
    for event in Event.objects.filter(run=run).order_by("seq").values_list(*EVENT_COLUMNS[1:]).iterator(2000):
        walk.take(*event)
    walk.finish(run.history_seq, run.history_hash)
    found = _fault_of(run, walk)
    return found or next((fault for _, fault in _other_outputs([run], {run.pk: walk})), None)


def _fault_of(run: Run, walk: Walk) -> HistoryFault | None:
    if walk.fault is not None:
        return HistoryFault(walk.run_id, *walk.fault)
    problem = walk.find_other_row(run.input, run.state, run.output)
    return HistoryFault(walk.run_id, walk.events, problem) if problem else None


Operation = tuple[Any, str]


def _other_outputs(runs: Iterable[Run], walks: dict[Any, Walk]) -> Iterator[tuple[Run, HistoryFault]]:
    """Yield what differs between the steps' outputs and the digests in the events.

    A branch has the events, and its parent the steps: so each step is looked for from the side of the events, and what a
    run has beyond its own events must be one of its branches'.
    """
    runs = list(runs)
    expected: dict[Operation, tuple[Run, int, str]] = {}
    for run in runs:
        for name, (seq, digest) in walks[run.pk].outputs.items():
            expected[run.home_id, name] = run, seq, digest
    unexplained: dict[Operation, Run] = {}
    by_id: dict[Any, Run] = {run.pk: run for run in runs}
    for operation, found in _outputs_of(runs, expected):
        if operation in expected:
            run, seq, digest = expected.pop(operation)
            if found not in (None, digest):
                problem = f"the output of {operation[1]} is not the one of the history"
                yield run, HistoryFault(str(run.pk), seq, problem)
        elif found not in (None, NOTHING) and operation[0] in by_id and not _is_copied(operation, walks):
            unexplained[operation] = by_id[operation[0]]
    for operation, (run, seq, _) in expected.items():
        yield run, HistoryFault(str(run.pk), seq, f"the step {operation[1]} is missing")
    yield from _without_events(unexplained)
    for run in runs:
        for name, (seq, digest) in walks[run.pk].lists.items():
            if _digest_of_list(run, name) != digest:
                yield (
                    run,
                    HistoryFault(str(run.pk), seq, f"the outputs of {name} are not those that were copied"),
                )


def _is_copied(operation: Operation, walks: dict[Any, Walk]) -> bool:
    return operation[1].partition("#")[0] in walks[operation[0]].lists


def _digest_of_list(run: Run, name: str) -> str:
    """Return the digest of a step's items as `fork_run` makes it of those that it copies."""
    digest = hashlib.sha256()
    rows = Step.objects.filter(run=run, name=name).order_by("index")
    for row in rows.iterator(chunk_size=CHUNK):
        output = Payload.objects.get(run=run, operation_id=row.operation_id).data if row.large else row.output
        state = StepState.SUCCEEDED if row.state in HAS_OUTPUT else row.state
        digest.update(f"{row.operation_id} {state} {output_digest(output)}\n".encode())
    return digest.hexdigest()


def _outputs_of(runs: list[Run], expected: dict[Operation, Any]) -> Iterator[tuple[Operation, str | None]]:
    """Yield the steps of the runs with the digest of their output; None where there is none to compare."""
    whole = [run.pk for run in runs if not run.branch]
    branches = [operation for operation in expected if operation[0] not in set(whole)]
    rows = Q(run_id__in=whole) | Q(
        run_id__in={home for home, _ in branches}, operation_id__in={name for _, name in branches}
    )
    large: list[Operation] = []
    steps = (
        Step.objects.filter(rows).order_by().values_list("run_id", "operation_id", "state", "output", "large")
    )
    for run_id, name, state, output, is_large in steps.iterator(chunk_size=2000):
        # What was undone because nobody could tell whether it had happened never had an output.
        never = state == StepState.UNDONE and output is None and (run_id, name) not in expected
        if state in HAS_OUTPUT and is_large:
            large.append((run_id, name))
        else:
            yield (run_id, name), output_digest(output) if state in HAS_OUTPUT and not never else None
    yield from _large_outputs(large)


def _large_outputs(wanted: list[Operation]) -> Iterator[tuple[Operation, str | None]]:
    missing = set(wanted)
    rows = Payload.objects.filter(run_id__in={home for home, _ in wanted}).values_list(
        "run_id", "operation_id", "data"
    )
    for run_id, name, data in rows.iterator(chunk_size=20) if wanted else ():
        if (run_id, name) in missing:
            missing.remove((run_id, name))
            yield (run_id, name), output_digest(data)
    for operation in missing:
        yield operation, "missing"


def _without_events(unexplained: dict[Operation, Run]) -> Iterator[tuple[Run, HistoryFault]]:
    if not unexplained:
        return
    homes = {home for home, _ in unexplained}
    branches = set(Run.objects.filter(parent__in=homes).exclude(branch="").values_list("parent_id", "branch"))
    for operation, run in unexplained.items():
        if operation not in branches:
            problem = f"the step {operation[1]} has an output that no event speaks of"
            yield run, HistoryFault(str(run.pk), run.history_seq, problem)
