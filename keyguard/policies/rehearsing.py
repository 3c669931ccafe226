"""Rehearsals: what a draft would decide otherwise of what was really asked, to be signed here or executed by a custody.

Upholds: nothing is stored, signed or asked by it. The newest requests are taken, whatever became of them, those for
which people are asked at this moment, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice

from django.db.models import Q
from django.db.models.functions import Now

from keyguard import ethereum
from keyguard.models import HandOver, SigningRecord
from keyguard.policies.deciding import active_policy, rules_of
from keyguard.policies.facts import Facts, facts_from, facts_of_content
from keyguard.policies.judging import Verdict, judge
from keyguard.policies.models import Policy, Question
from keyguard.policies.rules import parse
from keyguard.states import QuestionKind, QuestionState, RecordKind, RecordState

REHEARSED = 1000

Row = SigningRecord | HandOver | Question


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked once, and the row that says so: a question where nothing came of it yet."""

    at: datetime
    row: Row
    facts: Facts


@dataclass(frozen=True, slots=True)
class Difference:
    """A request of which a draft would think otherwise."""

    request: Request
    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of it. looked_at: how many requests there were to judge."""

    looked_at: int
    differences: list[Difference]


def rehearse(policy: Policy, last: int = REHEARSED) -> Rehearsal:
    """Return which of the last requests would be decided otherwise than by the policy in force. Limits are not counted."""
    active = active_policy()
    before, after = rules_of(active.pk) if active else (), parse(policy.body)
    found, looked_at = [], 0
    for request in _newest(last):
        looked_at += 1
        was, would_be = judge(before, request.facts), judge(after, request.facts)
        if (was.allowed, was.needs) != (would_be.allowed, would_be.needs):
            found.append(Difference(request, was, would_be))
    return Rehearsal(looked_at, found)


def _newest(last: int) -> Iterator[Request]:
    """Return the last requests, the newest first. Each kind gives no more than so many, and is read no further than needed."""
    kinds = (_signed_here(last), _handed_over(last), _waiting(last))
    return islice(merge(*kinds, key=lambda request: request.at, reverse=True), last)


def _signed_here(last: int) -> Iterator[Request]:
    # What the floor refused has no facts, and what was begun and is no transaction has them.
    in_its_bytes = Q(kind=RecordKind.TRANSACTION, state=RecordState.SIGNED)
    records = SigningRecord.objects.filter(Q(facts__isnull=False) | in_its_bytes).select_related("key")
    # In small parts: signed bytes may carry blobs, a megabyte each.
    for record in records.order_by("-created_at")[:last].iterator(chunk_size=50):
        yield Request(record.created_at, record, _facts_of(record))


def _facts_of(record: SigningRecord) -> Facts:
    if record.facts is not None:
        return facts_from(record.facts)
    content, _ = ethereum.decode_signed(bytes(record.raw))
    key = record.key
    return facts_of_content(content, key.alias, key.address, record.caller, record.created_at)


def _handed_over(last: int) -> Iterator[Request]:
    calls = HandOver.objects.filter(facts__isnull=False).order_by("-created_at")
    for call in calls[:last].iterator(chunk_size=50):
        assert call.facts is not None, "asked for above"
        yield Request(call.created_at, call, facts_from(call.facts))


def _waiting(last: int) -> Iterator[Request]:
    """Return what people are asked about, or have approved, and nothing was signed of yet."""
    open_ones = Question.objects.filter(
        kind=QuestionKind.SIGNATURE,
        state__in=(QuestionState.OPEN, QuestionState.GRANTED),
        expires_at__gt=Now(),
    )
    for question in open_ones.order_by("-asked_at")[:last].iterator(chunk_size=50):
        yield Request(question.asked_at, question, facts_from(question.shown))
