"""Having a step fail before its code runs, as often as a test says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workflows.definition import Workflow, definitions
from workflows.errors import TransientError
from workflows.steps import Body, StepDefinition


@dataclass
class Failure:
    """What is to happen to a step: it fails so many times more."""

    step: str
    left: int
    error: Exception | type[Exception]


class Failures:
    """The failures that a test has asked for. They replace the steps' bodies while it runs."""

    def __init__(self) -> None:
        self._asked: list[Failure] = []
        self._bodies: list[tuple[StepDefinition, Body]] = []

    def ask(
        self,
        step: str,
        times: int,
        error: Exception | type[Exception] | None,
        workflow: type[Workflow[Any, Any]] | None,
    ) -> None:
        found = [each for name, each in _steps(workflow) if name == step]
        if not found:
            known = sorted({name for name, _ in _steps(workflow)})
            raise LookupError(f"there is no step {step!r}; there are {', '.join(known)}")
        default = TransientError("INJECTED_FAILURE", f"the test has {step} fail")
        failure = Failure(step, times, error or default)
        self._asked.append(failure)
        for each in found:
            self._bodies.append((each, each.body))
            _set_body(each, _failing(each.body, failure))

    def restore(self) -> None:
        """Give the steps their own bodies back."""
        for each, body in reversed(self._bodies):
            _set_body(each, body)
        self._bodies = []

    def require_struck(self) -> None:
        """Raise AssertionError for a failure that never happened: the test then shows less than it says."""
        idle = [f"{each.step} ({each.left} more)" for each in self._asked if each.left > 0]
        if idle:
            raise AssertionError(f"steps that were to fail have not been reached as often: {', '.join(idle)}")


def _steps(workflow: type[Workflow[Any, Any]] | None) -> Iterator[tuple[str, StepDefinition]]:
    """Yield each step under its name, its undo as `pay.undo` and its verifier as `pay.verify`."""
    for definition in [workflow.definition] if workflow else definitions():
        for step in definition.steps:
            yield step.name, step
            if step.undo:
                yield f"{step.name}.undo", step.undo
            if step.verifier:
                yield f"{step.name}.verify", step.verifier


def _failing(body: Body, failure: Failure) -> Body:
    def fail_first(*arguments: Any, **named: Any) -> Any:
        if failure.left > 0:
            failure.left -= 1
            raise failure.error
        return body(*arguments, **named)

    return fail_first


def _set_body(step: StepDefinition, body: Body) -> None:
    object.__setattr__(step, "body", body)  # a definition is frozen for everybody else
