"""Asking people: who may answer, what their answer is bound to, and how long it holds.

Upholds: whoever asks does not answer; one no ends it; a yes holds for the very content that was shown, under the policy
that was in force then, for as long as whoever gave it may give it, and until its time is up. What was signed once under
it may be signed again with another fee, under the needs of the policy of that moment: one nonce is executed once. With
another nonce it would be done twice, so people are asked again.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, User
from django.db import transaction
from django.db.models.functions import Now

from keyguard.audit.rows import note_row
from keyguard.errors import VoteInvalidError
from keyguard.models import Key
from keyguard.policies.judging import Need
from keyguard.policies.models import Policy, Question, Vote
from keyguard.states import QuestionKind, QuestionState

log = structlog.get_logger("keyguard")

LIVE = (QuestionState.OPEN, QuestionState.GRANTED, QuestionState.USED)

Listener = Callable[[Question], None]
_listeners: list[Listener] = []
_finders: list[Callable[[str], set[str]]] = []


def on_answer(listener: Listener) -> None:
    """Have `listener` called, after the commit, with each question that is answered. A hint: it may be lost."""
    if listener not in _listeners:
        _listeners.append(listener)


def on_behalf(find: Callable[[str], set[str]]) -> None:
    """Have `find` say which people are behind a name that requests come under, such as a token's."""
    if find not in _finders:
        _finders.append(find)


def ask(
    kind: QuestionKind,
    subject: str,
    content_hash: str,
    policy: Policy,
    needs: Sequence[Need],
    *,
    shown: Mapping[str, Any],
    asked_by: str,
    key: Key | None = None,
    slot: str = "",
) -> Question:
    """Ask people unless they are asked already, and return the question. Joins the caller's transaction.

    slot: what can be done once with what is to be signed, as of `keyguard.jobs`.
    """
    question = Question(
        kind=kind,
        subject=subject,
        key=key,
        content_hash=content_hash,
        policy=policy,
        needs=[asdict(need) for need in needs],
        shown=dict(shown),
        asked_by=asked_by[:150],
        expires_at=Now() + timedelta(seconds=settings.KEYGUARD["approval_seconds"]),
    )
    with transaction.atomic():
        live = _live(subject, content_hash)
        if live is not None and _is_stale(live, question, needs, slot):
            Question.objects.filter(pk=live.pk).update(state=QuestionState.EXPIRED, answered_at=Now())
        Question.objects.bulk_create([question], ignore_conflicts=True)
        found = Question.objects.get(subject=subject, content_hash=content_hash, state__in=LIVE)
        if found.pk == question.pk:
            note_row("asked", found, subject=subject, asked_by=found.asked_by)
    if found.pk == question.pk:
        log.info("approval_asked", question=str(found.pk), subject=subject, kind=str(kind))
    return found


def _is_stale(live: Question, question: Question, needs: Sequence[Need], slot: str) -> bool:
    """Return whether what was asked before is another question: of rules that asked for less or others, or used up."""
    if live.state == QuestionState.OPEN:
        return bool(live.needs != question.needs or live.policy_id != question.policy_id)
    return not _holds(live, needs, question.policy_id, slot)


def is_granted(
    subject: str, content_hash: str, needs: Sequence[Need], policy_id: UUID | None, slot: str = ""
) -> bool:
    """Return whether people have said yes to this content, and note what for it is used. In the signing transaction.

    policy_id: of the policy in force. slot: see `ask`.
    """
    question = _live(subject, content_hash)
    if question is None or not _holds(question, needs, policy_id, slot):
        return False
    return bool(Question.objects.filter(pk=question.pk).update(state=QuestionState.USED, slot=slot))


def _live(subject: str, content_hash: str) -> Question | None:
    rows = Question.objects.filter(subject=subject, content_hash=content_hash, state__in=LIVE)
    return rows.select_for_update().first()


def _holds(question: Question, needs: Sequence[Need], policy_id: UUID | None, slot: str) -> bool:
    """Return whether the answer is what is asked for now: in time, by people who may say so, and as many as it takes."""
    if question.state == QuestionState.USED:
        # What a command does is done once; a transaction is the same with another fee, not with another nonce.
        is_same = question.kind != QuestionKind.COMMAND and question.slot == slot
        return is_same and _covers(question.needs, needs)
    in_time = Question.objects.filter(pk=question.pk, expires_at__gt=Now()).exists()
    wanted = [asdict(need) for need in needs]
    is_given = question.state == QuestionState.GRANTED and question.policy_id == policy_id
    return is_given and in_time and _suffice(question, wanted)


def vote(
    question_id: UUID, person: AbstractBaseUser, approves: bool, content_hash: str, reason: str = ""
) -> Question:
    """Say yes or no, and return the question. content_hash: of what the person was shown.

    Raises VoteInvalidError: nothing was counted then.
    """
    with transaction.atomic():
        question = Question.objects.select_for_update().filter(pk=question_id).first()
        require_may_vote(question, person, content_hash)
        assert question is not None
        said = Vote.objects.create(
            question=question,
            person=person.get_username(),
            approves=approves,
            content_hash=content_hash,
            reason=reason[:500],
        )
        note_row("voted", said, person=said.person, approves=approves)
        if not approves:
            _move(question, QuestionState.REFUSED)
        elif _suffice(question, question.needs):
            valid = timedelta(seconds=settings.KEYGUARD["approved_seconds"])
            _move(question, QuestionState.GRANTED, expires_at=Now() + valid)
    log.info("approval_vote", question=str(question.pk), person=person.get_username(), approves=approves)
    return question


def hash_of(content: str) -> str:
    """Return what an answer is bound to."""
    return f"0x{hashlib.sha256(content.encode()).hexdigest()}"


def require_may_vote(question: Question | None, person: AbstractBaseUser, content_hash: str) -> None:
    """Raise VoteInvalidError, which says why, where this person's answer would not count."""
    name = person.get_username()
    if question is None:
        raise VoteInvalidError("there is no such question")
    if question.state != QuestionState.OPEN:
        raise VoteInvalidError(f"the question is closed: {question.get_state_display()}")
    if not Question.objects.filter(pk=question.pk, expires_at__gt=Now()).exists():
        raise VoteInvalidError("the time for an answer is over")
    asked_by = question.asked_by
    if name in {asked_by.removeprefix("command:")}.union(*(find(asked_by) for find in _finders)):
        raise VoteInvalidError("whoever asks does not answer")
    if question.content_hash != content_hash:
        raise VoteInvalidError("what you were shown is not what is asked: read it again")
    groups = {need["group"] for need in question.needs}
    if not members({name}, groups):
        raise VoteInvalidError(f"only members of {', '.join(sorted(groups))} answer this")
    if question.votes.filter(person=name).exists():
        raise VoteInvalidError("you have answered already")


def _move(question: Question, state: QuestionState, **changes: Any) -> None:
    Question.objects.filter(pk=question.pk).update(state=state, answered_at=Now(), **changes)
    question.refresh_from_db()
    transaction.on_commit(lambda: _tell(question), robust=True)


def _tell(question: Question) -> None:
    for listener in _listeners:
        listener(question)


def _suffice(question: Question, needs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether enough have said yes who may say so now."""
    names = set(
        question.votes.filter(approves=True, content_hash=question.content_hash).values_list(
            "person", flat=True
        )
    )
    return all(len(members(names, {need["group"]})) >= need["approvals"] for need in needs)


def _covers(had: Sequence[Mapping[str, Any]], needs: Sequence[Need]) -> bool:
    """Return whether what was asked for then is no less than what is asked for now."""
    most: dict[str, int] = {}
    for need in had:
        most[need["group"]] = max(most.get(need["group"], 0), need["approvals"])
    return all(most.get(need.group, 0) >= need.approvals for need in needs)


def members(names: Collection[str], groups: Collection[str]) -> set[str]:
    """Return who of these people is active and in one of the groups now."""
    found = User.objects.filter(username__in=names, is_active=True, groups__name__in=groups)
    return set(found.values_list("username", flat=True))


def expire() -> int:
    """Close what nobody answered, or used, in time; return how many."""
    late = Question.objects.filter(
        state__in=(QuestionState.OPEN, QuestionState.GRANTED), expires_at__lte=Now()
    )
    return late.update(state=QuestionState.EXPIRED, answered_at=Now())


def answers(subjects: Collection[str]) -> dict[str, str]:
    """Return how people decided about those subjects of which nothing is open any more.

    An empty text is a yes; else it says who refused, or that nobody answered in time.
    """
    found = Question.objects.filter(subject__in=subjects).order_by("asked_at").prefetch_related("votes")
    # The last question about each content counts: one that was answered too late was asked again.
    last = {(question.subject, question.content_hash): question for question in found}
    decided: dict[str, str] = {}
    still_open = set()
    for (subject, _), question in last.items():
        if question.state == QuestionState.OPEN:
            still_open.add(subject)
        decided[subject] = decided.get(subject) or _why_not(question)
    return {subject: words for subject, words in decided.items() if subject not in still_open}


def _why_not(question: Question) -> str:
    if question.state == QuestionState.EXPIRED:
        return "nobody approved it in time, or it was not signed in time after that"
    refusals = [vote for vote in question.votes.all() if not vote.approves]
    return "; ".join(f"{vote.person} refused it: {vote.reason or 'no reason given'}" for vote in refusals)
