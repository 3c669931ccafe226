"""The sweeper's rule for schedules: each instant starts one run, whoever dies or comes twice.

A turn is one transaction: `next_at` moves on (if it still is what was read), the tick is written, the run is started. Killed
before the commit, nothing of it exists and the next sweep takes the same turn; killed after it, the run is there and
the sweeper rings for it. Two sweepers at one schedule: one update finds its row, the other finds it moved.

A run that cannot be started is the tick's failure, recorded with it; trouble with the database is not, it rolls back the turn.
"""

from collections import deque
from datetime import UTC, datetime
from typing import Any

import structlog
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F

from workflows import clock
from workflows.crashpoints import crashpoint
from workflows.engine.outcomes import describe
from workflows.engine.start import start_workflow
from workflows.errors import InvalidInputError
from workflows.models import Run
from workflows.schedules.catch_up import Turn, take_turn
from workflows.schedules.checks import by_field
from workflows.schedules.cron import CronError
from workflows.schedules.models import Schedule, Tick, TickOutcome

log = structlog.get_logger()

SCOPE = "schedule"
SCHEDULES_MAX = 500
# What is left to catch up on after a long pause starts in portions, one per sweep.
TURNS_MAX = 100

crashpoint.register("schedules.in_turn", "a tick and its run are written, not committed")
crashpoint.register("schedules.after_turn", "a tick and its run are committed, nobody was told")


def fire_due_schedules() -> int:
    """Take the turns that are due; return how many were taken.

    Each schedule takes one turn, and then those that are behind take another in rotation: a long backlog keeps nobody waiting.
    """
    now = clock.now()
    due = Schedule.objects.filter(enabled=True, next_at__lte=now).order_by("next_at")
    waiting = deque(due.values_list("pk", flat=True)[:SCHEDULES_MAX])
    taken = 0
    for _ in range(max(TURNS_MAX, len(waiting))):
        if not waiting:
            break
        schedule = waiting.popleft()
        try:
            behind = fire_next(schedule, now)
        except Exception:  # one bad row must not keep the others from their time
            log.exception("schedule_not_fired", schedule=schedule)
            continue
        taken += behind is not None
        if behind:
            waiting.append(schedule)
    return taken


def fire_next(pk: int, now: datetime) -> bool | None:
    """Take one turn of a schedule; return whether it is still behind, None when somebody else took the turn."""
    schedule = Schedule.objects.filter(pk=pk, enabled=True, next_at__lte=now).first()
    if schedule is None or schedule.next_at is None:
        return None
    due, unreadable = schedule.next_at, None
    try:
        turn = take_turn(schedule.catch_up, schedule.instants, due, now)
    except CronError as error:  # the zone is gone, or somebody wrote past `clean`: stop it, and say so
        turn, unreadable = Turn(False, 0, None), {"code": "SCHEDULE_UNREADABLE", "message": str(error)}
    with transaction.atomic():
        if not _advance(schedule, turn.next_at):
            return None
        late = (now - due).total_seconds()
        if not Tick.objects.filter(schedule=schedule, due_at=due).exists():
            _record(schedule, turn, Tick(schedule=schedule, due_at=due, late_by_seconds=late), unreadable)
        transaction.on_commit(lambda: crashpoint("schedules.after_turn"))
        crashpoint("schedules.in_turn")
    return turn.next_at is not None and turn.next_at <= now


def _advance(schedule: Schedule, next_at: datetime | None) -> bool:
    """Move on from the instant that is due, unless another sweeper has, or a person has changed the schedule since."""
    unchanged = Schedule.objects.filter(
        pk=schedule.pk, enabled=True, next_at=schedule.next_at, updated_at=schedule.updated_at
    )
    return unchanged.update(next_at=next_at, last_at=F("next_at")) == 1


def _record(schedule: Schedule, turn: Turn, tick: Tick, error: dict[str, Any] | None) -> None:
    if turn.fires:
        tick.run, error = _start(schedule, tick.due_at)
    tick.error, tick.missed = error, turn.missed
    tick.outcome = (
        TickOutcome.SKIPPED if turn.missed else TickOutcome.FAILED if error else TickOutcome.STARTED
    )
    tick.save(force_insert=True)
    if error != schedule.last_error and tick.outcome != TickOutcome.SKIPPED:
        Schedule.objects.filter(pk=schedule.pk).update(last_error=error)
    write = log.error if error else log.info
    write(
        f"schedule_tick_{tick.outcome}",
        schedule=schedule.name,
        due_at=tick.due_at.isoformat(),
        run=str(tick.run_id) if tick.run_id else None,
        missed=tick.missed,
        late_by_seconds=tick.late_by_seconds,
        **(error or {}),
    )


def _start(schedule: Schedule, due: datetime) -> tuple[Run | None, dict[str, Any] | None]:
    """Start the run of an instant; return it, or why there is none."""
    key = f"schedule:{schedule.name}:{due.astimezone(UTC).isoformat()}"
    try:
        with transaction.atomic():  # what failed half-way is undone; the tick that says so stays
            return start_workflow(schedule.workflow, schedule.input, idempotency_key=key, scope=SCOPE)[
                0
            ], None
    except (
        OperationalError,
        InterfaceError,
    ):  # the database's trouble, not the schedule's: the next sweep tries again
        raise
    except Exception as error:  # noqa: BLE001 - whatever keeps it from starting, the others must have their turn
        return None, describe_start(error)


def describe_start(error: Exception) -> dict[str, Any]:
    """Return why a run could not be started, with the fields of its input named."""
    described = describe(error)
    fields = by_field(error.errors) if isinstance(error, InvalidInputError) else []
    return {"code": described.code, "message": "; ".join([described.message, *fields])}
