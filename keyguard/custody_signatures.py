"""Signatures that a custody makes, on the path of all: it may take hours, and the answer may be lost.

Upholds: the external id is the record's, so that the same request is one request at the custody for ever. Whoever finds
an intent that is not answered looks it up before anything else, and asks again only for what the custody itself does
not know, after a time in which a lost request would have arrived.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

import structlog
from django.db import connection
from django.utils import timezone

from keyguard import ethereum
from keyguard.authorizations import Authorization
from keyguard.backends.remote import (
    REMOTE_SIGNERS,
    DigestPayload,
    MessagePayload,
    NotThere,
    Outcome,
    Payload,
    Pending,
    Refused,
    TransactionPayload,
    TypedDataPayload,
    remote_signer_of,
)
from keyguard.errors import (
    CustodySignatureError,
    CustodySignaturePendingError,
    CustodyUnreachableError,
    KeyguardError,
)
from keyguard.ethereum import UnsignedTransaction
from keyguard.handing_over import ON_ITS_WAY
from keyguard.jobs import Content, Job
from keyguard.models import Key, SigningRecord
from keyguard.redaction import scrub
from keyguard.typed_data import TypedData

log = structlog.get_logger("keyguard")

TIMEOUT_SECONDS = 10.0


def signs(key: Key) -> bool:
    """Return whether this key's signatures are made by a custody."""
    return key.backend in REMOTE_SIGNERS


def ask(record: SigningRecord, job: Job) -> bytes:
    """Ask the custody for a signature that was just intended, and return it if it is there at once.

    Raises CustodySignaturePendingError and CustodyUnreachableError: then it is looked up later. After any other
    KeyguardError there will be none.
    """
    assert not connection.in_atomic_block, "no custody is asked inside a transaction"
    log.info("custody_asked", key=job.key.address, record=str(record.pk))
    signer, payload = remote_signer_of(job.key.backend), payload_of(job.content)
    with _understood():
        outcome = signer.submit(job.key, str(record.pk), payload, timeout_seconds=TIMEOUT_SECONDS)
    return _signature(outcome)


def look_up(record: SigningRecord, job: Job) -> bytes:
    """Return the signature that was asked for before, if it is there now. Raises what `ask` raises."""
    found = find(record, job.key, payload_of(job.content))
    if not isinstance(found, NotThere):
        return _signature(found)
    if record.created_at > timezone.now() - ON_ITS_WAY:
        raise CustodyUnreachableError("the custody has no such request yet; it may be on its way")
    return ask(record, job)


def find(record: SigningRecord, key: Key, payload: Payload) -> Outcome | NotThere:
    """Return how a request stands. Raises CustodyUnreachableError, SignatureInvalidError."""
    assert not connection.in_atomic_block, "no custody is asked inside a transaction"
    signer = remote_signer_of(key.backend)
    with _understood():
        return signer.find(key, str(record.pk), payload, timeout_seconds=TIMEOUT_SECONDS)


@contextmanager
def _understood() -> Iterator[None]:
    """Take an answer that is not understood for none: the outcome is unknown then. Raises CustodyUnreachableError."""
    try:
        yield
    except KeyguardError:
        raise
    except Exception as error:  # noqa: BLE001 - of many kinds; its text may hold anything
        raise CustodyUnreachableError(f"the custody gave no usable answer ({type(error).__name__})") from None


def payload_of(content: Content) -> Payload:
    """Return what the custody is shown: as much as it can read."""
    match content:
        case UnsignedTransaction():
            return TransactionPayload(content)
        case TypedData():
            return TypedDataPayload(content.source, ethereum.digest(content.payload()))
        case Authorization():
            return DigestPayload(ethereum.digest(content.payload()))
        case bytes():
            return MessagePayload(content)
    assert_never(content)


def _signature(outcome: Outcome) -> bytes:
    match outcome:
        case Pending(awaits_people):
            raise CustodySignaturePendingError(
                "the custody's people must approve it first" if awaits_people else "the custody works on it"
            )
        case Refused(reason):
            raise CustodySignatureError(f"the custody refused it: {str(scrub(reason))[:200]}")
    return outcome
