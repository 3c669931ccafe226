"""What a step's code is given: its parameters are named for what they receive."""

from typing import Any

from workflows.engine.session import Session
from workflows.steps import Selector, StepFailure


def select(session: Session, selector: Selector) -> Any:
    """Return what a step's `when` or `each` says."""
    return selector.function(**arguments(session, selector.parameters))


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
