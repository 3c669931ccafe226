"""What people must approve: who may answer, what their yes is for, and how long it holds."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import F
from eth_account import Account

from dalp.api.auth import actor, scope
from dalp.models import ApiToken
from keyguard import (
    ApprovalPendingError,
    SigningRequest,
    sign_transactions,
)
from keyguard.errors import (
    PolicyDeniedError,
    VoteInvalidError,
)
from keyguard.models import Key, SigningRecord
from keyguard.policies import asking, publishing
from keyguard.policies.models import Question, Vote
from keyguard.states import QuestionState
from tests.integration.keyguard.policies import (
    ALLOW_ALL,
    ask,
    person,
    put_in_force,
    say,
    wanted,
)
from tests.integration.keyguard.requests import TO, transfer


@pytest.fixture
def question(key: Key) -> Question:
    """Two of the treasury are asked about a payment."""
    put_in_force(*ALLOW_ALL, ask())
    with pytest.raises(ApprovalPendingError, match="2 of treasury must approve"):
        sign_transactions([wanted(key)])
    assert not SigningRecord.objects.exists()
    return Question.objects.get()


@pytest.mark.case("K40")
@pytest.mark.sqlite_too
def test_two_people_approve_and_then_it_is_signed_once_and_again_with_other_fees(
    key: Key, question: Question
) -> None:
    assert question.shown["value"] == "1"
    assert question.asked_by == "team"
    say(question, person("ann", "treasury"))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])
    assert Question.objects.count() == 1, "people are asked once"
    assert say(question, person("bob", "treasury")).state == QuestionState.GRANTED
    (signed,) = sign_transactions([wanted(key)])
    assert Account.recover_transaction(signed.raw) == key.address
    question.refresh_from_db()
    assert question.state == QuestionState.USED
    again = wanted(key, 0, maxFeePerGas=9 * 10**9)
    sign_transactions(
        [SigningRequest("bump", key.address, again.transaction, subject="payment", caller="team")]
    )
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, 2, value=2)])
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, 3, subject="another payment")])


@pytest.mark.case("K44")
def test_answers_that_do_not_count(key: Key, question: Question) -> None:
    ann = person("ann", "treasury")

    def refused(words: str, who: User, content_hash: str = question.content_hash) -> None:
        with pytest.raises(VoteInvalidError, match=words):
            publishing.vote(question, who, True, content_hash)

    refused("whoever asks", person("team", "treasury"))
    refused("only members of treasury", person("eve", "others"))
    refused("read it again", ann, "0x" + "00" * 32)
    say(question, ann)
    refused("answered already", ann)
    Question.objects.update(expires_at=F("expires_at") - timedelta(days=1))
    refused("time for an answer is over", person("bob", "treasury"))
    assert Vote.objects.count() == 1
    assert asking.expire() == 1
    refused("closed: its time is over", person("bob", "treasury"))
    assert "nobody approved it in time" in asking.answers(["payment"])["payment"]


@pytest.mark.case("K44")
def test_whoever_has_the_token_that_asks_does_not_answer_by_whichever_of_their_tokens(key: Key) -> None:
    tokens = [ApiToken.issue(name, "operator", owner="ann")[0] for name in ("backoffice", "laptop")]
    strangers, _ = ApiToken.issue("service", "operator")
    put_in_force(*ALLOW_ALL, ask(approvals=1))
    names = [scope(tokens[0]), actor(tokens[1]), scope(strangers), "token:nobody", "(x)"]
    for number, caller in enumerate(names):
        request = replace(wanted(key, number, f"payment {number}"), caller=caller)
        with pytest.raises(ApprovalPendingError):
            sign_transactions([request])
    ann = person("ann", "treasury")
    may = {
        question.asked_by: not publishing.may_vote(question, ann)
        for question in Question.objects.filter(state="OPEN")
    }
    assert may == dict(zip(names, (False, False, True, True, True), strict=True))


@pytest.mark.case("K44")
def test_yes_of_a_member_who_was_removed_since_does_not_count(key: Key, question: Question) -> None:
    ann = person("ann", "treasury")
    say(question, ann)
    person("ann")
    assert say(question, person("bob", "treasury")).state == QuestionState.OPEN
    assert say(question, person("cat", "treasury")).state == QuestionState.GRANTED
    person("cat")
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])
    assert sorted(Question.objects.values_list("state", flat=True)) == ["EXPIRED", "OPEN"], "asked anew"


def test_approval_that_nobody_used_in_time_is_asked_for_anew(key: Key, question: Question) -> None:
    for name in ("ann", "bob"):
        say(question, person(name, "treasury"))
    Question.objects.update(expires_at=F("expires_at") - timedelta(days=2))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])


def test_one_no_ends_it(key: Key, question: Question) -> None:
    say(question, person("ann", "treasury"))
    assert say(question, person("bob", "treasury"), approves=False).state == QuestionState.REFUSED
    assert asking.answers(["payment"]) == {"payment": "bob refused it: read it"}


@pytest.mark.case("K45")
def test_policy_that_became_stricter_after_the_approval_decides(key: Key, question: Question) -> None:
    for name in ("ann", "bob"):
        say(question, person(name, "treasury"))
    put_in_force(*ALLOW_ALL, ask(approvals=3))
    with pytest.raises(ApprovalPendingError, match="3 of treasury"):
        sign_transactions([wanted(key)])
    put_in_force(ask())
    with pytest.raises(PolicyDeniedError):
        sign_transactions([wanted(key)])


@pytest.mark.case("K45")
def test_yes_is_for_the_policy_that_was_in_force_when_people_were_asked(key: Key, question: Question) -> None:
    say(question, person("ann", "treasury"))
    put_in_force(*ALLOW_ALL, ask(), {"name": "never", "effect": "deny", "when": {"chain": [99]}})
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])
    anew = Question.objects.get(state="OPEN")
    assert (anew != question, anew.votes.count()) == (True, 0)
    for name in ("ann", "bob"):
        say(anew, person(name, "treasury"))
    sign_transactions([wanted(key)])
    put_in_force(*ALLOW_ALL, ask())
    bumped = transfer(value=1, maxFeePerGas=9 * 10**9)
    again = SigningRequest("bump", key.address, bumped, subject="payment", caller="team")
    assert sign_transactions([again]), "what was signed once is the same request with another fee"


@pytest.mark.case("K40")
@pytest.mark.sqlite_too
def test_one_yes_is_for_one_nonce(key: Key, question: Question) -> None:
    """Whoever has taken over a worker asks for the same payment again and again, each time with the next nonce."""
    for name in ("ann", "bob"):
        say(question, person(name, "treasury"))
    sign_transactions([wanted(key, 5)])
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, 6)])
    anew = Question.objects.get(state="OPEN")
    assert (anew.subject, anew.votes.count()) == (question.subject, 0)
    for name in ("ann", "bob"):
        say(anew, person(name, "treasury"))
    sign_transactions([wanted(key, 6)])
    assert Question.objects.get(state="USED").slot == "31337/6"


@pytest.mark.parametrize(
    "carried",
    [
        {"accessList": [{"address": TO, "storageKeys": []}]},
        {"accessList": [{"address": TO, "storageKeys": ["0x" + "01" * 32]}]},
    ],
)
def test_yes_is_for_all_that_the_transaction_carries(
    key: Key, question: Question, carried: dict[str, Any]
) -> None:
    for name in ("ann", "bob"):
        say(question, person(name, "treasury"))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, **carried)])
    assert Question.objects.count() == 2
    sign_transactions([wanted(key)])
