"""Versions of the policy: drafts, and putting one in force.

Upholds: a version's text never changes; where the settings name a group, its members put a version in force and nobody
else; whoever wrote it is not one of them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Max
from django.db.models.functions import Now

from keyguard.audit import chaining
from keyguard.audit.rows import note_row
from keyguard.errors import PolicyInvalidError, VoteInvalidError
from keyguard.policies import asking, guarding
from keyguard.policies.deciding import active_policy
from keyguard.policies.judging import Need
from keyguard.policies.models import Policy, Question
from keyguard.policies.rules import parse
from keyguard.states import PolicyState, QuestionKind, QuestionState

log = structlog.get_logger("keyguard")


def draft(body: Mapping[str, Any], author: str, note: str = "") -> Policy:
    """Store a new version, which is not in force yet, and return it. Raises PolicyInvalidError."""
    check(body)
    with transaction.atomic():
        # Of two that are written at once the second waits here, and takes the number after the first one's.
        Policy.objects.select_for_update().order_by("number").first()
        last = Policy.objects.aggregate(number=Max("number"))["number"] or 0
        made = Policy.objects.create(
            number=last + 1, body=body, hash=hash_of(body), author=author, note=note[:500]
        )
        note_row("policy_drafted", made, author=author)
        return made


def check(body: Mapping[str, Any]) -> None:
    """Raise PolicyInvalidError where this cannot be a new version."""
    parse(body)
    active = active_policy()
    if active and active.hash == hash_of(body):
        raise PolicyInvalidError("policy", f"is the same as {active}, which is in force")


def hash_of(body: Mapping[str, Any]) -> str:
    """Return what tells this text from any other, however it was written down."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return f"0x{hashlib.sha256(text.encode()).hexdigest()}"


def propose(policy: Policy, actor: str) -> Question | None:
    """Have a draft put in force: at once where no group is to be asked, else when its members have said yes."""
    if policy.state != PolicyState.DRAFT:
        raise VoteInvalidError(f"{policy} is no draft: {policy.get_state_display()}")
    if not settings.KEYGUARD_POLICY_GROUP:
        activate(policy, actor)
        return None
    need = Need("change of policy", settings.KEYGUARD_POLICY_APPROVALS, settings.KEYGUARD_POLICY_GROUP)
    shown = {"policy": policy.number, "author": policy.author, "note": policy.note}
    with transaction.atomic():
        return asking.ask(
            QuestionKind.POLICY,
            _subject(policy),
            policy.hash,
            policy,
            [need],
            shown=shown,
            asked_by=actor,
        )


def vote(
    question: Question, person: AbstractBaseUser, approves: bool, content_hash: str, reason: str = ""
) -> Question:
    """Answer a question; what the last yes permits is done in the same commit, but for signatures. Raises VoteInvalidError."""
    with transaction.atomic():
        _require_not_concerned(question, person)
        answered = asking.vote(question.pk, person, approves, content_hash, reason)
        if answered.kind in EXECUTORS and answered.state == QuestionState.GRANTED:
            needs = [Need(need["rule"], need["approvals"], need["group"]) for need in answered.needs]
            asking.is_granted(answered.subject, answered.content_hash, needs, answered.policy_id)
            EXECUTORS[answered.kind](answered, person.get_username())
    return answered


def may_vote(question: Question, person: AbstractBaseUser) -> str:
    """Return why this person's answer would not count; nothing when it would."""
    try:
        _require_not_concerned(question, person)
        asking.require_may_vote(question, person, question.content_hash)
    except VoteInvalidError as error:
        return error.message
    return ""


def _require_not_concerned(question: Question, person: AbstractBaseUser) -> None:
    if question.kind == QuestionKind.MEMBERSHIP and question.shown["person_id"] == person.pk:
        raise VoteInvalidError("whom it is about does not answer")
    if question.kind == QuestionKind.POLICY and question.policy.author == person.get_username():
        raise VoteInvalidError("whoever wrote a policy does not approve it")


def activate(policy: Policy, actor: str) -> None:
    """Put a draft in force in the place of what is. Signatures that are under way end under the one they began with."""
    with transaction.atomic():
        # All versions are locked in one order: of two that are put in force at once the later one wins.
        list(Policy.objects.select_for_update().order_by("number").values_list("pk"))
        Policy.objects.filter(state=PolicyState.ACTIVE).update(state=PolicyState.RETIRED, retired_at=Now())
        moved = Policy.objects.filter(pk=policy.pk, state=PolicyState.DRAFT).update(
            state=PolicyState.ACTIVE, activated_at=Now()
        )
        if not moved:
            raise VoteInvalidError(f"{policy} is no draft any more")
        guarding.note()
        chaining.note("policy_in_force", {"policy": policy.number, "hash": policy.hash, "actor": actor})
    policy.refresh_from_db()
    log.warning("policy_in_force", policy=policy.number, hash=policy.hash, actor=actor)


def _subject(policy: Policy) -> str:
    return f"policy {policy.number}"


# What is done once people have said yes. A signature is made by whoever asks for it again.
EXECUTORS: dict[str, Callable[[Question, str], None]] = {
    QuestionKind.POLICY: lambda question, actor: activate(question.policy, actor)
}
