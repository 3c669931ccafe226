"""The first page of the console: is anything wrong, and where."""

from typing import Any
from urllib.parse import urlencode

import redis
from django.contrib.admin.utils import quote
from django.db.models import Count, Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.urls import reverse

from dalp import heartbeat
from dalp.console.site import open_questions
from keyguard.sealing import open_sealings
from signer.models import Incident, Lane, Transaction
from signer.states import IncidentKind, LaneState, TransactionState
from workflows.models import Approval, DeadLetter, Limit, Run, VirtualObjectState
from workflows.schedules.models import Schedule
from workflows.states import TERMINAL, DeadLetterState, RunState, WaitingFor

BAD = {"DEAD_LETTER", "FAILED"}
RECENT_RUNS = 8
SHOWN = 10  # of one kind of alarm or notice


def listed(view: str, **filters: str) -> str:
    """Return the address of a list with these filters set."""
    return f"{reverse(view)}?{urlencode(filters)}"


def counts(rows: QuerySet[Any], view: str, states: list[str]) -> list[dict[str, Any]]:
    """Return the rows of each state that has any, linked to their list, in the order of `states`."""
    found = dict(rows.values_list("state").annotate(count=Count("pk")).order_by())
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
    for seal in open_sealings():
        link = reverse("admin:keyguard_sealing_change", args=[seal.pk])
        found.append({"text": f"{seal}: they sign nothing", "link": link})
    letters = DeadLetter.objects.filter(state=DeadLetterState.OPEN).count()
    if letters:
        link = listed("admin:workflows_deadletter_changelist", state__exact="OPEN")
        found.append(
            {"text": f"{letters} dead letter{'s' * (letters > 1)} waiting for a decision", "link": link}
        )
        found += blocked_objects()
    for lane in Lane.objects.filter(state=LaneState.BLOCKED)[:SHOWN]:
        link = reverse("admin:signer_lane_change", args=[lane.pk])
        found.append({"text": f"lane {lane} is blocked: {lane.state_reason}", "link": link})
    told = Incident.objects.filter(closed_at__isnull=True).exclude(kind=IncidentKind.LANE_BLOCKED)
    for incident in told[:SHOWN]:
        link = reverse("admin:signer_incident_change", args=[incident.pk])
        found.append({"text": incident.text, "link": link})
    for schedule in Schedule.objects.filter(enabled=True, last_error__isnull=False)[:SHOWN]:
        link = reverse("admin:workflows_schedule_change", args=[schedule.pk])
        code = (schedule.last_error or {}).get("code")
        found.append({"text": f"schedule {schedule.name} could not start its last run: {code}", "link": link})
    age = beat_age()
    late = not age.endswith("ago") or float(age.split()[0]) > heartbeat.LATE_SECONDS
    if late:
        remedy = "start `celery -A dalp beat` and a worker; `manage.py doctor` says more"
        found.append({"text": f"beat or the workers are down: last sweep: {age}. Do: {remedy}", "link": ""})
    return found


def blocked_objects() -> list[dict[str, str]]:
    """Return the virtual objects that somebody waits for and whose holder waits for a person."""
    waiting = Run.objects.filter(
        object_key=OuterRef("pk"), finished_at__isnull=True, waiting_for=WaitingFor.KEY
    )
    held = VirtualObjectState.objects.filter(Exists(waiting), holder__state=RunState.DEAD_LETTER)
    return [
        {
            "text": f"{key} is held by a run that waits for a person, and others wait behind it",
            "link": reverse("admin:workflows_virtualobjectstate_change", args=[quote(key)]),
        }
        for key in held.order_by("held_since").values_list("pk", flat=True)[:SHOWN]
    ]


def notices() -> list[dict[str, str]]:
    """Return what is not wrong, and keeps work from going on all the same."""
    found = []
    for limit in Limit.objects.filter(paused=True).order_by("changed_at")[:SHOWN]:
        link = reverse("admin:workflows_limit_change", args=[quote(limit.pk)])
        found.append({"text": f"{limit.scope} is paused by {limit.changed_by}: {limit.reason}", "link": link})
    asked = Approval.objects.filter(state=Approval.State.PENDING).count()
    if asked:
        link = listed("admin:workflows_approval_changelist", state__exact="PENDING")
        found.append({"text": f"{asked} approval{'s' * (asked > 1)} waiting for votes", "link": link})
    questions = open_questions()
    if questions:
        link = listed("admin:keyguard_question_changelist", state__exact="OPEN")
        waits = "question waits" if questions == 1 else "questions wait"
        found.append(
            {
                "text": f"{questions} {waits} for people, before something is signed or a policy is put in force",
                "link": link,
            }
        )
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
        for run in Run.objects.filter(branch="").order_by("-id")[:RECENT_RUNS]
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
            "notices": notices(),
            "beat": beat_age(),
            "runs": counts(
                Run.objects.filter(branch=""), "admin:workflows_run_changelist", [*active, *ended]
            ),
            "transactions": counts(
                Transaction.objects.all(), "admin:signer_transaction_changelist", TransactionState.values
            ),
            "recent": recent_runs(),
        },
    }
