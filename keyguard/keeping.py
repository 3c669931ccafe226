"""What keyguard does by itself every few seconds: closing what was abandoned, looking up what custodies owe, heads.

Any number of processes may do it at once. One part that fails does not stop the others.
"""

from collections.abc import Callable

import structlog
from django.utils import timezone

from keyguard import custody_signatures
from keyguard.audit.heads import make_head
from keyguard.backends.remote import REMOTE_SIGNERS, DigestPayload, NotThere, Pending, Refused
from keyguard.concluding import conclude, end_abandoned, refuse
from keyguard.errors import (
    CustodySignatureError,
    CustodyUnreachableError,
    KeyguardError,
    SignatureInvalidError,
)
from keyguard.handing_over import ON_ITS_WAY
from keyguard.models import SigningRecord
from keyguard.records import Answer
from keyguard.refusing import stop
from keyguard.sealing import write_wanted
from keyguard.signing import checked_digest
from keyguard.states import RecordKind, RecordState

log = structlog.get_logger("keyguard")

LIMIT = 50


def keep() -> None:
    """Do all of it."""
    for part in (write_wanted, end_abandoned, look_up_signatures, make_head):
        _try(part)


def _try(part: Callable[[], object]) -> None:
    try:
        part()
    except Exception as error:  # noqa: BLE001 - one part must not keep the others from their work
        # The text of an unknown exception may hold anything; its type says enough.
        log.error("keeping_failed", part=part.__name__, exception=type(error).__name__)  # noqa: TRY400


def look_up_signatures() -> int:
    """Fetch what custodies have signed meanwhile, or will not; return how many that were.

    Transactions are left to whoever asks for them: it takes their content to tell whether the right one was signed.
    """
    owed = SigningRecord.objects.filter(state=RecordState.INTENT, key__backend__in=list(REMOTE_SIGNERS))
    owed = owed.exclude(kind=RecordKind.TRANSACTION).select_related("key").order_by("created_at")
    return sum(map(_looked_up, owed[:LIMIT]))


def _looked_up(record: SigningRecord) -> bool:
    payload = DigestPayload(bytes.fromhex(record.digest[2:]))
    try:
        found = custody_signatures.find(record, record.key, payload)
        match found:
            case Pending():
                return False
            case NotThere():
                if record.created_at > timezone.now() - ON_ITS_WAY:
                    return False
                return bool(refuse([record], CustodySignatureError.code, "the custody never had it"))
            case Refused(reason):
                return bool(refuse([record], CustodySignatureError.code, f"the custody: {reason}"))
        signature = checked_digest(found, payload.digest, bytes(record.key.public_key))
    except CustodyUnreachableError:
        return False
    except SignatureInvalidError as error:
        stop(record.key, error)
        return bool(refuse([record], error.code))
    except KeyguardError as error:
        log.warning("signature_not_looked_up", record=str(record.pk), code=error.code)
        return False
    conclude([(record, Answer(signature, b"", ""))], {})
    return True
