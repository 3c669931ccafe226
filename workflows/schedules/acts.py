"""What people do to schedules, each with who and why; the record is written with the act."""

import uuid
from typing import Any

from django.db import transaction

from workflows.engine.acts import note_act
from workflows.engine.start import start_workflow
from workflows.errors import InvalidInputError, NotPossibleError
from workflows.models import Run
from workflows.schedules.checks import problems
from workflows.schedules.firing import SCOPE, describe_start
from workflows.schedules.models import Schedule


def note_edit(schedule: Schedule, *, actor: str, reason: str, changed: dict[str, Any]) -> None:
    """Note that a schedule was made or edited, in the transaction that stores it. changed: its new values, by column."""
    note_act(actor, "schedule_edit", target(schedule), reason, **changed)


def pause_schedule(schedule_id: Any, *, actor: str, reason: str) -> Schedule:
    """Let nothing come of a schedule until it is resumed. What would have come meanwhile is not caught up on."""
    return _switch(schedule_id, actor, reason, on=False)


def resume_schedule(schedule_id: Any, *, actor: str, reason: str) -> Schedule:
    """Let a schedule come again, from now on. Raises NotPossibleError when it could not work."""
    return _switch(schedule_id, actor, reason, on=True)


def run_schedule_now(schedule_id: Any, *, actor: str, reason: str, token: str = "") -> Run:
    """Start a run of a schedule's workflow with its input; its times stay as they are.

    token: of one and the same request; repeated, it starts nothing more.
    Raises UnknownWorkflowError, InvalidInputError and what else keeps a run from starting.
    """
    schedule = Schedule.objects.get(pk=schedule_id)
    key = f"schedule:{schedule.name}:by-hand:{(token or uuid.uuid4().hex)[:64]}"
    with transaction.atomic():
        try:
            run, created = start_workflow(schedule.workflow, schedule.input, idempotency_key=key, scope=SCOPE)
        except InvalidInputError as error:
            raise InvalidInputError(describe_start(error)["message"], error.errors) from None
        if created:
            note_act(actor, "schedule_run_now", target(schedule), reason, run=str(run.pk))
    return run


def target(schedule: Schedule) -> str:
    """Return what the acts call a schedule."""
    return f"schedule:{schedule.name}"


def _switch(schedule_id: Any, actor: str, reason: str, *, on: bool) -> Schedule:
    with transaction.atomic():
        schedule = Schedule.objects.get(pk=schedule_id)
        if on and (found := problems(schedule)):
            wrong = "; ".join(f"{field}: {' '.join(messages)}" for field, messages in found.items())
            raise NotPossibleError(f"it could not work. {wrong}")
        schedule.enabled = on
        schedule.save(update_fields=["enabled"])
        note_act(actor, "schedule_resume" if on else "schedule_pause", target(schedule), reason)
    return schedule
