"""What a step is, as it is written (`@step`) and as the engine sees it (`StepDefinition`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from pydantic import TypeAdapter

from workflows.commands import CommandError
from workflows.retry import Retry

Effect = Literal["transactional", "idempotent", "verify", "at_most_once"]
Body = Callable[..., Any]
F = TypeVar("F", bound=Body)


class StepFailure(CommandError):  # noqa: N818 - what failed, not an exception
    """The failure that started the compensation (parameter `failure` of an undo)."""

    step: str


@dataclass(frozen=True)
class Selector:
    """A function over the input and earlier outputs, `when` or `each`: no effects, the same answer every time."""

    function: Body
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class StepDefinition:
    """A step, or the undo of one, as the engine sees it."""

    name: str
    body: Body
    effect: Effect
    retry: Retry
    queue: str
    parameters: tuple[str, ...]
    output: TypeAdapter[Any]
    output_text: str
    timeout: float | None = None
    when: Selector | None = None
    each: Selector | None = None
    item: TypeAdapter[Any] | None = None
    parallel: bool = False
    fail_fast: bool = False
    verifier: "StepDefinition | None" = None
    undo: "StepDefinition | None" = None


@dataclass(frozen=True)
class StepOptions:
    """What `@step(...)` and `@….undo(...)` were given."""

    effect: Effect = "idempotent"
    retry: Retry = field(default_factory=Retry)
    queue: str | None = None
    timeout: float | None = None
    when: Body | None = None
    each: str | Body | None = None
    parallel: bool = False
    fail_fast: bool = False
    undo: bool = True  # False: there is nothing to take back, and nobody forgot to


class Step:
    """A method marked with @step. `verify` and `undo` attach methods to it."""

    def __init__(self, body: Body, options: StepOptions) -> None:
        self.body, self.options = body, options
        self.name = body.__name__
        self.verifier: Body | None = None
        self.undoing: tuple[Body, StepOptions] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.body.__get__(instance, owner)

    def verify(self, body: F) -> F:
        """Mark the method that finds out whether the step's effect has already happened.

        It is called before every attempt but the first; it returns the step's output, or None when nothing happened.
        """
        self.verifier = body
        return body

    @overload
    def undo(self, body: F) -> F: ...

    @overload
    def undo(
        self, *, effect: Effect = "idempotent", retry: Retry | None = None, timeout: float | None = None
    ) -> Callable[[F], F]: ...

    def undo(
        self,
        body: Body | None = None,
        *,
        effect: Effect = "idempotent",
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Mark the method that takes the step back after a permanent failure further on."""

        def mark(method: Body) -> Body:
            self.undoing = (method, StepOptions(effect=effect, retry=retry or Retry(), timeout=timeout))
            return method

        return mark(body) if body is not None else mark


_marked: list[Step] = []


@contextmanager
def steps_marked() -> Iterator[list[Step]]:
    """Give the steps that were marked since the last workflow class was made: also those that another then replaced."""
    try:
        yield list(_marked)
    finally:
        _marked.clear()


@overload
def step(body: Body) -> Step: ...


@overload
def step(
    *,
    effect: Effect = "idempotent",
    retry: Retry | None = None,
    queue: str | None = None,
    timeout: float | None = None,
    when: Body | None = None,
    each: str | Body | None = None,
    parallel: bool = False,
    fail_fast: bool = False,
    undo: bool = True,
) -> Callable[[Body], Step]: ...


def step(
    body: Body | None = None,
    *,
    effect: Effect = "idempotent",
    retry: Retry | None = None,
    queue: str | None = None,
    timeout: float | None = None,
    when: Body | None = None,
    each: str | Body | None = None,
    parallel: bool = False,
    fail_fast: bool = False,
    undo: bool = True,
) -> Any:
    """Make a method a step.

    effect: what happens when a worker dies between the outside call and its record.
        transactional  the body only writes to this database; its writes commit with the checkpoint: exactly once
        idempotent     called again, with the same `operation.key`
        verify         the verifier looks first; the body is called only when it finds nothing
        at_most_once   never called again; a person decides (dead letter `uncertain`)
    queue: where it runs; the workflow's own by default.
    timeout: seconds after which an attempt is interrupted and counts as failed; a process that does not even react is
        killed some time later.
    when: a function of `input` and earlier outputs; where it returns False the step is skipped and its output is None.
    each: a list to carry the step out for, item by item, on as many workers as there are: "input.lines", the name of
        an earlier step, or a function as of `when`. The method's parameter `item` receives one; the output is the list.
    parallel: neighbours that are marked so are carried out at the same time.
    fail_fast: of a step with `each` or `parallel`: when one has failed, those that have not begun are left out.
    undo: False says that there is nothing to take back.
    """

    def mark(method: Body) -> Step:
        options = StepOptions(effect, retry or Retry(), queue, timeout, when, each, parallel, fail_fast, undo)
        marked = Step(method, options)
        _marked.append(marked)
        return marked

    return mark(body) if body is not None else mark
