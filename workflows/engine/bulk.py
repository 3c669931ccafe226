"""One decision about many dead letters: frozen as a list, worked off at a pace, item by item, by whoever sweeps.

An item's decision and its outcome are one transaction, so a worker may die on either side of it: what is PENDING has not
happened, what is DONE has. The job's row is locked for that moment by its claim, so that two workers never deal with the
same job, and nothing happens after a stop.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import DatabaseError, connection, transaction
from django.db.models import Count, QuerySet

from workflows import clock
from workflows.bulk import BulkItem, BulkJob
from workflows.crashpoints import crashpoint
from workflows.engine import decisions
from workflows.engine.acts import note_act
from workflows.engine.replay import replay_dead_letter
from workflows.errors import FencedError, NotPossibleError, WorkflowError
from workflows.history import output_digest
from workflows.leases import Claim, claim, release
from workflows.models import DeadLetter
from workflows.states import DeadLetterState

log = structlog.get_logger()

crashpoint.register("bulk.before_item", "a bulk job's item is next, nothing of it has happened")
crashpoint.register("bulk.in_item", "inside the transaction that decides about an item of a bulk job")
crashpoint.register("bulk.after_item", "an item of a bulk job is committed, the next one not begun")

ACTIONS: dict[str, Callable[..., DeadLetter]] = {
    "replay": replay_dead_letter,
    "complete": decisions.complete_dead_letter,
    "skip": decisions.skip_dead_letter,
    "compensate": decisions.compensate_dead_letter,
    "discard": decisions.discard_dead_letter,
    "kill": decisions.kill_dead_letter,
}
PER_SECOND = 50
FREEZE_CHUNK = 10_000
BATCH = 100
LEASE_SECONDS = 15
PASS_SECONDS = 0.5  # of a sweep, in which the other rules wait
BURST = timedelta(seconds=1)  # what a job that was not worked at may catch up: the time between two sweeps


def start_bulk(
    action: str,
    letters: "QuerySet[DeadLetter]",
    *,
    actor: str,
    reason: str,
    parameters: dict[str, Any] | None = None,
    per_second: int = PER_SECOND,
) -> BulkJob:
    """Begin to decide about all of these dead letters that are open now, so many per second; return the job.

    action: of ACTIONS; parameters: `{"value": …}` for "complete". Those that open later are not in the list.
    Raises NotPossibleError: no such action, or nothing to decide about.
    """
    if action not in ACTIONS or per_second < 1:
        raise NotPossibleError(
            f"{action!r} at {per_second} per second: one of {', '.join(ACTIONS)}, at least 1"
        )
    at = clock.now()
    with transaction.atomic():
        job = BulkJob.objects.create(
            action=action,
            parameters=parameters or {},
            actor=actor[:100],
            reason=reason,
            per_second=per_second,
            next_at=at,
            created_at=at,
        )
        job.total = _freeze(job, letters)
        if job.total == 0:
            raise NotPossibleError("none of these dead letters is open")
        job.save(update_fields=["total"])
        # A value may be of a sensitive field: the record says which it was, and doesn't show it.
        digests = {f"{name}_digest": output_digest(value) for name, value in job.parameters.items()}
        note_act(actor, f"bulk_{action}", f"bulk:{job.pk}", reason, count=job.total, **digests)
    return job


def _freeze(job: BulkJob, letters: "QuerySet[DeadLetter]") -> int:
    """Insert an item for each open letter, inside the database; return how many."""
    chosen = letters if letters.query.is_sliced else letters.order_by()
    wanted = DeadLetter.objects.filter(state=DeadLetterState.OPEN, pk__in=chosen.values("pk"))
    total, last = 0, None
    while True:
        chunk = wanted if last is None else wanted.filter(pk__gt=last)
        count = _insert(job, chunk.order_by("pk")[:FREEZE_CHUNK])
        total += count
        if count < FREEZE_CHUNK:
            return total
        last = job.items.order_by("-dead_letter_id").values_list("dead_letter_id", flat=True)[0]


def _insert(job: BulkJob, chunk: "QuerySet[DeadLetter]") -> int:
    select, parameters = chunk.values("pk").query.sql_with_params()
    own = BulkItem._meta.get_field("job").get_db_prep_save(job.pk, connection)
    sql = f"""INSERT INTO workflows_bulkitem (job_id, dead_letter_id, state, detail)
        SELECT %s, chosen.id, 'PENDING', '' FROM ({select}) AS chosen (id)"""  # noqa: S608 - our own names
    if connection.vendor != "postgresql":
        sql = sql.replace("chosen.id", "chosen.pk").replace(" AS chosen (id)", " AS chosen")
    with connection.cursor() as cursor:
        cursor.execute(sql, [own, *parameters])
        return int(cursor.rowcount)


def stop_bulk(job_id: Any, *, actor: str, reason: str) -> BulkJob:
    """Leave alone what the job has not come to yet. Raises BulkJob.DoesNotExist, NotPossibleError (it has ended)."""
    with transaction.atomic():
        job = BulkJob.objects.select_for_update().get(pk=job_id)
        if job.state != BulkJob.State.RUNNING:
            raise NotPossibleError(f"bulk job {job.pk} is {job.state} already")
        job.state, job.finished_at = BulkJob.State.STOPPED, clock.now()
        job.save(update_fields=["state", "finished_at"])
        note_act(actor, "stop_bulk", f"bulk:{job.pk}", reason)
    return job


def count_items(job: BulkJob) -> dict[str, int]:
    """Return how many of the job's items are in each state."""
    found = job.items.order_by().values("state").annotate(count=Count("id")).values_list("state", "count")
    return {str(state): 0 for state in BulkItem.State.values} | dict(found)


def work_off_bulk(seconds: float = PASS_SECONDS) -> int:
    """Work at the running jobs for so long, each for an equal part of it; return how many items. For the sweeper."""
    running = list(BulkJob.objects.filter(state=BulkJob.State.RUNNING).order_by("created_at"))
    return sum(_work_off(job, seconds / len(running)) for job in running)


def _work_off(job: BulkJob, seconds: float) -> int:
    held = claim(BulkJob, job.pk, LEASE_SECONDS)
    if held is None:
        return 0
    until, done = time.monotonic() + seconds, 0
    held.row.next_at = max(held.row.next_at, clock.now() - BURST)
    try:
        for item in _upcoming(held.row):
            if time.monotonic() > until or held.row.next_at > clock.now():
                break
            done += _deal_with(held, item)
        _finish(held)
        release(held)
    except FencedError:
        log.info("bulk_job_left", job=str(job.pk))
    return done


def _upcoming(job: BulkJob) -> Any:
    """Yield the items that are to be dealt with, each at most once in a pass."""
    last = 0
    while True:
        rest = job.items.filter(state=BulkItem.State.PENDING, pk__gt=last).order_by("pk")
        batch = list(rest[:BATCH])
        if not batch:
            return
        yield from batch
        last = batch[-1].pk


def _deal_with(held: Claim[BulkJob], item: BulkItem) -> int:
    job = held.row
    crashpoint("bulk.before_item")
    next_at = job.next_at + timedelta(seconds=1 / job.per_second)
    try:
        with transaction.atomic():
            _require_running(held, next_at)
            state, detail = _decide(job, item.dead_letter_id)
            BulkItem.objects.filter(pk=item.pk, state=BulkItem.State.PENDING).update(
                state=state, detail=detail, done_at=clock.db_now()
            )
            crashpoint("bulk.in_item")
    except (
        DatabaseError
    ) as error:  # a deadlock, a lost connection: nothing of it happened, the next pass tries again
        log.warning("bulk_item_put_off", job=str(job.pk), item=item.pk, error=type(error).__name__)
        if connection.in_atomic_block or not connection.is_usable():
            raise
        return 0
    job.next_at = next_at
    crashpoint("bulk.after_item")
    return 1


def _require_running(held: Claim[BulkJob], next_at: datetime) -> None:
    """Lock the job for this item. Raises FencedError when another worker has it, or somebody stopped it."""
    mine = BulkJob.objects.filter(pk=held.row.pk, epoch=held.epoch, state=BulkJob.State.RUNNING)
    if mine.update(next_at=next_at, lease_until=clock.in_seconds(LEASE_SECONDS)) == 0:
        raise FencedError(f"bulk job {held.row.pk} was stopped, or taken over by another worker")


def _decide(job: BulkJob, letter_id: Any) -> tuple[str, str]:
    """Carry the decision out; return the item's state as the dead letter shows it afterwards."""
    reason = f"{job.reason} (bulk {job.pk})"
    try:
        ACTIONS[job.action](letter_id, actor=job.actor, reason=reason, **job.parameters)
    except DatabaseError:
        raise
    except WorkflowError as error:
        return _not_done(letter_id, f"{error.code}: {error.message}")
    except DeadLetter.DoesNotExist:
        return BulkItem.State.FAILED, "it is gone"
    except Exception as error:  # one bad row must not stop the others
        log.exception("bulk_item_failed", job=str(job.pk), dead_letter=str(letter_id))
        return _not_done(letter_id, f"unforeseen: {type(error).__name__}")
    return BulkItem.State.DONE, ""


def _not_done(letter_id: Any, why: str) -> tuple[str, str]:
    letter = DeadLetter.objects.get(pk=letter_id)
    if letter.state == DeadLetterState.OPEN:
        return BulkItem.State.FAILED, why
    at = f" at {letter.resolved_at:%Y-%m-%d %H:%M:%S} UTC" if letter.resolved_at else ""
    return BulkItem.State.SKIPPED, f"{letter.resolution} by {letter.resolved_by}{at}"


def _finish(held: Claim[BulkJob]) -> None:
    if held.row.items.filter(state=BulkItem.State.PENDING).exists():
        return
    running = BulkJob.objects.filter(pk=held.row.pk, epoch=held.epoch, state=BulkJob.State.RUNNING)
    running.update(state=BulkJob.State.DONE, finished_at=clock.db_now())
