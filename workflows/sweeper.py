"""Finding what nobody is looking after. Run every second or so by Celery beat; any number of them at once is harmless.

Each rule is idempotent and stands alone: an error in one, or in one row, keeps none of the others from being looked at.
"""

from collections.abc import Callable

import structlog
from django.conf import settings
from django.db.models import Q

from workflows.alerts import alert_blocked_keys, send_alerts
from workflows.clock import db_now, in_seconds
from workflows.doorbell import busy_queues, send
from workflows.engine.branches import join_forgotten
from workflows.engine.bulk import work_off_bulk
from workflows.engine.children import wake_for_lost
from workflows.engine.control import stop_overdue, wake_asked
from workflows.engine.limits import most_urgent
from workflows.engine.pauses import without_paused, yield_paused
from workflows.engine.stranded import park_stranded
from workflows.history.retention import archive_expired
from workflows.history.seals import anchor_seals, seal_events
from workflows.models import Run
from workflows.schedules.firing import fire_due_schedules
from workflows.states import CLAIMABLE, WaitingFor

log = structlog.get_logger()
BATCH_MAX = 500
RING_AGAIN_SECONDS = 10


def sweep() -> dict[str, int]:
    """Apply every rule once; return how many rows each one touched."""
    found = {}
    for name, rule in rules().items():
        try:
            found[name] = rule()
        except Exception:
            log.exception("sweep_rule_failed", rule=name)
            found[name] = -1
    return found


def rules() -> dict[str, Callable[[], int]]:
    """Return the rules by their names, in their order."""
    return {
        "asked": wake_asked,
        "joined": join_forgotten,
        "overdue": stop_overdue,
        "lost": wake_for_lost,
        "stranded": park_stranded,
        "rung": ring_due_runs,
        "yielding": yield_paused,
        "alerted": send_alerts,
        "blocked": alert_blocked_keys,
        "fired": fire_due_schedules,
        "sealed": seal_events,
        "anchored": anchor_seals,
        "decided": work_off_bulk,  # these two last, for they take their time
        "archived": archive_expired,
    }


def ring_due_runs() -> int:
    """Ring for the runs that could be claimed but were not: timers that came due, lost messages, dead workers.

    One that waits in a long queue has its message, and more of them would only make the queue longer: while a queue
    has any, its runs are rung after a longer while, and none again before that.
    """
    grace = in_seconds(-settings.WORKFLOWS["sweep_grace_seconds"])
    told = Q(wake_at__lte=grace) & (
        ~Q(queue__in=busy_queues()) | Q(wake_at__lte=in_seconds(-RING_AGAIN_SECONDS))
    )
    timers = Q(waiting_for__in=[WaitingFor.SLEEP, WaitingFor.RETRY])
    unclaimed = Q(lease_until__isnull=True) & (told | timers)
    abandoned = Q(lease_until__lt=db_now())
    silent = Q(rung_at__isnull=True) | Q(rung_at__lt=in_seconds(-RING_AGAIN_SECONDS))
    due = Run.objects.filter(
        unclaimed | abandoned, silent, state__in=sorted(CLAIMABLE), wake_at__lte=db_now()
    )
    # Nobody could claim those in a paused scope, and enough of them would fill every batch.
    return _ring(most_urgent(without_paused(due), BATCH_MAX))


def _ring(runs: list[Run]) -> int:
    rung = []
    for run in runs:
        try:
            send(run)
            rung.append(run.pk)
        except Exception:
            log.exception("run_not_rung", run=str(run.pk))
    Run.objects.filter(pk__in=rung).update(rung_at=db_now())
    return len(rung)
