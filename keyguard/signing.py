"""Signing, on one path for every backend.

Decode and check against the hard floor, record the intent, ask the policy, let the backend sign, lower s, recover and compare with the
pinned public key, take the raw transaction apart again and compare it with the request, record the answer, return it.

Upholds: one signature per idempotency key, however many ask at once; no signature leaves without a committed record;
a batch is signed whole or not at all; a key whose material or signature is wrong is suspended, and stays so although
the batch is rolled back. Anything unforeseen means *denied*.
Does not ask who the caller is: it believes what it is told.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from django.db import Error as DatabaseError
from django.db import transaction
from django.utils import timezone

from keyguard import curve, ethereum
from keyguard.authorizations import SignedAuthorization
from keyguard.backends import backend_of
from keyguard.delegates import require_allowed
from keyguard.errors import (
    ApprovalPendingError,
    BackendError,
    FloorError,
    KekError,
    KeyguardError,
    KeyNotActiveError,
    KeyNotFoundError,
    MaterialTamperedError,
    SignatureInvalidError,
    SigningDeniedError,
)
from keyguard.ethereum import UnsignedTransaction
from keyguard.floor import checked_address
from keyguard.jobs import (
    AuthorizationRequest,
    Job,
    MessageRequest,
    Request,
    SigningRequest,
    TypedDataRequest,
    prepare,
)
from keyguard.keys import require_may_sign, suspend_key
from keyguard.models import Key, SigningRecord
from keyguard.policies.deciding import Asked, UndecidedError, ask_people, decide
from keyguard.policies.facts import facts_of
from keyguard.records import Answer, conclude, refused_job, refused_request, reserve

log = structlog.get_logger("keyguard")

_SUSPENDING = (MaterialTamperedError, SignatureInvalidError)


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A signed transaction, ready to be sent."""

    idempotency_key: str
    address: str
    raw: bytes = field(repr=False)
    hash: str
    signature: bytes = field(repr=False)  # r, s, recovery id


class _RefusedError(Exception):
    """Carries a refusal out of the transaction that it rolls back, so that it can be recorded afterwards."""

    def __init__(
        self,
        error: KeyguardError,
        key: Key,
        records: Sequence[SigningRecord],
        question: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(error.code)
        self.error, self.key, self.records, self.question = error, key, records, question


def sign_transactions(requests: Sequence[SigningRequest]) -> list[SignedTransaction]:
    """Sign transactions, all or none, and return them in the order asked.

    The same idempotency key with the same transaction gives the first answer again; a signature is made once.
    Raises a KeyguardError, whose disposition says what may be done: FloorError, KeyNotFoundError, KeyNotActiveError,
    IdempotencyConflictError, PolicyDeniedError, ApprovalPendingError, KekError, BackendError, MaterialTamperedError,
    SignatureInvalidError or SigningDeniedError. Nothing was signed then. Errors of the database pass as they are and may
    be retried with the same idempotency keys.
    Must not be called inside a transaction: a rollback would forget signatures that the caller has seen.
    """
    answers = _sign(requests)
    return [
        SignedTransaction(request.idempotency_key, request.address, answer.raw, answer.hash, answer.signature)
        for request, answer in zip(requests, answers, strict=True)
    ]


def sign_message(address: str, message: bytes, idempotency_key: str, *, caller: str = "") -> bytes:
    """Sign a message with the prefix of EIP-191 and return 65 bytes: r, s, v (27 or 28).

    The prefix is put before `message` here, so that no message can be a transaction. Raises what `sign_transactions`
    raises, and like it must not be called inside a transaction.
    """
    (answer,) = _sign([MessageRequest(idempotency_key, address, message, caller=caller)])
    return _with_v(answer.signature)


def sign_typed_data(
    address: str,
    typed_data: Mapping[str, Any],
    idempotency_key: str,
    *,
    chain_id: int | None = None,
    caller: str = "",
) -> bytes:
    """Sign EIP-712 data and return 65 bytes: r, s, v (27 or 28).

    typed_data: as of eth_signTypedData_v4; `keyguard.typed_data` says what is refused. chain_id: the chain that the
    caller means; data for another one is refused. Raises what `sign_transactions` raises, and like it must not be
    called inside a transaction.
    """
    (answer,) = _sign([TypedDataRequest(idempotency_key, address, typed_data, chain_id, caller=caller)])
    return _with_v(answer.signature)


def sign_authorization(
    address: str,
    chain_id: int,
    delegate: str,
    nonce: int,
    idempotency_key: str,
    *,
    subject: str = "",
    caller: str = "",
) -> SignedAuthorization:
    """Sign that the code of `delegate` acts for the account `address` (EIP-7702), and return it for a transaction.

    nonce: that of the account when the transaction is executed; when it sends the transaction itself, one more than
    the transaction's. The delegate must be allowed on the chain (`keyguard.delegates`); the zero address takes a
    delegation back. Raises what `sign_transactions` raises, and like it must not be called inside a transaction.
    """
    (answer,) = _sign(
        [AuthorizationRequest(idempotency_key, address, chain_id, delegate, nonce, subject, caller)]
    )
    return SignedAuthorization(
        chain_id, bytes.fromhex(checked_address(delegate, "delegate")[2:]), nonce, answer.signature
    )


def _with_v(signature: bytes) -> bytes:
    return signature[:64] + bytes([signature[64] + 27])


def _sign(requests: Sequence[Request]) -> list[Answer]:
    if not requests:
        return []
    try:
        # Before the transaction: the proofs of blobs may take seconds.
        jobs = _jobs(requests)
        # durable: refuses to run inside the caller's transaction, see sign_transactions.
        with transaction.atomic(durable=True):
            _require_active(jobs)
            answers = _answers(jobs)
    except _RefusedError as refusal:
        _record(refusal)
        raise refusal.error from None
    log.info("signed", count=len(requests), keys=sorted({request.address for request in requests}))
    return [answers[request.idempotency_key] for request in requests]


def _jobs(requests: Iterable[Request]) -> list[Job]:
    requests = list(requests)
    keys = _load_keys({checked_address(request.address, "address") for request in requests})
    jobs = []
    for request in requests:
        key = keys[request.address.lower()]
        try:
            job = prepare(request, key)
            require_allowed(job.content)
        except FloorError as error:
            raise _RefusedError(error, key, [refused_request(request, key, error.code)]) from None
        jobs.append(job)
    return jobs


def _require_active(jobs: Sequence[Job]) -> None:
    keys = {job.key.pk: job.key for job in jobs}
    try:
        require_may_sign(keys.values())
    except KeyNotActiveError as error:
        # No record: a loop that keeps asking would fill the table.
        raise _RefusedError(error, jobs[0].key, []) from None


def _load_keys(addresses: set[str]) -> dict[str, Key]:
    keys = {key.address.lower(): key for key in Key.objects.filter(address__in=addresses)}
    for address in addresses:
        if address.lower() not in keys:
            raise KeyNotFoundError(f"no key has the address {address}")
    return keys


def _answers(jobs: Sequence[Job]) -> dict[str, Answer]:
    answers, fresh = reserve(jobs)
    policy_id = _decide([job for _, job in fresh])
    by_key: dict[Key, list[tuple[SigningRecord, Job]]] = {}
    for record, job in fresh:
        by_key.setdefault(job.key, []).append((record, job))
    signed = []
    for key, ours in by_key.items():
        for (record, job), answer in zip(ours, _sign_with(key, [job for _, job in ours]), strict=True):
            signed.append((record, answer))
            answers[job.idempotency_key] = answer
    conclude(signed, policy_id)
    return answers


def _decide(jobs: Sequence[Job]) -> UUID | None:
    """Return the policy that allows all of them, or raise what it says about the first that it does not."""
    now = timezone.now()
    requests = [Asked(job.subject, job.key, facts_of(job, now)) for job in jobs]
    try:
        policy = decide(requests)
    except UndecidedError as undecided:
        job, asked = jobs[undecided.place], requests[undecided.place]
        error = undecided.error
        if isinstance(error, ApprovalPendingError):
            raise _RefusedError(error, job.key, [], partial(ask_people, undecided, asked)) from None
        policy_id = undecided.policy.pk if undecided.policy else None
        record = refused_job(job, error.code, error.message, policy_id)
        raise _RefusedError(error, job.key, [record]) from None
    return policy.pk if policy else None


def _sign_with(key: Key, jobs: Sequence[Job]) -> list[Answer]:
    """Let the key's backend sign, and trust nothing it says."""
    try:
        signatures = backend_of(key.backend).sign(key, [job.digest for job in jobs])
        if len(signatures) != len(jobs):
            raise SignatureInvalidError("the backend answered with another number of signatures")
        public_key = bytes(key.public_key)
        return [
            checked_answer(job, signature, public_key)
            for job, signature in zip(jobs, signatures, strict=True)
        ]
    except (KekError, BackendError) as error:
        raise _RefusedError(error, key, []) from None  # no fault of the request: no record
    except KeyguardError as error:
        raise _RefusedError(error, key, [refused_job(job, error.code) for job in jobs]) from None
    except DatabaseError:
        raise
    except Exception as error:  # noqa: BLE001 - unknown means denied
        # The text of an unknown exception may hold anything; its type says enough.
        log.error("signing_denied", key=key.address, exception=type(error).__name__)  # noqa: TRY400
        denied = SigningDeniedError()
        raise _RefusedError(denied, key, [refused_job(job, denied.code) for job in jobs]) from None


def checked_answer(job: Job, signature: bytes, public_key: bytes) -> Answer:
    """Return the answer when the signature is the pinned key's over this payload, and the raw bytes say what was asked."""
    try:
        signature = curve.low_s(signature)
        if curve.recover(signature, job.digest) != public_key:
            raise ValueError("recovers to another key")
        if not isinstance(job.content, UnsignedTransaction):
            return Answer(signature, b"", "")
        raw = job.content.signed(signature)
        if ethereum.decode_signed(raw) != (job.content, signature):
            raise ValueError("the raw transaction is not what was asked")
    except ValueError as error:
        raise SignatureInvalidError(f"{job.idempotency_key}: {error}; the key is suspended") from None
    return Answer(signature, raw, f"0x{job.content.hash(signature, raw).hex()}")


def _record(refusal: _RefusedError) -> None:
    """Commit what must outlive the rolled-back batch: the suspension and the refusals."""
    error, key = refusal.error, refusal.key
    with transaction.atomic(durable=True):
        if isinstance(error, _SUSPENDING):
            suspend_key(key.pk, error.code)
        SigningRecord.objects.bulk_create(refusal.records)
        refusal.question()
    log.warning("signing_refused", key=key.address, code=error.code, requests=len(refusal.records))
