"""The rows of signing: an intent before, the answer after, refusals beside; and what the audit trail says of each.

Upholds: the unique idempotency key decides who signs. Whoever inserts the intent does; the others wait on the
constraint until it is committed, and then for its answer.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.utils import timezone

from keyguard.authorizations import Authorization
from keyguard.curve import checksummed
from keyguard.errors import IdempotencyConflictError, SignatureUnderWayError, SigningDeniedError
from keyguard.ethereum import UnsignedTransaction
from keyguard.jobs import Content, Job, Request, slot_of
from keyguard.models import Key, SigningRecord
from keyguard.policies import spending
from keyguard.policies.facts import facts_of, shown
from keyguard.statements import insert_missing, write_answers
from keyguard.states import RecordState
from keyguard.typed_data import TypedData


@dataclass(frozen=True, slots=True)
class Answer:
    """A signature that has passed every check."""

    signature: bytes = field(repr=False)  # r, s, recovery id
    raw: bytes = field(repr=False)  # of a transaction alone, like its hash
    hash: str


@dataclass(frozen=True, slots=True)
class Reserved:
    """What became of the jobs of a batch."""

    answers: dict[str, Answer]  # given before, by idempotency key
    ours: list[tuple[SigningRecord, Job]]  # to be signed by whoever reserved them
    others: list[tuple[SigningRecord, Job]]  # somebody else is at it, or was


def reserve(jobs: Iterable[Job], intent_seqs: Mapping[UUID, int], policy_id: UUID | None) -> Reserved:
    """Insert the intents. intent_seqs: where the audit trail will speak of them, by key.

    Raises IdempotencyConflictError when an idempotency key was used for something else.
    """
    # In the order of the keys: two batches that share some would otherwise wait for each other for ever.
    by_key = dict(sorted(_unique(jobs).items()))
    intents = {key: _intent(job) for key, job in by_key.items()}
    for intent in intents.values():
        intent.intent_seq, intent.policy_id = intent_seqs[intent.key_id], policy_id
    inserted = insert_missing(list(intents.values()))
    reserved = Reserved({}, [], [])
    taken = {}
    for key, job in by_key.items():
        if intents[key].pk in inserted:
            reserved.ours.append((intents[key], job))
        else:
            taken[key] = job
    for record in stored(taken):
        job = taken[record.idempotency_key]
        if record.payload_hash != job.payload_hash:
            raise IdempotencyConflictError(f"{record.idempotency_key}: used for another payload or key")
        if record.state == RecordState.SIGNED:
            reserved.answers[record.idempotency_key] = answer_of(record)
        else:
            reserved.others.append((record, job))
    return reserved


def stored(idempotency_keys: Collection[str]) -> list[SigningRecord]:
    """Return what is recorded under these idempotency keys, but for refusals, which use none up."""
    if not idempotency_keys:
        return []
    rows = SigningRecord.objects.filter(idempotency_key__in=idempotency_keys)
    return list(rows.exclude(state=RecordState.REFUSED).order_by())


def write_signed(signed: Sequence[tuple[SigningRecord, Answer]], seqs: Mapping[UUID, int]) -> None:
    """Write the answers beside their intents, in one statement, or raise SignatureUnderWayError: one was taken over.

    seqs: where the audit trail speaks of the answers, by key.
    """
    columns = ("signature", "raw", "hash", "result_seq")
    rows = {
        record.pk: (answer.signature, answer.raw, answer.hash, seqs[record.key_id])
        for record, answer in signed
    }
    if write_answers(columns, rows, timezone.now()) != len(signed):
        raise SignatureUnderWayError("somebody has taken the request over: ask again")


def intent_row(record: SigningRecord) -> list[Any]:
    """Return what the audit trail says of an intent."""
    numbers = [None if number is None else str(number) for number in (record.value, record.nonce)]
    return [
        str(record.pk),
        record.idempotency_key,
        str(record.kind),
        record.payload_hash,
        record.digest,
        record.chain_id,
        record.to,
        *numbers,
        record.subject,
        record.caller,
        record.facts,
        record.policy_id and str(record.policy_id),
    ]


def signed_row(pk: UUID, answer: Answer) -> list[Any]:
    """Return what the audit trail says of an answer."""
    raw = hashlib.sha256(answer.raw).hexdigest()
    return [str(pk), answer.signature.hex(), raw, answer.hash]


def refused_row(record: SigningRecord, code: str, why: str) -> list[Any]:
    """Return what the audit trail says of a refusal."""
    return [str(record.pk), code, why]


def purpose_of(record: SigningRecord) -> str:
    """Return the name under which it counted in limits."""
    slot = slot_of(record.chain_id, record.nonce, record.payload_hash)
    return spending.purpose(record.subject, slot)


def refused_request(request: Request, key: Key, code: str) -> SigningRecord:
    """Return the record of a request that did not pass the floor; nothing in it can be relied on but the key."""
    return SigningRecord(
        idempotency_key=str(request.idempotency_key)[:255],
        key=key,
        kind=request.kind,
        state=RecordState.REFUSED,
        error=code,
    )


def refused_job(job: Job, code: str, why: str = "", policy_id: UUID | None = None) -> SigningRecord:
    """Return the record of a job that was refused after the floor."""
    record = _intent(job)
    record.state, record.error, record.why = RecordState.REFUSED, code, why[:300]
    record.policy_id, record.facts = policy_id, _shown(job)
    return record


def _unique(jobs: Iterable[Job]) -> dict[str, Job]:
    unique: dict[str, Job] = {}
    for job in jobs:
        if unique.setdefault(job.idempotency_key, job).payload_hash != job.payload_hash:
            raise IdempotencyConflictError(
                f"{job.idempotency_key}: twice in this batch, with different payloads"
            )
    return unique


def _intent(job: Job) -> SigningRecord:
    return SigningRecord(
        idempotency_key=job.idempotency_key,
        key=job.key,
        kind=job.kind,
        state=RecordState.INTENT,
        payload_hash=job.payload_hash,
        digest=f"0x{job.digest.hex()}",
        subject=job.subject,
        caller=job.caller,
        facts=None if isinstance(job.content, UnsignedTransaction) else _shown(job),
        **_facts(job.content),
    )


def _shown(job: Job) -> dict[str, Any]:
    return shown(facts_of(job, timezone.now()))


def _facts(content: Content) -> dict[str, Any]:
    """Return what the record says of the content besides its digest."""
    match content:
        case UnsignedTransaction():
            value, nonce = content.value, content.nonce
            return {"chain_id": content.chain_id, "to": _address(content.to), "value": value, "nonce": nonce}
        case TypedData():
            return {"chain_id": content.chain_id, "to": _address(content.verifying_contract)}
        case Authorization():
            return {"chain_id": content.chain_id, "to": _address(content.delegate), "nonce": content.nonce}
        case bytes():
            return {}


def _address(address: bytes) -> str:
    return checksummed(f"0x{address.hex()}") if address else ""


def answer_of(record: SigningRecord) -> Answer:
    """Return the answer of a record that has one."""
    if record.state != RecordState.SIGNED or record.signature is None:
        raise SigningDeniedError(f"{record.idempotency_key}: it was not signed")
    return Answer(bytes(record.signature), bytes(record.raw), record.hash)
