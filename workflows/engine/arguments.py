"""What a step's code is given: its parameters are named for what they receive."""

from contextlib import AbstractContextManager
from typing import Any

from django.conf import settings

from workflows.engine.session import Session
from workflows.engine.timeouts import time_limit
from workflows.steps import Selector, StepDefinition, StepFailure


def select(session: Session, step: StepDefinition, selector: Selector) -> Any:
    """Return what a step's `when` or `each` says."""
    with limit_of(step):
        return selector.function(**arguments(session, selector.parameters))


def limit_of(step: StepDefinition) -> AbstractContextManager[None]:
    """Return what keeps the code of a step from running for ever."""
    return time_limit(step.timeout or settings.WORKFLOWS["step_timeout_seconds"], step.name)


def arguments(session: Session, parameters: tuple[str, ...]) -> dict[str, Any]:
    return {name: _argument(session, name) for name in parameters}


def _argument(session: Session, name: str) -> Any:
    match name:
        case "input":
            return session.input
        case "operation":
            return session.operation
        case "failure":
            return StepFailure.model_validate(session.run.error)
        case "item":
            return session.item
        case _:
            own = session.current.undoes.partition("#")[0]
            return session.output_of(name, session.current.index if name == own else None)
