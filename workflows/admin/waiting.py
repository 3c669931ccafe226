"""What each run waits for, with links to whatever can be done about it.

`with_waiting` reads what the sentences need with the rows, so that a page of a hundred runs asks as often as one of ten.
"""

from typing import Any

from django.contrib.admin.utils import quote
from django.db.models import CharField, Count, OuterRef, Q, QuerySet, Subquery, UUIDField, Value
from django.db.models.functions import Concat
from django.utils.html import format_html

from workflows.cells import link
from workflows.clock import now
from workflows.models import DeadLetter, Limit, Run, Step, VirtualObjectState, Wait
from workflows.states import TERMINAL, DeadLetterState, RunState, StepState, WaitingFor, WaitState

# Where the things that runs wait for are shown, by kind of command. The apps above, which this one does not know, add theirs.
REFERENCE_VIEWS: dict[str, str] = {
    "approval": "admin:workflows_approval_change",
    "run": "admin:workflows_run_change",
}
COMPLETION = "completion:"
RETRIED = (StepState.WAITING, StepState.UNDOING)


def reference_link(wait: Wait) -> str:
    """Return the thing that a wait waits for, linked to its page; of a signal, its name."""
    if wait.kind == "signal":
        return signal_name(wait)
    return link(REFERENCE_VIEWS.get(wait.kind, ""), wait.reference, wait.reference) if wait.reference else "-"


def signal_name(wait: Wait) -> str:
    """Return the name of the signal that a wait waits for."""
    return wait.reference.partition("/")[2]


def with_waiting(runs: QuerySet[Any]) -> QuerySet[Any]:
    """Return the runs with what `sentence` needs."""
    below = DeadLetter.objects.filter(run__parent=OuterRef("pk"), state=DeadLetterState.OPEN).order_by("id")
    branches = Run.objects.filter(parent=OuterRef("pk"), finished_at__isnull=True).exclude(branch="")
    count = branches.order_by().values("parent").annotate(n=Count("pk")).values("n")
    key = VirtualObjectState.objects.filter(pk=OuterRef("object_key"))
    rows: QuerySet[Any] = runs.prefetch_related("steps", "waits", "dead_letters").annotate(
        paused_scope=Subquery(_pauses().values("scope")[:1]),
        letter_below=Subquery(below.values("id")[:1], UUIDField()),
        branches_left=Subquery(count),
        key_holder=Subquery(key.values("holder_id")[:1], UUIDField()),
        key_holder_state=Subquery(key.values("holder__state")[:1]),
    )
    return rows


def sentence(run: Any) -> str:
    """Return what the run waits for, linked to where a person can decide. The run is of `with_waiting`."""
    if run.state in TERMINAL:
        return "nothing: it has ended"
    if run.state == RunState.DEAD_LETTER:
        return _person(list(run.dead_letters.all()))
    if run.state == RunState.PAUSED:
        return "somebody to resume it: this run is paused"
    if run.lease_until is not None:
        return _holder(run)
    said = _what(run)
    if run.letter_below:
        below = link("admin:workflows_deadletter_change", run.letter_below, "a dead letter below it")
        said = format_html("{}; {} waits for a person", said, below)
    if run.paused_scope:
        scope = link("admin:workflows_limit_change", quote(run.paused_scope), run.paused_scope)
        return format_html("somebody to resume {}, which is paused; then {}", scope, said)
    return said


def _pauses() -> QuerySet[Limit]:
    named = Q()
    for kind, column in (("queue", "queue"), ("workflow", "workflow"), ("key", "object_key")):
        named |= Q(scope=Concat(Value(f"{kind}:"), OuterRef(column), output_field=CharField()))
    return Limit.objects.filter(named, paused=True).order_by("scope")


def _person(letters: list[DeadLetter]) -> str:
    letter = next((each for each in letters if each.state == DeadLetterState.OPEN), None)
    if letter is None:
        return "a person"
    reason = str(letter.get_reason_display()).replace("_", " ").lower()
    code = (letter.error or {}).get("code", "")
    said = f"a person: {letter.operation_id}, {reason}" + (f" ({code})" if code else "")
    return link("admin:workflows_deadletter_change", letter.pk, said)


def _holder(run: Any) -> str:
    if run.lease_until > now():
        return f"nothing: {run.lease_owner} works on it"
    return f"the sweep: {run.lease_owner} has not renewed its lease since {run.lease_until:%H:%M:%S} UTC"


def _what(run: Any) -> str:
    """Return what it waits for when nobody holds it and nobody has paused it."""
    match run.waiting_for:
        case WaitingFor.KEY:
            return _key(run)
        case WaitingFor.BRANCHES if run.branches_left:
            return f"{run.branches_left} branch{'es' * (run.branches_left > 1)} of {run.operation}"
        case WaitingFor.COMMAND:
            return _commands([wait for wait in run.waits.all() if wait.state == WaitState.PENDING])
        case WaitingFor.RETRY:
            return _next_attempt(run, list(run.steps.all()))
        case WaitingFor.SLEEP:
            return f"the time: {run.wake_at:%Y-%m-%d %H:%M:%S} UTC" if run.wake_at else "the time"
    return "a worker to take it"


def _key(run: Any) -> str:
    if run.key_holder is None:
        return f"{run.object_key}, which nobody holds: its turn comes"
    holder = link("admin:workflows_run_change", run.key_holder, f"run {run.key_holder}")
    stopped = ", which waits for a person" if run.key_holder_state == RunState.DEAD_LETTER else ""
    return format_html("{}, held by {}{}", run.object_key, holder, stopped)


def _commands(pending: list[Wait]) -> str:
    if not pending:
        return "a worker to take it: all it waited for has come"
    if len(pending) > 1:
        return f"{len(pending)} of the {pending[0].kind}s of {pending[0].operation_id}"
    return _command(pending[0])


def _command(wait: Wait) -> str:
    until = f", until {wait.due_at:%Y-%m-%d %H:%M:%S} UTC" if wait.due_at else ""
    if wait.due_at and wait.due_at < now():
        until = ", which is overdue"
    if wait.kind == "signal":
        name = signal_name(wait)
        if name.startswith(COMPLETION):
            return f"somebody outside to complete {wait.operation_id}{until}"
        return f"the signal {name!r}, for {wait.operation_id}{until}"
    if wait.kind in REFERENCE_VIEWS and wait.reference:
        what = link(REFERENCE_VIEWS[wait.kind], wait.reference, f"the {wait.kind}")
        return format_html("{} of {}{}", what, wait.operation_id, until)
    return f"the {wait.kind} of {wait.operation_id}{until}"


def _next_attempt(run: Any, steps: list[Step]) -> str:
    step = next((each for each in reversed(steps) if each.state in RETRIED), None)
    when = f" at {run.wake_at:%H:%M:%S} UTC" if run.wake_at else ""
    if step is None:
        return f"its next attempt{when}"
    code = (step.error or {}).get("code", "")
    return f"attempt {step.attempt + 1} of {step.operation_id}{when}" + (f", after {code}" if code else "")
