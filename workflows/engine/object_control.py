"""What people may see of a virtual object, and do to it. What they do is noted with who and why.

To pause and resume one: `pause_scope("key:wallet:acct-7", ...)`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import F
from pydantic import ValidationError

from workflows.clock import db_now
from workflows.engine.acts import note_act
from workflows.engine.control import cancel_run
from workflows.engine.ending import end_at_once, failure
from workflows.engine.keys import inbox
from workflows.engine.transactions import in_one_transaction
from workflows.errors import InvalidInputError, NotPossibleError, ObjectConflictError
from workflows.models import Limit, Run, VirtualObjectState
from workflows.objects import ObjectDefinition, find_object
from workflows.states import RunState

INBOX_SHOWN = 100


@dataclass(frozen=True)
class ObjectStatus:
    """A virtual object as people see it. `inbox`: the first of the runs that wait, `waiting`: how many do."""

    key: str
    state: Any
    version: int
    holder: Run | None
    held_since: datetime | None
    inbox: list[Run]
    waiting: int
    paused: bool

    @property
    def is_stopped(self) -> bool:
        """Tell whether its holder waits for a person, and everybody else for the holder."""
        return self.holder is not None and self.holder.state == RunState.DEAD_LETTER


def describe_object(key: str) -> ObjectStatus:
    """Return who holds a key (`wallet:acct-7`), who waits for it, and the state. One never used is simply free."""
    row = VirtualObjectState.objects.select_related("holder").filter(pk=key).first() or VirtualObjectState(
        key=key
    )
    waiting = inbox(key)
    return ObjectStatus(
        key=key,
        state=row.state,
        version=row.version,
        holder=row.holder,
        held_since=row.held_since,
        inbox=list(waiting[:INBOX_SHOWN]),
        waiting=waiting.count(),
        paused=Limit.objects.filter(scope=f"key:{key}", paused=True).exists(),
    )


@in_one_transaction
def skip_head(key: str, *, actor: str, reason: str) -> Run:
    """Cancel the first of the runs that wait for a key; return it. The holder is left alone.

    Raises NotPossibleError when nobody waits.
    """
    head = _lock_head(key)
    note_act(actor, "skip_head", f"key:{key}", reason, run=str(head.pk))
    if head.attempt == 0 and head.lease_until is None:
        error = failure("OBJECT_CALL_SKIPPED", actor, reason, head)
        end_at_once(head, RunState.CANCELLED, "run_skipped", error, actor, reason)
    else:  # it has begun already, gave the key away, and has something to undo
        cancel_run(head.pk, actor=actor, reason=reason)
    head.refresh_from_db()
    return head


def _lock_head(key: str) -> Run:
    while (head := inbox(key).first()) is not None:
        locked = inbox(key).select_for_update().filter(pk=head.pk).first()
        if locked is not None:  # else it was given the key just now, and the next one is the first
            return locked
    raise NotPossibleError(f"nobody waits for {key}")


@in_one_transaction
def edit_state(
    key: str, new_state: Any, *, expected_version: int, actor: str, reason: str
) -> VirtualObjectState:
    """Replace the state of a virtual object; return its row. The state before and after is noted with the act.

    new_state: as JSON, checked by the class's model. expected_version: of the state that the person has looked at.
    Raises NotPossibleError (no class of virtual objects has such keys), InvalidInputError, BadStateError, and
    ObjectConflictError when a worker is at a call of the object just now, or the state was written since.
    """
    name, _, own_key = key.partition(":")
    definition = find_object(name)
    if definition is None or not own_key:
        raise NotPossibleError(f"{key} is no key of a virtual object that this process knows")
    stored = _checked(definition, own_key, new_state)
    VirtualObjectState.objects.bulk_create([VirtualObjectState(key=key)], ignore_conflicts=True)
    before = _lock_idle(key)
    rows = VirtualObjectState.objects.filter(key=key, version=expected_version, holder=before.holder_id)
    if rows.update(state=stored, version=F("version") + 1) == 0:
        raise ObjectConflictError(
            f"{key} has version {before.version}, not {expected_version}, or was just taken"
        )
    note_act(
        actor,
        "edit_state",
        f"key:{key}",
        reason,
        before=before.state,
        after=stored,
        version=expected_version + 1,
    )
    return VirtualObjectState.objects.get(key=key)


def _checked(definition: ObjectDefinition, key: str, new_state: Any) -> Any:
    try:
        return definition.dump(key, definition.state_model.model_validate(new_state))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        what = f"the new state of {definition.full_key(key)} is not valid"
        raise InvalidInputError(what, [dict(each) for each in errors]) from None


def _lock_idle(key: str) -> VirtualObjectState:
    """Lock the run that holds the key, so that no worker claims it. Raises ObjectConflictError when one has."""
    row = VirtualObjectState.objects.get(key=key)
    if row.holder_id is not None:
        Run.objects.select_for_update().get(pk=row.holder_id)
        if Run.objects.filter(pk=row.holder_id, lease_until__gt=db_now()).exists():
            raise ObjectConflictError(
                f"run {row.holder_id} is at work on {key}; pause the key, and try again"
            )
    return row
