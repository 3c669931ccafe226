"""What people may do to a queue, a workflow or a key: pause and resume it, and limit it."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from workflows.clock import db_now, now
from workflows.doorbell import ring_all
from workflows.engine.acts import note_act
from workflows.engine.limits import held_in, in_scope, runs_in
from workflows.models import Limit, Run
from workflows.states import CLAIMABLE, Control

KINDS = ("queue", "workflow", "key")
RING_FIRST = 100  # the others are found by the sweep, or by those who leave a place


def pause_scope(scope: str, *, actor: str, reason: str) -> Limit:
    """Keep the runs of a scope (`queue:…`, `workflow:…`, `key:…`) from going on. They keep their places.

    A step at hand is finished; its worker lets go of the run at the next commit. Timers keep their instants.
    """
    with transaction.atomic():
        limit = _change(scope, actor, reason, paused=True)
        note_act(actor, "pause", scope, reason)
        have_them_yield(scope)
    return limit


def resume_scope(scope: str, *, actor: str, reason: str) -> None:
    """Let the runs of a paused scope go on where they were."""
    with transaction.atomic():
        _change(scope, actor, reason, paused=False)
        note_act(actor, "resume", scope, reason)
        _forget_idle(scope)
        due = runs_in(scope).filter(
            lease_until__isnull=True, wake_at__lte=db_now(), state__in=sorted(CLAIMABLE)
        )
        ring_all(due.order_by("-priority", "wake_at")[:RING_FIRST])


def set_limit(
    scope: str,
    *,
    concurrency: int | None = None,
    rate: int | None = None,
    per_seconds: int = 1,
    actor: str,
    reason: str,
) -> Limit | None:
    """Limit how many runs of a scope go on at once, and how many are taken up in so many seconds; None: not at all.

    Returns the limit, or None when nothing is limited any more. A pause stays as it is.
    """
    if concurrency == 0 or rate == 0 or per_seconds < 1:
        raise ValueError("a limit is at least 1 per second or longer; to stop everything, pause the scope")
    with transaction.atomic():
        limit = _change(scope, actor, reason, concurrency=concurrency, rate=rate, per_seconds=per_seconds)
        details = {"concurrency": concurrency, "rate": rate, "per_seconds": per_seconds}
        note_act(actor, "limit", scope, reason, **details)
        return None if _forget_idle(scope) else limit


def have_them_yield(scope: str) -> int:
    """Ask the workers that hold runs of a paused scope to let go of them at their next commit."""
    return held_in(scope).filter(control=Control.NONE).update(control=Control.YIELD, asked=True)


def yield_paused() -> int:
    """Do so for runs that were claimed in the moment in which their scope was paused. For the sweeper."""
    return sum(have_them_yield(scope) for scope in paused_scopes())


def paused_scopes() -> list[str]:
    return list(Limit.objects.filter(paused=True).values_list("scope", flat=True))


def without_paused(runs: "QuerySet[Run]") -> "QuerySet[Run]":
    """Return those of the runs that no pause holds back."""
    for scope in paused_scopes():
        runs = runs.exclude(in_scope(scope))
    return runs


def _change(scope: str, actor: str, reason: str, **columns: Any) -> Limit:
    kind, _, name = scope.partition(":")
    if kind not in KINDS or not name:
        raise ValueError(f"{scope!r} is no scope: write {', '.join(f'{each}:…' for each in KINDS)}")
    columns |= {"reason": reason, "changed_by": actor[:100], "changed_at": now()}
    limit, _ = Limit.objects.update_or_create(scope=scope, defaults=columns)
    return limit


def _forget_idle(scope: str) -> bool:
    """Remove a row that limits nothing: while one names a scope, each claim in it takes the longer way."""
    idle = Limit.objects.filter(scope=scope, paused=False, concurrency__isnull=True, rate__isnull=True)
    return idle.delete()[0] > 0
