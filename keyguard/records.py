"""The records of signing: an intent before, the answer after, refusals beside. Only this module writes them.

Upholds: the unique idempotency key decides who signs. Whoever inserts the intent does; the others wait for that
transaction on the constraint and read its answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.utils import timezone

from keyguard.authorizations import Authorization
from keyguard.curve import checksummed
from keyguard.errors import IdempotencyConflictError, SigningDeniedError
from keyguard.ethereum import UnsignedTransaction
from keyguard.jobs import Content, Job, Request
from keyguard.models import Key, SigningRecord
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


def reserve(jobs: Iterable[Job]) -> tuple[dict[str, Answer], list[tuple[SigningRecord, Job]]]:
    """Insert the intents; return the answers given before, by idempotency key, and the intents that are ours.

    Raises IdempotencyConflictError when an idempotency key was used for something else.
    """
    # In the order of the keys: two batches that share some would otherwise wait for each other for ever.
    by_key = dict(sorted(_unique(jobs).items()))
    intents = {key: _intent(job) for key, job in by_key.items()}
    ours = insert_missing(list(intents.values()))
    fresh = [(intents[key], job) for key, job in by_key.items() if intents[key].pk in ours]
    answers: dict[str, Answer] = {}
    taken = [key for key in by_key if intents[key].pk not in ours]
    stored = SigningRecord.objects.filter(idempotency_key__in=taken).exclude(state=RecordState.REFUSED)
    for record in stored if taken else ():
        if record.payload_hash != by_key[record.idempotency_key].payload_hash:
            raise IdempotencyConflictError(f"{record.idempotency_key}: used for another payload or key")
        answers[record.idempotency_key] = _answer(record)
    return answers, fresh


def conclude(signed: Sequence[tuple[SigningRecord, Answer]], policy_id: UUID | None) -> None:
    """Write the answers beside their intents, in one statement. An intent that is not there denies the batch."""
    if not signed:
        return
    columns = ("signature", "raw", "hash", "policy_id")
    rows = {record.pk: (answer.signature, answer.raw, answer.hash, policy_id) for record, answer in signed}
    if write_answers(columns, rows, timezone.now()) != len(signed):
        raise SigningDeniedError("an intent is missing; nothing was signed")


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


def _answer(record: SigningRecord) -> Answer:
    if record.state != RecordState.SIGNED or record.signature is None:
        raise SigningDeniedError(f"{record.idempotency_key}: another caller has not finished")
    return Answer(bytes(record.signature), bytes(record.raw), record.hash)
