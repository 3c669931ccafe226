"""Starting a rotation: at once, or with the last yes of those who must approve it."""

from typing import Any

from django.db import transaction

from dalp.assets.rotation import RotateKey
from keyguard import lifecycle, operations, succession
from keyguard.errors import KeyActInvalidError
from keyguard.models import Key
from keyguard.operations import Operation
from keyguard.policies.models import Question
from keyguard.states import KeyVerb
from workflows import start_workflow
from workflows.models import Run


def start_rotation(
    key: Key, actor: str, reason: str, *, backend: str = "", fund_wei: int | None = None, **options: Any
) -> Run | Question:
    """Start handing a key over to a new one, and return the run; or the question that comes first.

    options: of `start_workflow`. Raises KeyActInvalidError, BackendUnknownError: nothing was started then.
    """
    if not reason.strip():
        raise KeyActInvalidError("say why: whoever reads it later will want to know")
    succession.require_can_be_replaced(key, backend)
    details = {"backend": backend, "fund_wei": None if fund_wei is None else str(fund_wei)}
    shown = {"key": key.alias, "address": key.address, **details}
    state = lifecycle.state_of(key)
    about = f"key {key.alias}"
    question = operations.ask(Operation(KeyVerb.ROTATE, about, state, reason, shown, key), actor)
    return question or _start(key, actor, reason, details, **options)


def _start(key: Key, actor: str, reason: str, details: dict[str, Any], **options: Any) -> Run:
    # Joined or not, in one commit: an act that tells of a run which is there.
    with transaction.atomic():
        data = {"key_id": str(key.pk), "reason": reason[:400], "actor": actor[:150], **details}
        run, is_new = start_workflow(RotateKey.definition.name, data, **options)
        if is_new:
            lifecycle.note(key, KeyVerb.ROTATE, actor, reason, {"run": str(run.pk)})
    return run


def _start_approved(question: Question, actor: str) -> None:
    """Start what people have approved, in the transaction of the last yes."""
    assert question.key_id is not None
    key = Key.objects.select_for_update().get(pk=question.key_id)
    succession.require_can_be_replaced(key, question.shown["backend"])
    details = {name: question.shown[name] for name in ("backend", "fund_wei")}
    actors = f"{question.asked_by}, {actor}"
    _start(key, actors, question.shown["reason"], details, idempotency_key=f"question {question.pk}")


operations.EXECUTORS[KeyVerb.ROTATE] = _start_approved
