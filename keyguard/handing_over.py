"""Handing calls over to a custody that owns nonce and fee, on one path for all of them.

Decode and check against the hard floor and the policy, record the intent, commit; say that the custody is asked, commit; ask; record
its answer. Upholds: the custody gets at most one request for each external id that it does not know. Whoever finds that
somebody has asked before looks it up first; a call that the custody has once acknowledged is never submitted again,
whatever it says later. An answer that is lost, late or not understood is no answer: the outcome is unknown then.
Does not ask who the caller is.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from keyguard import sealing
from keyguard.audit import chaining
from keyguard.audit.chaining import note
from keyguard.audit.rows import note_row
from keyguard.calls import Call
from keyguard.curve import checksummed
from keyguard.custodians import CUSTODIANS, Custodian, Report, Ticket, custodian_of
from keyguard.errors import (
    ApprovalPendingError,
    CustodyForgotError,
    CustodyUnreachableError,
    FloorError,
    IdempotencyConflictError,
    KeyguardError,
    KeyguardSealedError,
    KeyNotFoundError,
)
from keyguard.floor import checked_address, checked_idempotency_key, decode_call
from keyguard.keys import require_may_sign
from keyguard.models import HandOver, Key
from keyguard.policies import spending
from keyguard.policies.deciding import Asked, UndecidedError, active_policy_id, ask_people, decide
from keyguard.policies.facts import facts_of_content, shown
from keyguard.redaction import scrub
from keyguard.states import HANDED_BACK, UNDER_WAY, CustodyState, HandOverState, Origin

log = structlog.get_logger("keyguard")

# Whoever asks has an answer or none after so long; before that nobody else asks for the same.
ASKING = timedelta(seconds=15)
# A request whose answer was lost may still be on its way to the custody for so long.
ON_ITS_WAY = timedelta(seconds=120)
REASON_LENGTH = 500

_HASH = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HandOverRequest:
    """A call to be executed once by the custody of `address`. `keyguard.floor.decode_call` lists the fields."""

    external_id: str
    address: str
    call: Mapping[str, Any] = field(repr=False)
    caller: str = ""


def broadcasts_itself(address: str) -> bool:
    """Return whether the custody of this key gives its nonces and sends. Raises KeyNotFoundError."""
    return _key(address).origin == Origin.CUSTODY


def can_call_off(address: str) -> bool:
    """Return whether the custody of this key can be asked, from here, not to send what it has."""
    backend = _key(address).backend
    return backend in CUSTODIANS and custodian_of(backend).can_cancel


# --- Here ---------------------------------------------------------------------------------------------------


def plan_hand_overs(requests: Sequence[HandOverRequest]) -> dict[str, KeyguardError]:
    """Check calls and record the intent to hand them over; nobody is asked. Returns why not, by external id.

    The same external id with the same call is as good as once; with another one it is refused. Must not be called
    inside a transaction: what it has recorded must be there before anybody asks a custody.
    """
    refused: dict[str, KeyguardError] = {}
    for request in requests:
        try:
            _planned(request)
        except KeyguardError as error:
            refused[request.external_id] = error
    return refused


def _planned(request: HandOverRequest) -> tuple[HandOver, Call]:
    """Return the row of the intent, recorded now or before, and the call."""
    key = _key(request.address)
    try:
        checked_idempotency_key(request.external_id)
        call = decode_call(request.call, key.address)
        custodian_of(key.backend)
    except KeyguardError as error:
        _record_refusal(request, key, error)
        raise
    identity = hashlib.sha256(f"kg1|CALL|{key.id}|".encode() + call.payload()).hexdigest()
    intent = HandOver(
        external_id=request.external_id,
        key=key,
        payload_hash=f"0x{identity}",
        chain_id=call.chain_id,
        to=checksummed(f"0x{call.to.hex()}") if call.to else "",
        value=call.value,
        facts=shown(_asked(request, key, call).facts),
    )
    found = HandOver.objects.filter(external_id=request.external_id).first()
    if found is None:
        _require_may_ask(key)
        # durable: an intent that the caller's rollback takes back would not be there when the custody is asked.
        with _asking_people(request, key, call), transaction.atomic(durable=True):
            chaining.locked([key.pk])  # before the purses, as a signature does
            decide([_asked(request, key, call)], active_policy_id())
            HandOver.objects.bulk_create([intent], ignore_conflicts=True)
            if HandOver.objects.filter(pk=intent.pk).exists():  # else somebody else was first
                note_row("call_intended", intent, key.pk, external_id=request.external_id)
        found = HandOver.objects.get(external_id=request.external_id)
    if found.payload_hash != intent.payload_hash:
        raise IdempotencyConflictError(f"{request.external_id}: used for another call or key")
    found.key = key
    return found, call


def _asked(request: HandOverRequest, key: Key, call: Call) -> Asked:
    facts = facts_of_content(call, key.alias, key.address, request.caller, timezone.now())
    return Asked(request.external_id, "", key, facts)


@contextmanager
def _asking_people(request: HandOverRequest, key: Key, call: Call) -> Iterator[None]:
    """Put the question that the policy wants answered, or keep that it refused; raises what it says."""
    try:
        yield
    except UndecidedError as undecided:
        if isinstance(undecided.error, ApprovalPendingError):
            with transaction.atomic(durable=True):
                ask_people(undecided, _asked(request, key, call))
        else:
            _note_refusal(request, key, undecided.error)
        raise undecided.error from None


def _key(address: str) -> Key:
    key = Key.objects.filter(address=checked_address(address, "address")).first()
    if key is None:
        raise KeyNotFoundError(f"no key has the address {address[:64]}")
    return key


def _require_may_ask(key: Key) -> None:
    """Raise KeyNotActiveError or KeyguardSealedError when the custody may not be asked for anything new now."""
    require_may_sign([key])
    sealing.require_unsealed([key.backend])
    if sealing.is_sealed(key.backend):
        raise KeyguardSealedError


def _record_refusal(request: HandOverRequest, key: Key, error: KeyguardError) -> None:
    """Keep what the floor refuses; nothing in the request can be relied on but the key."""
    if isinstance(error, FloorError):
        row = HandOver(
            external_id=str(request.external_id)[:64], key=key, state=HandOverState.REFUSED, error=error.code
        )
        HandOver.objects.bulk_create([row], ignore_conflicts=True)
    _note_refusal(request, key, error)


def _note_refusal(request: HandOverRequest, key: Key, error: KeyguardError) -> None:
    """Write into the trail that it was asked for, and why it was refused."""
    said = {"external_id": str(request.external_id)[:64], "code": error.code, "why": error.message[:300]}
    note("call_refused", said, key.pk)
    log.warning("hand_over_refused", key=key.address, code=error.code, external_id=request.external_id)


# --- With the custody ---------------------------------------------------------------------------------------


def hand_over(request: HandOverRequest, *, timeout_seconds: float) -> Report:
    """Have the custody execute the call, and return how it stands; later calls with the same request look it up.

    Raises a KeyguardError, whose disposition says what may be done. After CustodyUnreachableError the custody may have
    the call or not: call again. After any other nothing was asked by this call. Must not be called inside a transaction.
    """
    row, call = _planned(request)
    if row.state in HANDED_BACK:
        return _report_of(row)
    custodian = custodian_of(row.key.backend)
    if row.state == HandOverState.INTENT:
        _require_may_ask(row.key)
    is_first = _is_first(row)
    report = Report(CustodyState.UNKNOWN) if is_first else _found(row, custodian, timeout_seconds)
    if report.state == CustodyState.UNKNOWN:
        _require_may_ask(row.key)
        if not is_first and not _asks_again(row):
            raise CustodyUnreachableError("somebody asks the custody at this moment, or has just done so")
        log.info("handing_over", key=row.key.address, external_id=row.external_id)
        report = _ask(lambda: custodian.submit(_ticket(row), call, timeout_seconds=timeout_seconds))
        if report.state == CustodyState.UNKNOWN:
            raise CustodyUnreachableError("the custody took the call and says that it has no such request")
    return _record(row, report)


def custody_status(external_id: str, *, timeout_seconds: float) -> Report:
    """Return how a call stands that was handed over. Raises CustodyUnreachableError, CustodyForgotError."""
    row = HandOver.objects.select_related("key").get(external_id=external_id)
    if row.state in HANDED_BACK:
        return _report_of(row)
    report = _found(row, custodian_of(row.key.backend), timeout_seconds)
    return report if report.state == CustodyState.UNKNOWN else _record(row, report)


def call_off(external_id: str, *, timeout_seconds: float) -> Report:
    """Ask the custody not to send a call, where it can be asked, and return how it stands: it may be too late.

    FAILED with no hash means that it will never be sent. Raises what `custody_status` raises.
    """
    row = HandOver.objects.select_related("key").get(external_id=external_id)
    never = Report(CustodyState.FAILED, reason="called off before the custody had it")
    unasked = HandOver.objects.filter(pk=row.pk, state=HandOverState.INTENT)
    # Whoever is about to ask finds it moved, and does not.
    if unasked.update(state=HandOverState.FAILED, reason=never.reason, answered_at=Now()):
        return never
    row.refresh_from_db(fields=["state", "hash", "reason"])
    if row.state in HANDED_BACK:
        return _report_of(row)
    custodian = custodian_of(row.key.backend)
    report = _found(row, custodian, timeout_seconds)
    if report.state == CustodyState.UNKNOWN:
        long_ago = HandOver.objects.filter(pk=row.pk, asked_at__lt=Now() - ON_ITS_WAY)
        return _record(row, never) if long_ago.exists() else report
    if report.state in (CustodyState.AWAITING_APPROVAL, CustodyState.WORKING):
        report = _ask(lambda: custodian.cancel(_ticket(row), timeout_seconds=timeout_seconds))
    return report if report.state == CustodyState.UNKNOWN else _record(row, report)


def _is_first(row: HandOver) -> bool:
    """Say that the custody is asked now, and return whether nobody has asked before; committed before anybody does."""
    with transaction.atomic(durable=True):
        unasked = HandOver.objects.filter(pk=row.pk, state=HandOverState.INTENT)
        first = bool(unasked.update(state=HandOverState.ASKED, asked_at=Now()))
    if not first:
        row.refresh_from_db(fields=["state", "hash", "reason"])
    return first


def _asks_again(row: HandOver) -> bool:
    """Say that the custody is asked once more, for it has no such request; return whether nobody else is at it."""
    with transaction.atomic(durable=True):
        unanswered = HandOver.objects.filter(
            pk=row.pk, state=HandOverState.ASKED, asked_at__lt=Now() - ASKING
        )
        return bool(unanswered.update(asked_at=Now()))


def _found(row: HandOver, custodian: Custodian, timeout_seconds: float) -> Report:
    """Look it up. Raises CustodyForgotError when the custody has acknowledged it before."""
    if row.state in HANDED_BACK:
        return _report_of(row)
    report = _ask(lambda: custodian.find(_ticket(row), timeout_seconds=timeout_seconds))
    if report.state == CustodyState.UNKNOWN and row.state in UNDER_WAY:
        raise CustodyForgotError(
            f"{row.external_id}: the custody said {row.state}, and has no such request now"
        )
    return report


def _ticket(row: HandOver) -> Ticket:
    assert row.chain_id is not None, "only what passed the floor is handed over"
    return Ticket(row.key.backend_ref, row.external_id, row.chain_id, row.created_at)


def _ask(question: Callable[[], Report]) -> Report:
    """Return the custody's answer when it is one. Raises CustodyUnreachableError."""
    assert not connection.in_atomic_block, "no custody is asked inside a transaction"
    try:
        report = question()
        if report.hash and not _HASH.fullmatch(report.hash):
            raise ValueError("not a hash")
        return Report(
            CustodyState(report.state), report.hash.lower(), str(scrub(report.reason))[:REASON_LENGTH]
        )
    except CustodyUnreachableError as error:  # the client knows why, and says it without secrets
        log.warning("custody_unreachable", code=error.code, text=error.message)
        raise
    except Exception as error:  # noqa: BLE001 - of many kinds; the outcome is unknown, whatever it was
        # The text of an unknown exception may hold anything; its type says enough.
        name = type(error).__name__
        log.warning("custody_unreachable", exception=name)
        raise CustodyUnreachableError(f"the custody gave no usable answer ({name})") from None


def _record(row: HandOver, report: Report) -> Report:
    """Write down what the custody says; an end stays as it was told first, and a hash that was named stays named."""
    report = replace(report, hash=report.hash or row.hash)
    if (row.state, row.hash, row.reason) == (report.state, report.hash, report.reason):
        return report
    rows = HandOver.objects.filter(pk=row.pk).exclude(state__in=[HandOverState.INTENT, *HANDED_BACK])
    with transaction.atomic():
        chaining.locked([row.key_id])  # before the row, as whoever plans the same call does
        told = rows.update(
            state=HandOverState(report.state),
            hash=report.hash,
            reason=report.reason,
            answered_at=Now(),
        )
        if told:
            said = {"external_id": row.external_id, "says": str(report.state), "hash": report.hash}
            note("call_reported", said, row.key_id)
            if HandOverState(report.state) in HANDED_BACK and not report.hash:
                spending.give_back([row.external_id])
    log.info("custody_says", external_id=row.external_id, state=report.state, hash=report.hash)
    return report


def _report_of(row: HandOver) -> Report:
    return Report(CustodyState(row.state), row.hash, row.reason or row.error)
