"""Runs as the API shows them: their steps, what is under way right now, and the transactions behind them.

Marked fields of inputs and outputs are hidden. What runs at this moment has no row of a step before its first outcome;
it is read from the run itself, and from the branches that work for it.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet

from dalp.api.pagination import instant
from workflows import Definition, find_definition
from workflows.models import Payload, Run, Step, Wait
from workflows.shown import input_of, output_of, output_of_step
from workflows.states import StepState


def runs() -> "QuerySet[Run]":
    """Return all runs with what showing them needs, in a few queries whatever their number."""
    sent = Wait.objects.filter(kind="transaction")
    asked = Q(Exists(sent.filter(run=OuterRef("pk")))) | Q(lease_until__isnull=False)
    branches = Run.objects.exclude(branch="").filter(asked).defer("input", "output")
    branches = branches.prefetch_related(Prefetch("waits", sent, to_attr="sent"))
    return Run.objects.prefetch_related(
        "steps", "waits", Prefetch("children", branches, to_attr="shown_branches")
    )


def branches_of(run: Run) -> list[Run]:
    """Return the branches that have something to show, if the run was read with them."""
    return getattr(run, "shown_branches", [])


def transactions_by_operation(waits: Iterable[Wait]) -> dict[str, list[str]]:
    """Return the transactions of each operation's latest attempt, in the order in which the step asked for them."""
    waits = list(waits)
    latest: dict[str, int] = defaultdict(int)
    for wait in waits:
        latest[wait.operation_id] = max(latest[wait.operation_id], wait.attempt)
    found: dict[str, list[str]] = defaultdict(list)
    for wait in sorted(waits, key=lambda wait: wait.index):
        if wait.kind == "transaction" and wait.attempt == latest[wait.operation_id]:
            found[wait.operation_id].append(wait.reference)
    return found


def present_step(step: Step, transactions: list[str], definition: Definition | None) -> dict[str, Any]:
    """Return a step as the API shows it. `transaction_id` is the first when the step sent several."""
    return {
        "name": step.name,
        "operation_id": step.operation_id,
        "state": step.state,
        "attempt": step.attempt,
        "output": output_of_step(step, definition),
        "error": step.error,
        "transaction_id": transactions[0] if transactions else None,
        "transaction_ids": transactions,
        "started_at": instant(step.started_at),
        "finished_at": instant(step.finished_at),
    }


def steps_of(run: Run) -> list[Step]:
    """Return the rows of the run's steps in their order, with those that are under way shown as RUNNING."""
    rows = {row.operation_id: row for row in run.steps.all()}
    for worked_at in [run, *branches_of(run)]:
        # Of a list that is carried out item by item, the items are shown.
        if (
            worked_at.lease_until is not None
            and worked_at.operation
            and not worked_at.operation.endswith("*")
        ):
            _show_running(worked_at, rows)
    return sorted(rows.values(), key=lambda row: row.seq)


def _show_running(run: Run, rows: dict[str, Step]) -> None:
    row = rows.get(run.operation)
    if row is None:
        name, _, index = run.operation.partition("#")
        row = Step(operation_id=run.operation, name=name, index=int(index), started_at=run.operation_at)
        row.seq = _place(row, rows.values())
    elif row.state not in (StepState.PENDING, StepState.WAITING):
        return
    row.state, row.attempt, row.finished_at = StepState.RUNNING, run.attempt, None
    rows[run.operation] = row


def _place(row: Step, others: Iterable[Step]) -> int:
    """Return the place of a row that is not there yet: among its siblings, otherwise last."""
    for other in others:
        if other.name == row.name:
            return other.seq - other.index + row.index
    return max((other.seq for other in others), default=0) + 1 + row.index


def present_run(run: Run) -> dict[str, Any]:
    """Return a run as the API shows it."""
    definition = find_definition(run.workflow)
    waits = list(run.waits.all())
    for branch in branches_of(run):
        waits += branch.sent  # type: ignore[attr-defined]
    transactions = transactions_by_operation(waits)
    return {
        "id": str(run.pk),
        "workflow": run.workflow,
        "version": run.version,
        "state": run.state,
        "waiting_for": run.waiting_for,
        "input": {"item": input_of(run)} if "item" in run.input and run.branch else input_of(run),
        "output": output_of(run),
        "error": run.error,
        "correlation_id": run.correlation_id,
        "priority": run.priority,
        "parent_id": _text(run.parent_id),
        "branch": run.branch or None,
        "forked_from": _text(run.forked_from_id),
        "created_at": instant(run.created_at),
        "deadline_at": instant(run.deadline_at),
        "finished_at": instant(run.finished_at),
        "steps": [
            present_step(step, transactions.get(step.operation_id, []), definition) for step in steps_of(run)
        ],
    }


def present_run_in_full(run: Run) -> dict[str, Any]:
    """Return one run with the large outputs, too, which lists leave out."""
    large = [row for row in run.steps.all() if row.large]
    if large:
        found = Payload.objects.filter(run=run, operation_id__in=[row.operation_id for row in large])
        outputs = dict(found.values_list("operation_id", "data"))
        for row in large:
            row.output = outputs.get(row.operation_id)
    return present_run(run)


def _text(identifier: Any) -> str | None:
    return None if identifier is None else str(identifier)
