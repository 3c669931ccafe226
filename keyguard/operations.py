"""Operations that take others' approval where KEYGUARD_OPERATIONS_GROUP names a group.

Upholds: a yes is for the very operation that was shown. What needs nothing but the database is carried out with the last
yes, in the same commit. What needs a secret, a KEK or minutes is carried out by the command that asked, once it is run
again; the yes is used up by it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction

from keyguard.errors import KeyActInvalidError
from keyguard.models import Key
from keyguard.policies import asking, publishing
from keyguard.policies.deciding import active_policy
from keyguard.policies.judging import Need
from keyguard.policies.models import Policy, Question
from keyguard.states import KekVerb, KeyVerb, QuestionKind, SealVerb


@dataclass(frozen=True, slots=True)
class Operation:
    """What somebody wants to do. state: what a yes is for; what has changed since is asked about anew."""

    verb: KeyVerb | KekVerb | SealVerb
    about: str  # in a few words, such as: key treasury
    state: str
    reason: str
    shown: Mapping[str, Any]
    key: Key | None = None

    @property
    def subject(self) -> str:
        return f"{self.about}: {self.verb.label}"

    @property
    def content_hash(self) -> str:
        return asking.hash_of(f"{self.verb}|{self.about}|{self.state}|{sorted(self.shown.items())}")


# By verb: what is done with the last yes, in its transaction.
EXECUTORS: dict[str, Callable[[Question, str], None]] = {}


def ask(operation: Operation, actor: str) -> Question | None:
    """Ask for it to be carried out with the last yes; None: nobody is to be asked. Raises KeyActInvalidError."""
    if not settings.KEYGUARD_OPERATIONS_GROUP:
        return None
    return _ask(QuestionKind.KEY, operation, actor)


def permit(operation: Operation, actor: str) -> Question | None:
    """Return None when it may go on now, which uses the yes up; else the question. Raises KeyActInvalidError."""
    if not settings.KEYGUARD_OPERATIONS_GROUP:
        return None
    with transaction.atomic():
        if asking.is_granted(operation.subject, operation.content_hash, [_need()], _policy().pk):
            return None
        return _ask(QuestionKind.COMMAND, operation, actor)


def _ask(kind: QuestionKind, operation: Operation, actor: str) -> Question:
    shown = {"verb": str(operation.verb), "about": operation.about, "reason": operation.reason}
    return asking.ask(
        kind,
        operation.subject,
        operation.content_hash,
        _policy(),
        [_need()],
        shown={**operation.shown, **shown},
        asked_by=actor,
        key=operation.key,
    )


def _need() -> Need:
    return Need(
        "operations on keys", settings.KEYGUARD_OPERATIONS_APPROVALS, settings.KEYGUARD_OPERATIONS_GROUP
    )


def _policy() -> Policy:
    policy = active_policy()
    if policy is None:
        raise KeyActInvalidError("no policy is in force: put one in force first")
    return policy


def _carry_out(question: Question, actor: str) -> None:
    EXECUTORS[question.shown["verb"]](question, actor)


publishing.EXECUTORS[QuestionKind.KEY] = _carry_out
