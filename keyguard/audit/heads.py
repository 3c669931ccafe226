"""Heads: once a minute, how far the chains have come that moved, under one hash that covers the head before it.

Upholds: whoever knows a head's hash can tell whether anything under it was altered, removed or put in, the end of a chain
included; whoever has the signer's address can tell whether a head is one of ours. Any number of processes at once make
each head once.
"""

import hashlib
from datetime import timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from keyguard import curve, ethereum
from keyguard.audit.codes import canonical
from keyguard.audit.models import AuditChain, AuditHead
from keyguard.backends import backend_of
from keyguard.crashpoints import crashpoint
from keyguard.errors import KeyguardError
from keyguard.keys import find_key, require_may_sign

log = structlog.get_logger("keyguard")

# Of one head; what moved besides is in the next one.
CHAINS_MAX = 5_000


def make_head() -> AuditHead | None:
    """Make a head of the chains that moved, unless the last one is younger than the settings say, and return it."""
    last = AuditHead.objects.order_by("-number").first()
    pause = timedelta(seconds=settings.KEYGUARD["head_seconds"])
    if last is not None and last.at > timezone.now() - pause:
        return None
    with transaction.atomic():
        head = _next(last)
        if head is None:
            return None
        crashpoint("keyguard.before_head")
        # Another process may have made this number meanwhile, and holds its chains no longer.
        AuditHead.objects.bulk_create([head], ignore_conflicts=True)
        if not AuditHead.objects.filter(
            number=head.number, hash=head.hash, signature=head.signature
        ).exists():
            transaction.set_rollback(True)
            return None
    # Where logs are kept elsewhere, this line is what a trail that was cut short is found by.
    log.warning("audit_head", number=head.number, hash=head.hash, signer=head.signer)
    return head


def _next(last: AuditHead | None) -> AuditHead | None:
    # Those that somebody appends to at this moment are in the next one.
    moved = AuditChain.objects.select_for_update(skip_locked=True, no_key=True)
    moved = moved.extra(where=["seq > headed_seq"]).order_by("name")
    chains = list(moved[:CHAINS_MAX])
    if not chains:
        return None
    for chain in chains:
        chain.headed_seq = chain.seq
    AuditChain.objects.bulk_update(chains, ["headed_seq"])
    heads = canonical({chain.name: [chain.seq, bytes(chain.mac).hex()] for chain in chains})
    number, at = (last.number + 1 if last else 1), timezone.now()
    before = last.hash if last else ""
    head = AuditHead(number=number, at=at, heads=heads, hash=hash_of(number, at.isoformat(), heads, before))
    _sign(head)
    return head


def hash_of(number: int, at: str, heads: str, before: str) -> str:
    """Return a head's hash. before: that of the head before it."""
    return f"0x{hashlib.sha256(canonical([number, at, heads, before]).encode()).hexdigest()}"


def sentence_of(head: AuditHead) -> bytes:
    """Return what a head's signer signs, as a message (EIP-191): anybody can check it with any wallet's library."""
    return f"Head {head.number} of the audit trail: {head.hash}".encode()


def signer_of(head: AuditHead) -> str:
    """Return the address that signed a head. Raises ValueError when nobody did."""
    digest = ethereum.digest(ethereum.message_payload(sentence_of(head)))
    return curve.address_of(curve.recover(bytes(head.signature), digest))


def _sign(head: AuditHead) -> None:
    """Have the key sign that the settings name: not on the path of other signatures, whose trail this closes."""
    if not settings.KEYGUARD_AUDIT_SIGNER:
        return
    try:
        key = find_key(settings.KEYGUARD_AUDIT_SIGNER)
        require_may_sign([key])
        digest = ethereum.digest(ethereum.message_payload(sentence_of(head)))
        (signature,) = backend_of(key.backend).prepare(key)([digest])
        head.signature, head.signer = curve.low_s(signature), key.address
        if signer_of(head) != key.address:
            raise ValueError("another key's")
    except (KeyguardError, ValueError) as error:
        # A head without a signature is better than none, and somebody is told.
        head.signature, head.signer = b"", ""
        log.error("audit_head_not_signed", error=getattr(error, "code", type(error).__name__))  # noqa: TRY400
