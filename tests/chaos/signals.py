"""Answering what programs wait for: each wait for a signal gets one, some of them twice, some before they wait."""

from typing import Any

from tests.chaos.programs import Program
from workflows import RunEndedError, send_signal
from workflows.models import Run, Signal, Wait
from workflows.states import WaitState


def answer_waits(limit: int = 200, **family: Any) -> int:
    """Send a signal to each step that waits for one, unless it was sent already; return how many were sent."""
    pending = Wait.objects.filter(kind="signal", state=WaitState.PENDING, **family).order_by("id")
    return sum(_answer(wait) for wait in pending[:limit])


def _answer(wait: Wait) -> int:
    run_id, _, name = wait.reference.partition("/")
    run = Run.objects.only("input").get(pk=run_id)
    return answer(run, name)


def answer(run: Run, name: str) -> int:
    """Send the signal that the program's slot waits for. The second of the same slot changes nothing."""
    program = Program.model_validate(run.input)
    path = f"{program.path}/{name}"
    if Signal.objects.filter(run=run, dedup_id=path).exists():
        return 0  # it is on its way to a race that its sleep has won
    try:
        send_signal(run.pk, name, path, dedup_id=path)
    except RunEndedError:
        return 0
    return 1


def answer_early(run: Run, program: Program) -> None:
    """Send all that the run's own slots will wait for, before they do."""
    for name, act in program.acts.items():
        if act.do in ("signal", "race"):
            answer(run, name)
            answer(run, name)
