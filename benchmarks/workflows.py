"""Runs of steps that do nothing: what is left is the engine."""

import types
from typing import Any

from pydantic import BaseModel

from workflows import Workflow, step

STEPS = 10
STEPS_IN_PROCESS = 200
# The run that is driven without a broker: its messages go where no worker listens.
QUEUE_IN_PROCESS = "unattended"


class Nothing(BaseModel):
    """An empty input."""


def nothing(self: Any) -> None:
    """Do nothing."""


def _noops(name: str, steps: int, queue: str) -> type[Workflow[Nothing, None]]:
    """Define a workflow of so many steps that do nothing."""
    meta = type("Meta", (), {"name": name, "version": 1, "queue": queue})
    body = {"Meta": meta, **{f"step_{number}": step(nothing) for number in range(steps)}}
    class_name = name.title().replace(".", "").replace("_", "")
    return types.new_class(class_name, (Workflow[Nothing, None],), exec_body=lambda space: space.update(body))


TenSteps = _noops("benchmark.ten_steps", STEPS, "workflows")
ManySteps = _noops("benchmark.many_steps", STEPS_IN_PROCESS, QUEUE_IN_PROCESS)
