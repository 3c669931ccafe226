"""The first commit of a signature: that it is allowed, and about to be asked for.

Upholds: what a backend is asked for was allowed by the policy in force, is recorded and is in the audit trail, all
committed, and none of it when one request of the batch is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Now
from django.utils import timezone

from keyguard import sealing
from keyguard.audit import chaining
from keyguard.audit.chaining import Place, place_of
from keyguard.audit.codes import digest_of
from keyguard.crashpoints import crashpoint
from keyguard.errors import ApprovalPendingError, KeyguardError, KeyguardSealedError
from keyguard.jobs import Job
from keyguard.keys import require_signs_at
from keyguard.models import Key, SigningRecord
from keyguard.policies.deciding import Asked, UndecidedError, active_policies, ask_people, decide
from keyguard.policies.facts import facts_of
from keyguard.records import Answer, intent_row, refused_job, reserve
from keyguard.refusing import RefusedError


@dataclass(frozen=True, slots=True)
class Batch:
    """What was intended, and where the trail says so."""

    ours: list[tuple[SigningRecord, Job]]  # to be asked for by whoever intended them
    others: list[tuple[SigningRecord, Job]]  # somebody else is at it, or was
    answers: dict[str, Answer]  # given before, by idempotency key
    places: dict[UUID, Place]  # where the chains of the keys ended then


def intend(jobs: Sequence[Job]) -> Batch:
    """Commit the intent to sign what of these was not asked for before. Raises RefusedError; nothing is stored then."""
    sealing.require_unsealed({job.key.backend for job in jobs})
    # durable: refuses to run inside the caller's transaction, whose rollback would forget what was signed.
    with transaction.atomic(durable=True):
        places, policy_id = _locked(jobs)
        reserved = reserve(jobs, {key_id: place.seq + 1 for key_id, place in places.items()}, policy_id)
        if reserved.ours:
            _decide([job for _, job in reserved.ours], policy_id)
            places |= _append(reserved.ours, places)
    crashpoint("keyguard.intended")
    return Batch(reserved.ours, reserved.others, reserved.answers, places)


def _locked(jobs: Sequence[Job]) -> tuple[dict[UUID, Place], UUID | None]:
    """Lock the chains of the keys; return where they end, and which policy is in force."""
    keys = {job.key.pk: job.key for job in jobs}
    chains = chaining.locked(
        keys,
        now=Now(),
        policy_id=Subquery(active_policies()[:1]),
        is_sealed=sealing.sealing_of(OuterRef("key__backend")),
    )
    for chain in chains:
        try:
            require_signs_at(chain.key, chain.now)
            if chain.is_sealed:
                raise KeyguardSealedError
        except KeyguardError as error:
            # No record: a loop that keeps asking would fill the table.
            raise RefusedError(error, chain.key, []) from None
    return {chain.key_id: place_of(chain) for chain in chains}, chains[0].policy_id


def _decide(jobs: Sequence[Job], policy_id: UUID | None) -> None:
    """Raise what the policy says about the first that it does not allow."""
    now = timezone.now()
    requests = [Asked(job.subject, job.slot, job.key, facts_of(job, now)) for job in jobs]
    try:
        decide(requests, policy_id)
    except UndecidedError as undecided:
        job, asked = jobs[undecided.place], requests[undecided.place]
        error = undecided.error
        if isinstance(error, ApprovalPendingError):
            raise RefusedError(error, job.key, [], partial(ask_people, undecided, asked)) from None
        record = refused_job(job, error.code, error.message, undecided.policy_id)
        raise RefusedError(error, job.key, [record]) from None


def _append(ours: Sequence[tuple[SigningRecord, Job]], places: dict[UUID, Place]) -> dict[UUID, Place]:
    by_key: dict[Key, list[SigningRecord]] = {}
    for record, job in ours:
        by_key.setdefault(job.key, []).append(record)
    events = []
    for key, records in by_key.items():
        rows = [intent_row(record) for record in sorted(records, key=lambda one: str(one.pk))]
        body = {"records": len(rows), "digest": digest_of(rows)}
        events.append((places[key.pk], "intended", body))
    return dict(zip((key.pk for key in by_key), chaining.append(events), strict=True))
