"""One worker's hold on a run: what it has read and changed, and the fenced commit that writes it.

The run is updated by the epoch of the claim and by the number of the last event that this worker knows of. So a worker
that was taken over writes nothing, and one whose connection broke while it committed can find out whether it had.
"""

import copy
import random
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import structlog
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection
from django.db.models import QuerySet
from pydantic import BaseModel

from workflows.commands import Operation
from workflows.crashpoints import crashpoint
from workflows.definition import Definition
from workflows.engine.objects import Written
from workflows.engine.outcomes import Stored
from workflows.engine.plan import Planned, find_operation, operation_id
from workflows.errors import FencedError
from workflows.history import Chain
from workflows.leases import Claim, fence_is_off
from workflows.models import Event, Payload, Run, Step, Wait
from workflows.statements import Upsert, checkpoint
from workflows.states import RESUMING, Control, RunState, StepState, WaitingFor, WaitState

log = structlog.get_logger()

crashpoint.register("engine.before_record", "the step's code has run, its outcome is not recorded")
crashpoint.register("engine.in_record", "inside the transaction that records an outcome")

RUN_COLUMNS = (
    "state", "waiting_for", "operation", "attempt", "operation_at", "position", "queue", "compensating", "output",
    "error", "wake_at", "lease_until", "finished_at", "recoveries", "fingerprint", "version", "history_seq",
    "history_hash",
)  # fmt: skip
REFUSALS_MAX = 5
STEP_KEY = ("run", "operation_id")
STEP_COLUMNS = (
    "state", "attempt", "attempts_forgiven", "uncertain", "output", "large", "error", "started_at", "finished_at",
)  # fmt: skip


@dataclass
class _Snapshot:
    """What a transaction that is rolled back must give back."""

    columns: dict[str, Any]
    head: tuple[int, str]
    events: list[Event]  # those that were not written yet
    touched: dict[str, Step]
    payloads: list[Payload]
    saved_seq: int
    planned: Planned | None
    row: Step | None
    handed_over: bool
    resuming: bool
    written: Written | None
    heir: Run | None
    control: str
    clear_control: bool


@dataclass
class Session:
    """The run in memory. `planned` is the operation to carry out now, or None when this worker is done with the run."""

    claim: Claim[Run]
    definition: Definition
    planned: Planned | None = None
    handed_over: bool = False  # somebody must be told to go on with it
    control: str = Control.NONE  # what somebody asked for meanwhile
    news: bool = False  # and it was not known before the last commit
    resuming: bool = False  # the operation has asked for what it needs, and waits for it
    touched: dict[str, Step] = field(default_factory=dict)
    payloads: list[Payload] = field(default_factory=list)
    clear_control: bool = False
    written: Written | None = (
        None  # what the step has made of its virtual object, to be written with its outcome
    )
    in_transaction: bool = False
    heir: Run | None = None  # who has been given the key of this one, and is to be taken up
    late_by: timedelta = timedelta(0)  # since a timer of the current operation came due
    _row: Step | None = None
    _values: dict[str, Any] = field(default_factory=dict)
    _fresh: dict[str, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = self.claim.row
        self.queue = self.run.queue
        self.control = self.run.control
        self.resuming = self.run.waiting_for in RESUMING
        self.chain = Chain(self.run)
        if self.run.waiting_for in (WaitingFor.SLEEP, WaitingFor.RETRY) and self.run.wake_at is not None:
            self.late_by = self.claim.claimed_at - self.run.wake_at
        self.planned = find_operation(self.definition, self.run.operation)
        self._saved_seq = self.run.history_seq  # the last event that the database has
        self._confirmed_at = time.monotonic()
        self._ambiguous = False

    @property
    def current(self) -> Planned:
        if self.planned is None:
            raise RuntimeError(f"run {self.run.pk} has no current operation")
        return self.planned

    @property
    def row(self) -> Step:
        """The row of the current operation; made, or read, when first asked for."""
        if self._row is None or self._row.operation_id != self.current.operation_id:
            self._row = self._find_row() or self._new_row()
        return self._row

    def load_row(self) -> None:
        """Read the row of the current operation, unless it was."""
        assert self.row is not None

    def _find_row(self) -> Step | None:
        stopped = self.run.state == RunState.DEAD_LETTER
        if self.run.attempt <= 1 and not self.resuming and not self.run.recoveries and not stopped:
            return None  # nothing has come of it yet
        wanted = self.current.operation_id
        return Step.objects.filter(run_id=self.run.home_id, operation_id=wanted).first()

    def _new_row(self) -> Step:
        planned = self.current
        name = planned.operation_id.partition("#")[0]
        return Step(
            run_id=self.run.home_id,
            operation_id=planned.operation_id,
            name=name,
            seq=planned.seq,
            index=planned.index,
            started_at=self.run.operation_at,
        )

    @property
    def operation(self) -> Operation:
        run, planned = self.run, self.current
        home: Any = run.home_id
        return Operation(home, planned.operation_id, run.attempt, run.correlation_id, planned.index, run.pk)

    @cached_property
    def input(self) -> BaseModel:
        run = self.run.parent if self.run.branch else self.run
        assert run is not None
        return self.definition.input_model.model_validate(run.input)

    def output_of(self, name: str, index: int | None = None) -> Any:
        """Return the output of an earlier step as an object of its declared type.

        None for one that was skipped or has failed. A list for a step with `each`; index: only that item's.
        """
        key = name if index is None else operation_id(name, index)
        if key not in self._values:
            step = self.definition.steps[self.definition.places[name]]
            fresh = self._fresh.pop(key, None)
            value = step.output.validate_python(fresh.value) if fresh else self._load_output(name, index)
            self._values[key] = value
        return self._values[key]

    @property
    def item(self) -> Any:
        """The item that the current operation is about, for a step with `each`."""
        run, planned = self.run, self.current
        if not run.branch:  # an undo, which the parent carries out itself
            run = _branch_of(run, planned.undoes)
        step = self.definition.steps[self.definition.places[planned.operation_id.split("#")[0].split(".")[0]]]
        assert step.item is not None
        return step.item.validate_python(run.input["item"])

    def _load_output(self, name: str, index: int | None) -> Any:
        step = self.definition.steps[self.definition.places[name]]
        rows = Step.objects.filter(run_id=self.run.home_id, name=name).order_by("index")
        if index is not None:
            rows = rows.filter(index=index)
        found = list(rows.only("operation_id", "state", "output", "large", "index"))
        payloads = self._load_payloads([row.operation_id for row in found if row.large])
        values = [
            step.output.validate_python(payloads.get(row.operation_id, row.output))
            if row.state in (StepState.SUCCEEDED, StepState.UNDOING, StepState.UNDONE)
            else None
            for row in found
        ]
        if step.each is not None and index is None:
            return None if [row.state for row in found] == [StepState.SKIPPED] else values
        return values[0] if values else None

    def _load_payloads(self, operations: list[str]) -> dict[str, Any]:
        if not operations:
            return {}
        found = Payload.objects.filter(run_id=self.run.home_id, operation_id__in=operations)
        return dict(found.values_list("operation_id", "data"))

    def remember(self, output: Stored) -> None:
        """Keep the output of the current operation for the steps that follow in this slice."""
        if not self.current.undoes and not self.run.branch:
            self._fresh[self.current.step.name] = output

    def waits(self) -> list[Wait]:
        """Return the commands of the current attempt, in the order in which the step returned them."""
        waits = Wait.objects.filter(
            run=self.run, operation_id=self.current.operation_id, attempt=self.run.attempt
        )
        return list(waits.order_by("index"))

    def half_done(self) -> bool:
        """Tell whether some command of the current operation has succeeded, of any attempt."""
        done = Wait.objects.filter(run=self.run, operation_id=self.current.operation_id, state=WaitState.DONE)
        return done.exclude(kind__in=("sleep", "signal", "approval")).exists()

    def touch(self, row: Step) -> Step:
        """Write the row with the next commit."""
        self.touched[row.operation_id] = row
        return row

    def turn_to(self, planned: Planned | None) -> None:
        """Make this the operation that comes next."""
        self.planned, self._row, self.resuming, self.late_by = planned, None, False, timedelta(0)
        if planned is not None:
            self.run.operation, self.run.position = planned.operation_id, planned.position
            self.run.attempt = 0

    def let_go(self, state: str, *, waiting_for: str = WaitingFor.NOTHING, wake_at: datetime | None) -> None:
        """Give the run back with the next commit; `wake_at`: from when on it may be claimed."""
        run = self.run
        keeps = run.compensating and state in (RunState.READY, RunState.WAITING)
        run.state = RunState.COMPENSATING if keeps else state
        run.waiting_for, run.wake_at, run.lease_until = waiting_for, wake_at, None
        self.planned = None

    def renew(self, at: datetime) -> None:
        self.run.lease_until = at + timedelta(seconds=self.claim.seconds)

    def lock(self) -> None:
        """Keep everybody else from the run until the transaction ends. Raises FencedError."""
        where: dict[str, Any] = (
            {"pk": self.run.pk} if fence_is_off() else {"pk": self.run.pk, "epoch": self.claim.epoch}
        )
        if not Run.objects.select_for_update(no_key=True).filter(**where).exists():
            self._lose()

    def snapshot(self) -> _Snapshot:
        columns = {name: getattr(self.run, name) for name in RUN_COLUMNS}
        head = (self.chain.seq, self.chain.hash)
        return _Snapshot(
            columns,
            head,
            self.chain.unsaved(),
            dict(self.touched),
            list(self.payloads),
            self._saved_seq,
            self.planned,
            copy.copy(self._row),
            self.handed_over,
            self.resuming,
            self.written,
            self.heir,
            self.control,
            self.clear_control,
        )

    def restore(self, before: _Snapshot) -> None:
        """Forget what happened since the snapshot: its transaction was rolled back."""
        for name, value in before.columns.items():
            setattr(self.run, name, value)
        self.chain.forget(*before.head, before.events)
        self._saved_seq = before.saved_seq
        # Copied, for what follows may change it and be rolled back, too.
        self.planned, self._row = before.planned, copy.copy(before.row)
        self.handed_over, self.resuming = before.handed_over, before.resuming
        self.written, self.heir = before.written, before.heir
        self.control, self.clear_control = before.control, before.clear_control
        self.touched, self.payloads = dict(before.touched), list(before.payloads)
        if self._row is not None and self._row.operation_id in self.touched:
            self.touched[self._row.operation_id] = self._row

    def commit(self) -> None:
        """Write everything that was changed since the last commit, if the run is still ours.

        Outside a transaction it is tried again while the lease stands: the step has been carried out, and only its
        record is missing. Raises FencedError when another worker has taken the run over; nothing is written then.
        """
        for key, value in self.chain.head().items():
            setattr(self.run, key, value)
        writes = self._writes()
        while True:
            try:
                found = self._write(writes)
                break
            except DatabaseError as error:
                if connection.in_atomic_block or not is_database_trouble(error):
                    raise
                self._ambiguous = True
                self.wait_for_database(error)
        if connection.in_atomic_block:
            crashpoint("engine.in_record")
        if not found and self._ambiguous:
            found = list(self._committed().values_list("control", flat=True))
        if not found:
            self._lose()
        self._ambiguous = False
        self._confirmed_at = time.monotonic()
        self._saved_seq = self.chain.seq
        self.news = found[0] != self.control and found[0] != Control.NONE
        self.control = found[0]
        if self.news:
            self.run.request = Run.objects.values_list("request", flat=True).get(pk=self.run.pk)
        self.clear_control = False

    def _write(self, writes: list[Upsert]) -> list[Any]:
        found = self._write_knowing(self.control, writes)
        # Where something else was asked for meanwhile, that stays as it is, and is still to be obeyed.
        return found if found or not self.control else self._write_knowing(Control.NONE, writes)

    def _write_knowing(self, control: str, writes: list[Upsert]) -> list[Any]:
        where = {"id": self.run.pk, "epoch": self.claim.epoch, "history_seq": self._saved_seq}
        if fence_is_off():
            where = {"id": self.run.pk}
        values = {name: getattr(self.run, name) for name in RUN_COLUMNS}
        if control:
            where |= {"control": control}
            values |= {"asked": False}
            if self.clear_control:
                values |= {"control": Control.NONE, "request": None}
        return checkpoint(Run, where, values, writes, "control")

    def _writes(self) -> list[Upsert]:
        writes = [
            Upsert(list(self.touched.values()), STEP_KEY, STEP_COLUMNS),
            Upsert(self.payloads, STEP_KEY, ("data",)),
            Upsert(self.chain.take()),
        ]
        self.touched, self.payloads = {}, []
        return writes

    def wait_for_database(self, error: Exception, tries: int = 0) -> None:
        """Wait a moment for a database that is away; raises the error when the lease has run out over it.

        tries: how often one that is there has refused the same thing (a deadlock, a lock that isn't free) already.
        """
        if time.monotonic() - self._confirmed_at > self.claim.seconds or tries >= REFUSALS_MAX:
            raise error
        log.warning("record_retried", run=str(self.run.pk), error=type(error).__name__)
        connection.close()
        time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - not a secret

    def was_committed_since(self, before: _Snapshot) -> bool:
        """Tell whether the transaction begun at the snapshot was committed, though its answer was lost."""
        return self.chain.seq != before.saved_seq and self.was_committed()

    def was_committed(self) -> bool:
        """Tell whether a commit whose answer was lost had succeeded: the run then shows the last event we made."""
        return self._committed().exists()

    def _committed(self) -> "QuerySet[Run]":
        return Run.objects.filter(pk=self.run.pk, epoch=self.claim.epoch, history_hash=self.chain.hash)

    def _lose(self) -> None:
        self.claim.lost = True
        log.warning("fenced", row=str(self.run.pk), model="workflows.Run", epoch=self.claim.epoch)
        raise FencedError(f"run {self.run.pk} was taken over by another worker")


def _branch_of(run: Run, operation: str) -> Run:
    """Return the branch that carried the operation out: of this run, or of the one that it was forked from."""
    found = Run.objects.filter(parent=run, branch=operation).first()
    if found is None:
        assert run.forked_from is not None, f"{operation} of run {run.pk} has a branch"
        return _branch_of(run.forked_from, operation)
    return found


def is_database_trouble(error: Exception) -> bool:
    """Tell whether the database, not the statement, is at fault: trying again may help.

    A session that the server ended reports an internal error, as does the misuse of a failed transaction.
    """
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return isinstance(error, InternalError) and is_disconnected()


def is_away(error: Exception) -> bool:
    """Tell whether the database could not be reached: that says nothing about what was to be done with it."""
    return is_database_trouble(error) and is_disconnected()


def is_disconnected() -> bool:
    raw: Any = connection.connection
    return raw is None or bool(getattr(raw, "closed", False))
