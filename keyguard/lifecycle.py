"""What people do to keys: suspending, giving back, retiring, giving up, and how long a key may sign.

Upholds: a key that was compromised never signs again; what takes a key away takes one person, what gives one back takes
others' approval where the settings name a group; each act is kept, with who and why.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from keyguard.audit.rows import note_row
from keyguard.errors import KeyActInvalidError
from keyguard.models import Key, KeyAct
from keyguard.policies import asking, publishing
from keyguard.policies.deciding import active_policy
from keyguard.policies.judging import Need
from keyguard.policies.models import Question
from keyguard.states import KEY_TRANSITIONS, KeyState, KeyVerb, QuestionKind, before

log = structlog.get_logger("keyguard")

STATES = {
    KeyVerb.SUSPEND: KeyState.SUSPENDED,
    KeyVerb.REACTIVATE: KeyState.ACTIVE,
    KeyVerb.RETIRE: KeyState.RETIRED,
    KeyVerb.COMPROMISED: KeyState.COMPROMISED,
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
        raise KeyActInvalidError(f"a key that is {key.get_state_display()} cannot be {_past(verb)}")
    if not_before and not_after and not_before >= not_after:
        raise KeyActInvalidError("it would end before it begins")
    given = {"not_before": not_before, "not_after": not_after} if verb == KeyVerb.VALIDITY else {}
    details = {name: at.isoformat() if at else None for name, at in given.items()}
    if _gives(key, verb, not_before, not_after) and settings.KEYGUARD_OPERATIONS_GROUP:
        return _ask(key, verb, actor, reason, details)
    _carry_out(key, verb, actor, reason, details)
    return None


def _gives(key: Key, verb: KeyVerb, not_before: datetime | None, not_after: datetime | None) -> bool:
    """Return whether the key could sign more after it."""
    if verb != KeyVerb.VALIDITY:
        return verb == KeyVerb.REACTIVATE
    earlier = key.not_before is not None and (not_before is None or not_before < key.not_before)
    later = key.not_after is not None and (not_after is None or not_after > key.not_after)
    return earlier or later


def _ask(key: Key, verb: KeyVerb, actor: str, reason: str, details: Mapping[str, Any]) -> Question:
    need = Need(
        "operations on keys", settings.KEYGUARD_OPERATIONS_APPROVALS, settings.KEYGUARD_OPERATIONS_GROUP
    )
    policy = active_policy()
    if policy is None:
        raise KeyActInvalidError("no policy is in force: put one in force first")
    shown = {"verb": str(verb), "key": key.alias, "address": key.address, "reason": reason, **details}
    # Its state and acts so far: an approval of yesterday is not for what has happened to the key since.
    content = f"{verb}|{key.pk}|{key.state}|{key.acts.count()}|{sorted(details.items())}"
    return asking.ask(
        QuestionKind.KEY,
        f"key {key.alias}: {verb.label}",
        asking.hash_of(content),
        policy,
        [need],
        shown=shown,
        asked_by=actor,
        key=key,
    )


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
        done = KeyAct.objects.create(
            key=key, verb=verb, actor=actor[:150], reason=reason[:500], details=dict(details)
        )
        key.refresh_from_db()
        note_row("key_act", done, key.pk, verb=str(verb), actor=actor, state=key.state)
    log.warning("key_act", key=key.address, verb=str(verb), actor=actor)


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
    }.get(verb, "changed")


publishing.EXECUTORS[QuestionKind.KEY] = carry_out_approved
