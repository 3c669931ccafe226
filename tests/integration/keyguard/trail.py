"""Looking at the audit trail, and dying while it is written."""

from keyguard import verify_trail
from keyguard.audit.models import AuditEntry
from keyguard.models import Key


class Died(BaseException):
    """As if the process were killed: nothing catches it."""


def faults() -> list[tuple[str, int]]:
    return [(fault.chain, fault.seq) for fault in verify_trail()]


def entries(key: Key) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(chain__key=key).order_by("seq"))
