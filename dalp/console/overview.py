"""The first page of the console: is anything wrong, and where."""

from typing import Any
from urllib.parse import urlencode

import redis
from django.db.models import Count, Model
from django.http import HttpRequest
from django.urls import reverse

from dalp import heartbeat
from signer.models import Lane, Transaction
from signer.states import LaneState, TransactionState
from workflows.models import DeadLetter, Run
from workflows.schedules.models import Schedule
from workflows.states import TERMINAL, DeadLetterState, RunState

BAD = {"DEAD_LETTER", "FAILED"}
RECENT_RUNS = 8


def listed(view: str, **filters: str) -> str:
    """Return the address of a list with these filters set."""
    return f"{reverse(view)}?{urlencode(filters)}"


def counts(model: type[Model], view: str, states: list[str]) -> list[dict[str, Any]]:
    """Return the rows of each state that has any, linked to their list, in the order of `states`."""
    found = dict(model._default_manager.values_list("state").annotate(count=Count("pk")).order_by())
    return [
        {"state": state, "count": found[state], "bad": state in BAD, "link": listed(view, state__exact=state)}
        for state in states
        if state in found
    ]


def beat_age() -> str:
    """Return when the last sweep ran, in words."""
    try:
        age = heartbeat.age_seconds()
    except redis.RedisError:
        return "Redis does not answer"
    return "no sweep yet" if age is None else f"{age:.0f} s ago"


def alarms() -> list[dict[str, str]]:
    """Return what needs a person now, worst first; empty when all is well."""
    found = []
    letters = DeadLetter.objects.filter(state=DeadLetterState.OPEN).count()
    if letters:
        link = listed("admin:workflows_deadletter_changelist", state__exact="OPEN")
        found.append(
            {"text": f"{letters} dead letter{'s' * (letters > 1)} waiting for a decision", "link": link}
        )
    for lane in Lane.objects.filter(state=LaneState.BLOCKED)[:10]:
        link = reverse("admin:signer_lane_change", args=[lane.pk])
        found.append({"text": f"lane {lane} is blocked: {lane.blocked_reason}", "link": link})
    for schedule in Schedule.objects.filter(enabled=True, last_error__isnull=False)[:10]:
        link = reverse("admin:workflows_schedule_change", args=[schedule.pk])
        code = (schedule.last_error or {}).get("code")
        found.append({"text": f"schedule {schedule.name} could not start its last run: {code}", "link": link})
    age = beat_age()
    late = not age.endswith("ago") or float(age.split()[0]) > heartbeat.LATE_SECONDS
    if late:
        found.append({"text": f"beat or the workers are down: last sweep: {age}", "link": ""})
    return found


def recent_runs() -> list[dict[str, Any]]:
    """Return the newest runs."""
    return [
        {
            "link": reverse("admin:workflows_run_change", args=[run.pk]),
            "workflow": run.workflow,
            "id": str(run.pk),
            "state": run.state,
            "bad": run.state in BAD,
            "created_at": run.created_at,
        }
        for run in Run.objects.order_by("-id")[:RECENT_RUNS]
    ]


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the overview to the index page, for those who may see runs and transactions."""
    user = request.user
    if not user.is_authenticated or not user.has_perms(["workflows.view_run", "signer.view_transaction"]):
        return context
    active = [state for state in RunState.values if state not in TERMINAL]
    ended = [state for state in RunState.values if state in TERMINAL]
    return {
        **context,
        "title": "Overview",
        "overview": {
            "alarms": alarms(),
            "beat": beat_age(),
            "runs": counts(Run, "admin:workflows_run_changelist", [*active, *ended]),
            "transactions": counts(
                Transaction, "admin:signer_transaction_changelist", TransactionState.values
            ),
            "recent": recent_runs(),
        },
    }
