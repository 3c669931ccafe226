"""Moving finished runs out of the database, into archive files, once they are past their workflow's retention.

Upholds: nothing that a live run needs is ever missing (workflows.history.families); no row is deleted before the file that
holds it is on disk and proved true (workflows.history.archiving). Any number of sweepers at once is harmless.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from workflows import clock
from workflows.crashpoints import crashpoint
from workflows.definition import definitions
from workflows.engine.acts import note_act
from workflows.errors import ArchiveError, NotPossibleError
from workflows.history.archiving import archive_families
from workflows.history.families import Family, chunks, lock_families
from workflows.models import ArchivedRun, Run, Seal

log = structlog.get_logger()

crashpoint.register("history.archived", "archived runs are gone for good, nobody was told")

FAMILIES_PER_FILE = 200
EVENTS_PER_FILE = 20_000  # or a little more: a family is never divided
FAMILIES_AT_ONCE = 20
SECONDS_PER_SWEEP = 1.0
LOOK_AGAIN_SECONDS = 600.0  # at the families that could not go
PAUSE_SECONDS = 60.0  # after trouble with the disk


@dataclass
class _Place:
    """How far this process has looked through a workflow's finished runs, the oldest first, and since when."""

    after: tuple[datetime, Any] | None = None
    began: float = field(default_factory=time.monotonic)


@dataclass
class _Pause:
    until: float = 0.0


_places: dict[str, _Place] = {}
_pause = _Pause()


def archive_directory() -> Path | None:
    """Return where archives are kept (DALP_ARCHIVE_DIR), or None: then nothing is archived."""
    directory = getattr(settings, "DALP_ARCHIVE_DIR", "")
    return Path(directory) if directory else None


def archive_expired() -> int:
    """Archive runs that are past their retention; return how many. For the sweeper."""
    directory, began, archived = archive_directory(), time.monotonic(), 0
    if directory is None or began < _pause.until:
        return 0
    for definition in definitions():
        place = _places.setdefault(definition.name, _Place())
        while definition.retention_days is not None and time.monotonic() - began < SECONDS_PER_SWEEP:
            candidates = _candidates(definition.name, definition.retention_days, place)
            if not candidates:
                break
            try:
                archived += _archive(directory, candidates, place)
            except OSError:  # no room, no permission, no such disk: it won't be better in a second
                _pause.until = began + PAUSE_SECONDS
                raise
    return archived


def _candidates(workflow: str, days: int, place: _Place) -> list[Run]:
    """Return the oldest heads of families behind the place that was reached; at its end begin anew after a while.

    What is passed over once, because it may not go yet, does not stand in the way of what comes after it.
    """
    last = Seal.objects.order_by("-number").first()
    if last is None:
        return []
    rows = Run.objects.filter(
        workflow=workflow,
        finished_at__lte=min(clock.now() - timedelta(days=days), last.sealed_at),
        parent__isnull=True,
        forked_from__isnull=True,
        legal_hold=False,
    )
    if place.after is not None:
        at, pk = place.after
        rows = rows.filter(Q(finished_at__gt=at) | Q(finished_at=at, pk__gt=pk))
    found = list(rows.only("finished_at").order_by("finished_at", "pk")[:FAMILIES_PER_FILE])
    if not found and place.after and time.monotonic() - place.began > LOOK_AGAIN_SECONDS:
        place.after, place.began = None, time.monotonic()
    return found


def _archive(directory: Path, candidates: list[Run], place: _Place) -> int:
    """Archive what may go of the candidates, in one file; return how many runs that were."""
    with transaction.atomic():
        families, reached = _choose(candidates)
        archived = _archive_together(directory, families)
    if archived:
        crashpoint("history.archived")
    assert reached.finished_at is not None
    place.after = reached.finished_at, reached.pk
    return archived


def _choose(candidates: list[Run]) -> tuple[list[Family], Run]:
    """Lock families until they fill a file; return them and the last candidate that was looked at."""
    families: list[Family] = []
    reached = candidates[-1]
    for chunk in chunks(candidates, FAMILIES_AT_ONCE):
        families += lock_families([run.pk for run in chunk])
        reached = chunk[-1]
        if sum(family.events for family in families) >= EVENTS_PER_FILE:
            break
    return families, reached


def _archive_together(directory: Path, families: list[Family]) -> int:
    """Archive the families in one file; where one of them can't be, each in its own, and leave that one out."""
    if not families:
        return 0
    try:
        with transaction.atomic():
            name = archive_families(directory, families)
    except (ArchiveError, IntegrityError) as error:
        if len(families) > 1:
            return sum(_archive_together(directory, [family]) for family in families)
        log.exception("run_not_archived", run=str(families[0].members[0].pk), error=str(error))
        return 0
    count = sum(len(family.members) for family in families)
    log.info("runs_archived", file=name, runs=count)
    return count


def set_legal_hold(run_id: Any, on: bool, *, actor: str, reason: str) -> Run:
    """Keep a run, and with it its family, from being archived and deleted, or let it go again.

    Raises Run.DoesNotExist, or NotPossibleError when it is archived already: restore it, which puts it on hold.
    """
    with transaction.atomic():
        try:
            run = Run.objects.select_for_update(no_key=True).get(pk=run_id)
        except Run.DoesNotExist:
            raise _archived(run_id) or Run.DoesNotExist(f"there is no run {run_id}") from None
        if run.legal_hold != on:
            Run.objects.filter(pk=run.pk).update(legal_hold=on)
            note_act(actor, "hold" if on else "release", f"run:{run.pk}", reason)
            run.legal_hold = on
    return run


def _archived(run_id: Any) -> NotPossibleError | None:
    archived = ArchivedRun.objects.filter(run_id=run_id).order_by("-pk").first()
    if archived is None:
        return None
    return NotPossibleError(f"run {run_id} is archived in {archived.file}; restore it, which puts it on hold")
