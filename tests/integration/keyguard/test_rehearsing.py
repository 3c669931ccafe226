"""A draft tried on the last requests before it is put in force."""

from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.db.models import F

from keyguard import (
    ApprovalPendingError,
    sign_message,
    sign_transactions,
)
from keyguard.errors import (
    PolicyDeniedError,
)
from keyguard.models import HandOver, Key, SigningRecord
from keyguard.policies import publishing, rehearsing
from keyguard.policies.models import Question
from keyguard.states import QuestionState
from tests.integration.keyguard.policies import (
    ALLOW_ALL,
    ALLOW_PAYMENTS,
    ask,
    differing,
    handed_over,
    person,
    put_in_force,
    say,
    wanted,
)


def test_rehearsal_shows_which_requests_of_the_past_would_be_decided_otherwise(key: Key) -> None:
    sign_transactions([wanted(key), wanted(key, 1, "big", value=50)])
    sign_message(key.address, b"hello", "message")
    draft = publishing.draft({"rules": [ALLOW_PAYMENTS, ask(value={"at_least": 50})]}, "author")
    found = {one.request.row.subject or one.request.row.idempotency_key: one for one in differing(draft)}
    assert set(found) == {"big", "message"}
    assert found["big"].after.needs
    assert not found["message"].after.allowed
    put_in_force()
    with pytest.raises(PolicyDeniedError):
        sign_transactions([wanted(key, 2, "refused")])
    allowed = {one.request.row.subject for one in differing(draft) if one.after.allowed}
    assert "refused" in allowed, "what was refused is rehearsed, too"


def test_rehearsal_takes_calls_of_custodies_and_what_waits_into_the_newest(key: Key) -> None:
    sign_transactions([wanted(key)])
    handed = handed_over(key, "paid", 50)
    refused_by_the_floor = HandOver.objects.create(external_id="floor", key=key, state="REFUSED", error="X")
    put_in_force(*ALLOW_ALL, ask(approvals=1, value={"at_least": 60}))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, 1, "waits", value=70)])
    question = Question.objects.get()
    draft = publishing.draft({"rules": []}, "author")
    rows = [one.request.row for one in differing(draft)]
    assert rows == [question, handed, SigningRecord.objects.get()], "newest first"
    assert refused_by_the_floor not in rows
    assert [one.request.row for one in differing(draft, last=2)] == rows[:2]
    assert rehearsing.rehearse(draft, last=2).looked_at == 2
    stricter = publishing.draft({"rules": [*ALLOW_ALL, ask(approvals=1, value={"at_least": 50})]}, "author")
    needs = {one.request.row: one.after.needs[0].approvals for one in differing(stricter)}
    assert needs == {handed: 1}, "the call's own value and data are judged"
    say(question, person("ann", "treasury"))
    assert question in [one.request.row for one in differing(draft)], "approved, and not signed yet"


@pytest.mark.parametrize("change", [{"state": QuestionState.EXPIRED}, {"expires_at": F("asked_at")}])
def test_rehearsal_leaves_out_questions_that_wait_no_more(key: Key, change: dict[str, Any]) -> None:
    put_in_force(*ALLOW_ALL, ask(approvals=1))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])
    draft = publishing.draft({"rules": []}, "author")
    assert rehearsing.rehearse(draft).looked_at == 1
    Question.objects.update(**change)
    assert rehearsing.rehearse(draft).looked_at == 0


@pytest.mark.sqlite_too
def test_facts_of_a_call_that_was_handed_over_stay_as_they_were_asked(key: Key) -> None:
    handed = handed_over(key, "paid", 50)
    with pytest.raises(DatabaseError), transaction.atomic():
        HandOver.objects.filter(pk=handed.pk).update(facts=None)
    HandOver.objects.filter(pk=handed.pk).update(state="ASKED")
    handed.refresh_from_db()
    assert (handed.state, handed.facts["value"]) == ("ASKED", "50")
