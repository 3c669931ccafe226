"""Signing, on one path for every backend.

Decode and check against the hard floor; ask the policy and record the intent, commit; let the backend sign, lower s,
recover and compare with the pinned public key, take the raw transaction apart again and compare it with the request;
record the answer, commit; return it.

Upholds: one signature per idempotency key, however many ask at once; no signature leaves without a committed record and
an entry in the audit trail, nor is a backend asked without one; a batch is signed whole or not at all; a key whose
material or signature is wrong is suspended. Anything unforeseen means *denied*.

A process that dies leaves nothing before the first commit, and after it an intent that is closed as abandoned: what was
signed between the two commits has left nowhere. After the second one the same request gets the same answer.
Does not ask who the caller is: it believes what it is told.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.db import Error as DatabaseError

from keyguard import curve, custody_signatures, ethereum, refusing, sealing
from keyguard.authorizations import SignedAuthorization
from keyguard.backends import backend_of
from keyguard.backends.kinds import Sign
from keyguard.concluding import conclude, end_abandoned, refuse
from keyguard.delegates import require_allowed
from keyguard.errors import (
    AuditFailedError,
    BackendError,
    CustodySignaturePendingError,
    CustodyUnreachableError,
    FloorError,
    KekError,
    KeyguardError,
    KeyNotActiveError,
    KeyNotFoundError,
    SignatureInvalidError,
    SignatureUnderWayError,
    SigningDeniedError,
)
from keyguard.ethereum import UnsignedTransaction
from keyguard.floor import checked_address
from keyguard.intending import Batch, intend
from keyguard.jobs import (
    AuthorizationRequest,
    Job,
    MessageRequest,
    Request,
    SigningRequest,
    TypedDataRequest,
    prepare,
)
from keyguard.keys import require_may_sign
from keyguard.models import Key, SigningRecord
from keyguard.records import Answer, refused_job, refused_request, stored
from keyguard.refusing import RefusedError
from keyguard.states import KeyState, RecordState

log = structlog.get_logger("keyguard")

# For how long somebody else's answer to the same request is waited for.
PATIENCE_SECONDS = 8.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A signed transaction, ready to be sent."""

    idempotency_key: str
    address: str
    raw: bytes = field(repr=False)
    hash: str
    signature: bytes = field(repr=False)  # r, s, recovery id


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
        # Before the first transaction: the proofs of blobs may take seconds, and a backend may be away.
        jobs = _jobs(requests)
        answers = _answers(jobs, _ready(jobs))
    except RefusedError as refusal:
        refusing.record(refusal)
        raise refusal.error from None
    except AuditFailedError:
        sealing.write_wanted()
        raise
    log.info("signed", count=len(requests), keys=sorted({request.address for request in requests}))
    return [answers[request.idempotency_key] for request in requests]


def _answers(jobs: Sequence[Job], ready: Mapping[Key, Sign]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    until = time.monotonic() + PATIENCE_SECONDS
    while left := [job for job in jobs if job.idempotency_key not in answers]:
        batch = intend(left)
        answers |= batch.answers
        try:
            answers |= _signed_here([one for one in batch.ours if not in_custody(one)], batch, ready)
        except SignatureUnderWayError:  # somebody has taken it over: this process was slow
            if time.monotonic() > until:
                raise
            continue
        asked = [one for one in batch.ours if in_custody(one)]
        answers |= _signed_elsewhere(asked, batch, custody_signatures.ask)
        known = [one for one in batch.others if in_custody(one)]
        answers |= _signed_elsewhere(known, batch, custody_signatures.look_up)
        _await([record for record, job in batch.others if job.idempotency_key not in answers], until)
    return answers


def in_custody(one: tuple[SigningRecord, Job]) -> bool:
    """Return whether a custody signs this."""
    return custody_signatures.signs(one[1].key)


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
            raise RefusedError(error, key, [refused_request(request, key, error.code)]) from None
        jobs.append(job)
    return jobs


def _load_keys(addresses: set[str]) -> dict[str, Key]:
    keys = {key.address.lower(): key for key in Key.objects.filter(address__in=addresses)}
    for address in addresses:
        if address.lower() not in keys:
            raise KeyNotFoundError(f"no key has the address {address}")
    return keys


def _ready(jobs: Sequence[Job]) -> dict[Key, Sign]:
    """Return what signs with each of the keys that is not in a custody."""
    ready: dict[Key, Sign] = {}
    for key in {job.key: None for job in jobs if not custody_signatures.signs(job.key)}:
        try:
            if key.state != KeyState.ACTIVE:  # the backend may have it no longer
                require_may_sign([key])
            ready[key] = backend_of(key.backend).prepare(key)
        except KeyNotActiveError as error:
            raise RefusedError(error, key, []) from None
        except (KekError, BackendError) as error:
            names = {job.idempotency_key for job in jobs}
            if len([record for record in stored(names) if record.state == RecordState.SIGNED]) < len(names):
                raise RefusedError(error, key, []) from None  # no fault of the request: no record
        except KeyguardError as error:
            raise RefusedError(error, key, [refused_job(job, error.code) for job in jobs]) from None
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - unknown means denied
            denied = _denied(key, error)
            raise RefusedError(denied, key, [refused_job(job, denied.code) for job in jobs]) from None
    return ready


def _signed_here(
    ours: Sequence[tuple[SigningRecord, Job]], batch: Batch, ready: Mapping[Key, Sign]
) -> dict[str, Answer]:
    """Have the backends sign what was intended, all or none, and return the answers, committed."""
    by_key: dict[Key, list[tuple[SigningRecord, Job]]] = {}
    for record, job in ours:
        by_key.setdefault(job.key, []).append((record, job))
    signed: list[tuple[SigningRecord, Answer]] = []
    for key, pairs in by_key.items():
        try:
            answers = _sign_with(key, ready[key], [job for _, job in pairs])
        except (KeyguardError, DatabaseError) as error:
            _give_up(key, [record for record, _ in ours], error)
            raise
        signed += zip((record for record, _ in pairs), answers, strict=True)
    return _concluded(signed, batch)


def _signed_elsewhere(
    pairs: Sequence[tuple[SigningRecord, Job]], batch: Batch, ask: Callable[[SigningRecord, Job], bytes]
) -> dict[str, Answer]:
    """Return the custody's answers, committed, each by itself; raise when one is not there yet, after the others."""
    answers: dict[str, Answer] = {}
    waiting: KeyguardError | None = None
    for record, job in pairs:
        try:
            answer = checked_answer(job, ask(record, job), bytes(job.key.public_key))
        except (CustodySignaturePendingError, CustodyUnreachableError) as error:
            waiting = waiting or error
        except KeyguardError as error:
            _give_up(job.key, [record], error)
            raise
        else:
            answers |= _concluded([(record, answer)], batch)
    if waiting:
        raise waiting
    return answers


def _concluded(signed: Sequence[tuple[SigningRecord, Answer]], batch: Batch) -> dict[str, Answer]:
    if signed:
        conclude(signed, batch.places)
    return {record.idempotency_key: answer for record, answer in signed}


def _sign_with(key: Key, sign: Sign, jobs: Sequence[Job]) -> list[Answer]:
    """Let the key's backend sign, and trust nothing it says."""
    try:
        signatures = sign([job.digest for job in jobs])
        if len(signatures) != len(jobs):
            raise SignatureInvalidError("the backend answered with another number of signatures")
        public_key = bytes(key.public_key)
        return [
            checked_answer(job, signature, public_key)
            for job, signature in zip(jobs, signatures, strict=True)
        ]
    except (KeyguardError, DatabaseError):
        raise
    except Exception as error:  # noqa: BLE001 - unknown means denied
        raise _denied(key, error) from None


def _denied(key: Key, error: Exception) -> SigningDeniedError:
    # The text of an unknown exception may hold anything; its type says enough.
    log.error("signing_denied", key=key.address, exception=type(error).__name__)
    return SigningDeniedError()


def _give_up(key: Key, records: Sequence[SigningRecord], error: Exception) -> None:
    """Commit that these intents come to nothing, and what follows for the key."""
    code = error.code if isinstance(error, KeyguardError) else SigningDeniedError.code
    log.warning("signing_refused", key=key.address, code=code, requests=len(records))
    if isinstance(error, refusing.SUSPENDING):
        refusing.stop(key, error)
    refuse(records, code)


def _await(records: Sequence[SigningRecord], until: float) -> None:
    """Wait until somebody else's intents have ended, one way or the other. Raises SignatureUnderWayError."""
    pks = [record.pk for record in records]
    while SigningRecord.objects.filter(pk__in=pks, state=RecordState.INTENT).exists() if pks else False:
        if end_abandoned(records):
            return
        if time.monotonic() > until:
            raise SignatureUnderWayError
        time.sleep(POLL_SECONDS)


def checked_answer(job: Job, signature: bytes, public_key: bytes) -> Answer:
    """Return the answer when the signature is the pinned key's over this payload, and the raw bytes say what was asked."""
    signature = checked_digest(signature, job.digest, public_key)
    try:
        if not isinstance(job.content, UnsignedTransaction):
            return Answer(signature, b"", "")
        raw = job.content.signed(signature)
        if ethereum.decode_signed(raw) != (job.content, signature):
            raise ValueError("the raw transaction is not what was asked")
    except ValueError as error:
        raise SignatureInvalidError(f"{job.idempotency_key}: {error}; the key is suspended") from None
    return Answer(signature, raw, f"0x{job.content.hash(signature, raw).hex()}")


def checked_digest(signature: bytes, digest: bytes, public_key: bytes) -> bytes:
    """Return the signature with a low s when it is the pinned key's. Raises SignatureInvalidError."""
    try:
        signature = curve.low_s(signature)
        if curve.recover(signature, digest) != public_key:
            raise ValueError("recovers to another key")
    except ValueError as error:
        raise SignatureInvalidError(f"the signature is none of the pinned key: {error}") from None
    return signature
