"""Pauses, and limits on how many runs go on at once and how often one is taken up: for a queue, a workflow or a key.

A run that is limited by nothing pays nothing: its claim only finds that no row names it. Otherwise the rows are locked
for the moment of the claim, so that two workers can't both take the last place.
"""

from collections.abc import Callable
from datetime import timedelta

from django.db import transaction
from django.db.models import Q, QuerySet

from workflows.clock import db_now, now
from workflows.models import Limit, Run, Turn
from workflows.states import CLAIMABLE, HELD


def scopes_of(run: Run) -> list[str]:
    """Return the scopes whose limits the run is under."""
    scopes = [f"queue:{run.queue}", f"workflow:{run.workflow}"]
    return [*scopes, f"key:{run.object_key}"] if run.object_key else scopes


def runs_in(scope: str) -> "QuerySet[Run]":
    """Return the runs that a scope's limits are about."""
    return Run.objects.filter(in_scope(scope), finished_at__isnull=True)


def held_in(scope: str) -> "QuerySet[Run]":
    """Return the runs of a scope that some worker holds."""
    return runs_in(scope).filter(state__in=sorted(HELD), lease_until__gt=db_now())


def in_scope(scope: str) -> Q:
    kind, _, name = scope.partition(":")
    column = {"queue": "queue", "workflow": "workflow", "key": "object_key"}[kind]
    return Q(**{column: name})


def claim_within(run: Run, claim: Callable[[], Run | None]) -> Run | None:
    """Claim a run whose scopes have limits, if all of them admit it."""
    with transaction.atomic():
        # The lock makes the counts below true until this commits.
        limits = list(Limit.objects.select_for_update().filter(scope__in=scopes_of(run)).order_by("scope"))
        for limit in limits:
            if limit.paused or _is_full(limit):
                return None
            if not _has_turn(limit, run):
                return None
        claimed = claim()
        if claimed is not None:
            turns = [Turn(scope=limit.scope, at=now()) for limit in limits if limit.rate is not None]
            Turn.objects.bulk_create(turns)
            claimed.limited = True
        return claimed


def _is_full(limit: Limit) -> bool:
    if limit.concurrency is None:
        return False
    return held_in(limit.scope).count() >= limit.concurrency


def _has_turn(limit: Limit, run: Run) -> bool:
    """Tell whether the window has a turn left; if not, put the run off until it has."""
    if limit.rate is None:
        return True
    window = timedelta(seconds=limit.per_seconds)
    turns = Turn.objects.filter(scope=limit.scope)
    turns.filter(at__lte=now() - window).delete()
    taken = list(turns.order_by("-at")[: limit.rate].values_list("at", flat=True))
    if len(taken) < limit.rate:
        return True
    unclaimed = Run.objects.filter(pk=run.pk, lease_until__isnull=True, state__in=sorted(CLAIMABLE))
    unclaimed.filter(wake_at__lte=db_now()).update(wake_at=taken[-1] + window)
    return False


def next_in_line(scopes: list[str]) -> Run | None:
    """Return a run that waits for a place in one of these scopes, to be rung when a place becomes free."""
    limited = Limit.objects.filter(scope__in=scopes, paused=False).values_list("scope", flat=True)
    waiting = Q(lease_until__isnull=True, wake_at__lte=db_now(), state__in=sorted(CLAIMABLE))
    for scope in limited:
        for run in most_urgent(runs_in(scope).filter(waiting), 1):
            return run
    return None


def most_urgent(due: "QuerySet[Run]", count: int) -> list[Run]:
    """Return so many of the due runs: by their priority, and then those that have waited longest.

    Asked separately for those that have a priority: then each half is read in the order of an index, and no further
    than that many, however long the queue is.
    """
    found = list(due.filter(priority__gt=0).order_by("-priority", "wake_at")[:count])
    return found + list(due.filter(priority=0).order_by("wake_at")[: count - len(found)])
