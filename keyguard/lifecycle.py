"""What people do to keys: suspending, giving back, retiring, giving up, destroying, and how long a key may sign.

Upholds: a key that was compromised never signs again; what takes a key away takes one person, what gives one back, or
cannot be mended, takes others' approval where the settings name a group; each act is kept, with who and why. From the
commit that destroys a key on, the database has nothing that opens it; what is left elsewhere is `keyguard.destroying`'s.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.utils import timezone

from keyguard import destroying, operations
from keyguard.audit.rows import note_row
from keyguard.crashpoints import crashpoint
from keyguard.custodians import CUSTODIANS
from keyguard.errors import KeyActInvalidError, KeyguardError
from keyguard.models import Key, KeyAct
from keyguard.operations import Operation
from keyguard.policies.models import Question
from keyguard.states import KEY_TRANSITIONS, KeyState, KeyVerb, before

log = structlog.get_logger("keyguard")

STATES = {
    KeyVerb.SUSPEND: KeyState.SUSPENDED,
    KeyVerb.REACTIVATE: KeyState.ACTIVE,
    KeyVerb.RETIRE: KeyState.RETIRED,
    KeyVerb.COMPROMISED: KeyState.COMPROMISED,
    KeyVerb.DESTROY: KeyState.DESTROYED,
}


def act(
    key: Key,
    verb: KeyVerb,
    actor: str,
    reason: str,
    *,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Question | None:
    """Do it, or ask those whose approval it takes, and return the question. not_before, not_after: of VALIDITY.

    Raises KeyActInvalidError: nothing was changed then.
    """
    if not reason.strip():
        raise KeyActInvalidError("say why: whoever reads it later will want to know")
    if verb in STATES and key.state not in before(STATES[verb], KEY_TRANSITIONS):
        hint = ": retire it first" if verb == KeyVerb.DESTROY and key.state != KeyState.DESTROYED else ""
        raise KeyActInvalidError(f"a key that is {key.get_state_display()} cannot be {_past(verb)}{hint}")
    if verb == KeyVerb.DESTROY and key.backend in CUSTODIANS:
        raise KeyActInvalidError("the key is the custody's: it is destroyed there")
    if not_before and not_after and not_before >= not_after:
        raise KeyActInvalidError("it would end before it begins")
    given = {"not_before": not_before, "not_after": not_after} if verb == KeyVerb.VALIDITY else {}
    details = {name: at.isoformat() if at else None for name, at in given.items()}
    if _takes_approval(key, verb, not_before, not_after):
        question = operations.ask(_operation(key, verb, reason, details), actor)
        if question is not None:
            return question
    _carry_out(key, verb, actor, reason, details)
    return None


def _takes_approval(key: Key, verb: KeyVerb, not_before: datetime | None, not_after: datetime | None) -> bool:
    """Return whether the key could sign more after it, or can never be had again."""
    if verb != KeyVerb.VALIDITY:
        return verb in (KeyVerb.REACTIVATE, KeyVerb.DESTROY)
    earlier = key.not_before is not None and (not_before is None or not_before < key.not_before)
    later = key.not_after is not None and (not_after is None or not_after > key.not_after)
    return earlier or later


def _operation(key: Key, verb: KeyVerb, reason: str, details: Mapping[str, Any]) -> Operation:
    shown = {"key": key.alias, "address": key.address, **details}
    return Operation(verb, f"key {key.alias}", state_of(key), reason, shown, key)


def state_of(key: Key) -> str:
    """Return what an approval is for: one of yesterday is not for what has happened to the key since."""
    return f"{key.pk}|{key.state}|{key.acts.count()}"


def carry_out_approved(question: Question, actor: str) -> None:
    """Do what people have approved, in the transaction of the last yes."""
    assert question.key_id is not None
    key = Key.objects.select_for_update().get(pk=question.key_id)
    verb = KeyVerb(question.shown["verb"])
    details = {name: question.shown[name] for name in ("not_before", "not_after") if name in question.shown}
    if verb in STATES and key.state not in before(STATES[verb], KEY_TRANSITIONS):
        raise KeyActInvalidError(f"meanwhile the key is {key.get_state_display()}")
    _carry_out(key, verb, f"{question.asked_by}, {actor}", question.shown["reason"], details)


def _carry_out(key: Key, verb: KeyVerb, actor: str, reason: str, details: Mapping[str, Any]) -> None:
    changes: dict[str, Any] = {
        name: datetime.fromisoformat(text) if text else None for name, text in details.items()
    }
    rows = Key.objects.filter(pk=key.pk)
    if verb in STATES:
        changes = {"state": STATES[verb], "state_reason": "" if verb == KeyVerb.REACTIVATE else reason[:64]}
        rows = rows.filter(state__in=before(STATES[verb], KEY_TRANSITIONS))
    with transaction.atomic():
        if not rows.update(**changes):
            raise KeyActInvalidError("somebody else has changed the key meanwhile: look at it again")
        note(key, verb, actor, reason, details)
        if verb == KeyVerb.DESTROY:
            destroying.shred(key)
    key.refresh_from_db()
    log.warning("key_act", key=key.address, verb=str(verb), actor=actor)
    if verb == KeyVerb.DESTROY:
        # A yes in the console may come from a process that does not reach the backend: whoever asks again finishes.
        transaction.on_commit(lambda: _finish(key))


def _finish(key: Key) -> None:
    crashpoint("keyguard.key_doomed")
    try:
        destroying.finish(key)
    except KeyguardError as error:
        log.warning("key_destruction_unfinished", key=key.address, code=error.code)


def note(key: Key, verb: KeyVerb, actor: str, reason: str, details: Mapping[str, Any]) -> None:
    """Keep what was done to a key. Joins the caller's transaction."""
    done = KeyAct.objects.create(
        key=key, verb=verb, actor=actor[:150], reason=reason[:500], details=dict(details)
    )
    state = Key.objects.values_list("state", flat=True).get(pk=key.pk)
    note_row("key_act", done, key.pk, verb=str(verb), actor=actor, reason=reason, state=state)


def expiring(within_days: int = 30) -> list[Key]:
    """Return the active keys whose time is up soon, soonest first."""
    until = timezone.now() + timedelta(days=within_days)
    return list(Key.objects.filter(state=KeyState.ACTIVE, not_after__lte=until).order_by("not_after"))


def _past(verb: KeyVerb) -> str:
    return {
        KeyVerb.SUSPEND: "suspended",
        KeyVerb.REACTIVATE: "reactivated",
        KeyVerb.RETIRE: "retired",
        KeyVerb.COMPROMISED: "marked as compromised",
        KeyVerb.DESTROY: "destroyed",
    }.get(verb, "changed")


operations.EXECUTORS.update(dict.fromkeys([*STATES, KeyVerb.VALIDITY], carry_out_approved))
