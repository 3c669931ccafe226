"""What must outlive a batch that is not signed: the refusals, the suspension, the question to people."""

from collections.abc import Callable, Sequence

import structlog
from django.db import transaction

from keyguard import sealing
from keyguard.audit import chaining
from keyguard.audit.chaining import place_of
from keyguard.audit.codes import digest_of
from keyguard.errors import (
    KeyguardError,
    MaterialTamperedError,
    SignatureInvalidError,
)
from keyguard.keys import suspend_key
from keyguard.models import Key, SigningRecord
from keyguard.records import intent_row, refused_row

log = structlog.get_logger("keyguard")

SUSPENDING = (MaterialTamperedError, SignatureInvalidError)


class RefusedError(Exception):
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


def record(refusal: RefusedError) -> None:
    """Commit the refusals of what was never intended, with their entry, and put the question."""
    error, key, records = refusal.error, refusal.key, refusal.records
    with transaction.atomic(durable=True):
        if records:
            (chain,) = chaining.locked([key.pk])
            place = place_of(chain)
            rows = []
            for one in sorted(records, key=lambda one: str(one.pk)):
                one.result_seq = place.seq + 1
                rows.append([intent_row(one), refused_row(one, one.error, one.why)])
            SigningRecord.objects.bulk_create(records)
            body = {"records": len(rows), "digest": digest_of(rows), "code": error.code}
            chaining.append([(place, "refused", body)])
        refusal.question()
    if isinstance(error, SUSPENDING):
        stop(key, error)
    log.warning("signing_refused", key=key.address, code=error.code, requests=len(records))


def stop(key: Key, error: KeyguardError) -> None:
    """Suspend a key whose material or signature is wrong; seal the backend when it was the signature."""
    suspend_key(key.pk, error.code)
    if isinstance(error, SignatureInvalidError):
        sealing.seal_itself(error, key.backend)
