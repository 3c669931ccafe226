"""Workflows whose steps fail when a test says so, and what drives them with all their branches and children."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel

from workflows import (
    Child,
    Command,
    CommandResult,
    Operation,
    PermanentError,
    Retry,
    Workflow,
    resolve_commands,
    step,
)
from workflows.engine.drive import advance
from workflows.engine.migration import remember
from workflows.engine.start import new_run
from workflows.engine.troubles import fingerprint_of
from workflows.history import Chain, output_digest
from workflows.models import Act, DeadLetter, Event, Run
from workflows.states import DeadLetterState, RunState

ONCE = Retry(attempts=1)


class Script:
    """What fails, by the name of a step or the id of an operation, and what was called, in its order."""

    def __init__(self) -> None:
        self.fails: dict[str, Exception] = {}
        self.called: list[str] = []

    def clear(self) -> None:
        self.fails, self.called = {}, []

    def __call__(self, operation: Operation, note: object = "") -> None:
        self.called.append(f"{operation.id} {note}".strip())
        name = operation.id.partition("#")[0]
        error = self.fails.get(operation.id) or self.fails.get(name)
        if error is not None:
            raise error


script = Script()
BY = {"actor": "ops", "reason": "the bank said so"}


class OrderInput(BaseModel):
    customer: str = "ada"
    amount: int = 1
    lines: list[str] = ["a", "b", "c"]


class Paid(BaseModel):
    receipt: str
    amount: int = 1


class Order(Workflow[OrderInput, str]):
    """Reserve, pay, ship, tell; one order at a time per customer. The first two are undone."""

    class Meta:
        name, version, queue, key = "stopped.order", 1, "workflows", "customer:{input.customer}"

    @step(retry=ONCE)
    def reserve(self, input: OrderInput, operation: Operation) -> str:
        script(operation, input.amount)
        return f"reserved {input.amount}"

    @reserve.undo(retry=ONCE)
    def release(self, reserve: str, operation: Operation) -> str:
        script(operation, reserve)
        return "released"

    @step(retry=ONCE, effect="at_most_once")
    def pay(self, input: OrderInput, reserve: str, operation: Operation) -> Paid:
        script(operation, input.amount)
        return Paid(receipt="by machine", amount=input.amount)

    @pay.undo(retry=ONCE)
    def refund(self, pay: Paid | None, operation: Operation) -> None:
        script(operation, pay.receipt if pay else None)

    @step(retry=ONCE)
    def ship(self, pay: Paid, operation: Operation) -> str | None:
        script(operation, pay.receipt)
        return "shipped"

    @step(retry=ONCE)
    def tell(self, ship: str | None, operation: Operation) -> str:
        script(operation, ship)
        return f"told: {ship}"


class Open(Order):
    """The same, but its key is given away while it waits for a person."""

    class Meta:
        name, version, key, on_dead_letter = "stopped.open", 1, "open:{input.customer}", "release"

    @step(retry=ONCE)
    def begin(self, input: OrderInput, operation: Operation) -> str:
        script(operation, input.amount)
        return "begun"

    @step(retry=ONCE)
    def end(self, begin: str, operation: Operation) -> str:
        script(operation, begin)
        return "ended"


class Lines(Workflow[OrderInput, int]):
    """Something for each line of an order, which can be undone, then a sum."""

    class Meta:
        name, version = "stopped.lines", 1

    @step(retry=ONCE)
    def begin(self, operation: Operation) -> str:
        script(operation)
        return "begun"

    @begin.undo
    def end(self, begin: str, operation: Operation) -> None:
        script(operation, begin)

    @step(each="input.lines", retry=ONCE)
    def pack(self, item: str, operation: Operation) -> str:
        script(operation, item)
        return item.upper()

    @pack.undo
    def unpack(self, item: str, operation: Operation) -> None:
        script(operation, item)

    @step(retry=ONCE)
    def count(self, pack: list[str | None], operation: Operation) -> int:
        script(operation, pack)
        return len(pack)


class Strict(Lines):
    """The same, with a sum that needs every line."""

    class Meta:
        name, version = "stopped.strict", 1

    @step(each="input.lines", retry=ONCE)
    def pack(self, item: str, operation: Operation) -> str:
        script(operation, item)
        return item.upper()

    @step(retry=ONCE)
    def count(self, pack: list[str], operation: Operation) -> int:
        return len(pack)


class Both(Workflow[OrderInput, str]):
    """Two steps at the same time."""

    class Meta:
        name, version = "stopped.both", 1

    @step(parallel=True, retry=ONCE)
    def left(self, operation: Operation) -> str:
        script(operation)
        return "left"

    @step(parallel=True, retry=ONCE)
    def right(self, operation: Operation) -> str:
        script(operation)
        return "right"

    @step
    def end(self, left: str, right: str) -> str:
        return f"{left} {right}"


class Parent(Workflow[OrderInput, str]):
    """Waits for an order."""

    class Meta:
        name, version = "stopped.parent", 1

    @step(retry=ONCE)
    def order(self, input: OrderInput) -> Child[str]:
        return Order.child(input)


class Carriage(Command):
    """A command that a test ends by hand, and that nobody can call off."""

    kind: ClassVar[str] = "carriage"
    result_type: ClassVar[Any] = str

    def submit(self, operation: Operation, index: int) -> str:
        return f"{operation.key}/{index}"


class Sent(Workflow[OrderInput, str]):
    """Waits for a carriage that can't be called off."""

    class Meta:
        name, version = "stopped.sent", 1

    @step
    def send(self) -> Carriage:
        return Carriage()

    @send.undo
    def fetch_back(self, send: str | None, operation: Operation) -> None:
        script(operation, send)

    @step
    def end(self, send: str) -> str:
        return send


def arrive(run: Run) -> None:
    """End what the run waits for."""
    references = run.waits.filter(kind="carriage").values_list("reference", flat=True)
    resolve_commands("carriage", {reference: CommandResult(value="there") for reference in references})


def broken(code: str = "BROKEN", message: str = "it does not work today") -> Exception:
    """What a step raises that stops its run for a person: nobody foresaw it."""
    return type(code, (RuntimeError,), {})(message)


def refused() -> Exception:
    return PermanentError("REFUSED", "the counterparty refused")


def drive_all(seconds: float = 10) -> None:
    """Advance every live run until none of them can go on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = _live()
        for run_id, _ in before:
            advance(run_id)
        if _live() == before:
            return
    raise AssertionError(f"still going on: {_live()}")


def _live() -> list[Any]:
    return list(Run.objects.filter(finished_at__isnull=True).order_by("pk").values_list("pk", "history_seq"))


def the_letter(run: Run | None = None) -> DeadLetter:
    """Return the one open dead letter (of the run)."""
    letters = DeadLetter.objects.filter(state=DeadLetterState.OPEN)
    return (letters.filter(run=run) if run else letters).select_related("run").get()


def stop_at(name: str, start: Callable[[], Run] | None = None, error: Exception | None = None) -> Run:
    """Start a run (an order) and drive it until it stops at the step; the step works again afterwards."""
    script.fails = {name: error or broken()}
    run = start() if start else Order.start(OrderInput())
    drive_all()
    script.fails = {}
    run.refresh_from_db()
    assert the_letter().operation_id.startswith(name), the_letter()
    return run


def finished(run: Run) -> Run:
    """Drive everything and return the run as it ended."""
    drive_all()
    run.refresh_from_db()
    assert run.finished_at is not None, f"{run.state} at {run.operation}"
    return run


def states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


def kinds(run: Run) -> list[str]:
    return list(run.events.order_by("seq").values_list("kind", flat=True))


def stop_many(count: int, operation: str = "reserve#0") -> None:
    """Insert orders that stopped at a step, as their workers would have left them, a thousand at a time."""
    for start in range(0, count, 1000):
        runs, events, letters = [], [], []
        for number in range(start, min(start + 1000, count)):
            run = new_run(
                Order.definition,
                input=OrderInput().model_dump(),
                input_hash=output_digest(OrderInput().model_dump()),
                state="DEAD_LETTER",
                operation=operation,
                attempt=1,
            )
            run.wake_at = None
            chain = Chain(run)
            chain.add("run_started", run.created_at, input=run.input_hash)
            error = {"code": "BROKEN", "message": f"no answer within {number} s"}
            chain.add("dead_letter_opened", run.created_at, step=operation, **error)
            run.history_seq, run.history_hash = chain.seq, chain.hash
            runs.append(run)
            events += chain.take()
            alike = fingerprint_of(run.workflow, "reserve", "retries_exhausted", error)
            letters.append(
                DeadLetter(
                    run=run,
                    workflow=run.workflow,
                    operation_id=operation,
                    reason="retries_exhausted",
                    error=error,
                    fingerprint=alike,
                    alerted_at=run.created_at,
                )
            )
        remember(Order.definition)
        Run.objects.bulk_create(runs)
        Event.objects.bulk_create(events)
        DeadLetter.objects.bulk_create(letters)


def nothing_changed(run: Run) -> bool:
    before = run.history_seq
    run.refresh_from_db()
    return (
        run.state == RunState.DEAD_LETTER
        and run.lease_until is None
        and run.history_seq == before
        and the_letter().resolved_at is None
        and not Act.objects.exists()
    )
