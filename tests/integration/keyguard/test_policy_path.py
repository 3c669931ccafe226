"""The policy on the signing path: what it denies, what people must approve, what limits leave."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone
from eth_account import Account

from dalp.api.auth import actor, scope
from dalp.models import ApiToken
from keyguard import (
    ApprovalPendingError,
    HandOverRequest,
    KeyguardError,
    SigningRequest,
    create_key,
    plan_hand_overs,
    sign_message,
    sign_transactions,
)
from keyguard.calls import Call
from keyguard.errors import (
    AddressInvalidError,
    LimitExceededError,
    PolicyDeniedError,
    PolicyInvalidError,
    VoteInvalidError,
)
from keyguard.models import HandOver, Key, SigningRecord
from keyguard.policies import asking, publishing, rehearsing, spending
from keyguard.policies.facts import facts_of_content, shown
from keyguard.policies.models import Policy, Purse, Question, Spending, Vote
from keyguard.states import QuestionState
from tests.integration.keyguard.policies import ALLOW_ALL, ALLOW_PAYMENTS, ask, limit, person, put_in_force
from tests.integration.keyguard.requests import TO, transfer
from tests.integration.keyguard.trail import entries
from tests.threads import at_once


@pytest.fixture
def key(db: None) -> Key:
    return create_key("treasury")


def wanted(key: Key, number: int = 0, subject: str = "payment", **changes: Any) -> SigningRequest:
    fields = transfer(**{"value": 1, "nonce": number, **changes})
    return SigningRequest(
        f"{subject}:{number}".replace(" ", "-"), key.address, fields, subject=subject, caller="team"
    )


def say(question: Question, who: User, approves: bool = True) -> Question:
    return publishing.vote(question, who, approves, question.content_hash, "read it")


# --- Rules ------------------------------------------------------------------------------------------------


@pytest.mark.case("K40")
@pytest.mark.sqlite_too
def test_without_a_rule_nothing_is_signed_and_the_refusal_says_so(key: Key) -> None:
    put_in_force()
    with pytest.raises(PolicyDeniedError, match="no rule allows it"):
        sign_transactions([wanted(key)])
    record = SigningRecord.objects.get()
    assert (record.state, record.error, record.why) == (
        "REFUSED",
        "KEYGUARD_POLICY_DENIED",
        "no rule allows it",
    )
    assert record.policy is not None
    assert record.policy.number == 2
    Policy.objects.filter(state="ACTIVE").update(state="RETIRED")
    with pytest.raises(PolicyDeniedError, match="no rule allows it"):
        sign_transactions([wanted(key, 1)])


@pytest.mark.case("K42")
def test_address_in_capitals_is_signed_for_by_no_rule_that_allows_it_in_another_writing(key: Key) -> None:
    put_in_force({"name": "friends", "effect": "allow", "when": {"what": ["payment"], "to": [TO.lower()]}})
    for written in (f"0x{TO[2:].upper()}", TO.upper(), f"0x{TO[2:].swapcase()}"):
        with pytest.raises(AddressInvalidError):
            sign_transactions([wanted(key, to=written)])
    assert not SigningRecord.objects.filter(state="SIGNED").exists()
    for number, written in enumerate((TO, TO.lower())):
        assert len(sign_transactions([wanted(key, number, f"to {number}", to=written)])) == 1


@pytest.mark.case("K40")
def test_of_a_batch_nothing_is_signed_when_one_is_denied(key: Key) -> None:
    put_in_force(ALLOW_PAYMENTS, {"name": "much", "effect": "deny", "when": {"value": {"at_least": 5}}})
    with pytest.raises(PolicyDeniedError, match="much: the rule denies it"):
        sign_transactions([wanted(key), wanted(key, 1, "other", value=5)])
    assert SigningRecord.objects.get().subject == "other"
    assert len(sign_transactions([wanted(key)])) == 1
    with pytest.raises(PolicyDeniedError):
        sign_message(key.address, b"hello", "message")


def test_what_was_signed_once_is_given_again_whatever_the_policy_says_now(key: Key) -> None:
    first = sign_transactions([wanted(key)])
    put_in_force()
    assert sign_transactions([wanted(key)]) == first


@pytest.mark.sqlite_too
def test_versions_of_the_policy_and_votes_stay_as_they_were_written(key: Key) -> None:
    put_in_force(*ALLOW_ALL, ask(approvals=1))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])
    say(Question.objects.get(), person("ann", "treasury"))
    policies = Policy.objects.filter(number=1)
    for change in (
        lambda: policies.update(body={"rules": []}),
        lambda: policies.update(hash="0x00"),
        lambda: policies._raw_delete("default"),
        lambda: Vote.objects.update(approves=False),
        lambda: Vote.objects.all()._raw_delete("default"),
    ):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


# --- People -----------------------------------------------------------------------------------------------


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
    assert sign_transactions([wanted(key, 1)]), "what was signed once is the same request with another nonce"


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


# --- Limits -----------------------------------------------------------------------------------------------


@pytest.mark.case("K41")
def test_twenty_callers_at_the_edge_of_a_limit_never_exceed_it(fresh_db: str) -> None:
    key = create_key("treasury")
    put_in_force(*ALLOW_ALL, limit(7))

    def one(number: int) -> int:
        try:
            return len(sign_transactions([wanted(key, number, f"payment {number}")]))
        except LimitExceededError:
            return 0

    assert sum(at_once(20, one)) == 7
    assert SigningRecord.objects.filter(state="SIGNED").count() == 7
    assert Spending.objects.count() == 7


@pytest.mark.case("K41")
@pytest.mark.sqlite_too
def test_limit_counts_a_request_once_gives_back_what_failed_and_moves_with_time(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_force(*ALLOW_ALL, limit(2))
    with monkeypatch.context() as failing, pytest.raises(KeyguardError):
        failing.setattr("keyguard.signing.backend_of", lambda name: None)
        sign_transactions([wanted(key)])
    assert not Spending.objects.exists()
    sign_transactions([wanted(key), wanted(key, 1, "second")])
    sign_transactions([wanted(key, 2), wanted(key, 3)])  # the first, twice more
    with pytest.raises(LimitExceededError, match="1 would be more than is left of 2 in 3600 seconds"):
        sign_transactions([wanted(key, 4, "third")])
    Spending.objects.filter(subject="second").update(at=F("at") - timedelta(seconds=3601))
    sign_transactions([wanted(key, 4, "third")])


@pytest.mark.case("K41")
@pytest.mark.sqlite_too
@pytest.mark.parametrize(
    ("age", "counts"),
    [
        (timedelta(0), True),
        (timedelta(seconds=3599), True),
        (timedelta(seconds=3600, microseconds=-1), True),
        (timedelta(seconds=3600), False),
        (timedelta(seconds=3600, microseconds=1), False),
        (timedelta(seconds=3601), False),
    ],
    ids=str,
)
def test_what_was_spent_counts_until_the_window_is_over_and_not_at_its_end(
    key: Key, monkeypatch: pytest.MonkeyPatch, age: timedelta, counts: bool
) -> None:
    put_in_force(*ALLOW_ALL, limit(1, seconds=3600))
    sign_transactions([wanted(key)])
    now = timezone.now().replace(microsecond=0)
    Spending.objects.update(at=now - age)
    monkeypatch.setattr(spending, "Now", lambda: now)
    purse = Purse.objects.get()
    assert spending.left(purse.rule, purse.bucket, 1, 3600) == (0 if counts else 1)
    if not counts:
        assert len(sign_transactions([wanted(key, 1, "second")])) == 1
        return
    with pytest.raises(LimitExceededError):
        sign_transactions([wanted(key, 1, "second")])
    assert SigningRecord.objects.filter(state="SIGNED").count() == 1


def test_limits_are_counted_apart_for_what_they_name(key: Key) -> None:
    other = create_key("other")
    put_in_force(*ALLOW_ALL, limit(1, of="count", each=["key"]))
    sign_transactions([wanted(key), wanted(other, 0, "of another key")])
    with pytest.raises(LimitExceededError):
        sign_transactions([wanted(key, 1, "second")])


# --- Hand-overs -------------------------------------------------------------------------------------------


def test_calls_that_a_custody_is_to_execute_are_judged_by_the_same_rules(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    Key.objects.filter(pk=key.pk).update(backend="custody")
    monkeypatch.setattr("keyguard.handing_over.custodian_of", lambda name: None)
    call = {"chainId": 1, "from": key.address, "to": "0x" + "11" * 20, "value": 5, "data": "0x"}
    first = HandOverRequest("first", key.address, call, caller="team")
    put_in_force()
    assert isinstance(plan_hand_overs([first])["first"], PolicyDeniedError)
    put_in_force(*ALLOW_ALL, ask(approvals=1), limit(7))
    assert isinstance(plan_hand_overs([first])["first"], ApprovalPendingError)
    assert not HandOver.objects.exists()
    say(Question.objects.get(), person("ann", "treasury"))
    assert plan_hand_overs([first]) == {}
    put_in_force(*ALLOW_ALL, limit(7))
    second = HandOverRequest("second", key.address, call, caller="team")
    assert isinstance(plan_hand_overs([second])["second"], LimitExceededError)
    assert HandOver.objects.get().facts["value"] == "5"
    (rehearsed,) = differing(publishing.draft({"rules": []}, "author"))
    assert rehearsed.request.row == HandOver.objects.get()
    assert [
        (entry.event, json.loads(entry.body).get("code")) for entry in entries(key) if "call" in entry.event
    ] == [
        ("call_refused", "KEYGUARD_POLICY_DENIED"),
        ("call_intended", None),
        ("call_refused", "KEYGUARD_LIMIT_EXCEEDED"),
    ]


# --- Versions ---------------------------------------------------------------------------------------------


def differing(draft: Policy, last: int = rehearsing.REHEARSED) -> list[rehearsing.Difference]:
    return rehearsing.rehearse(draft, last).differences


def handed_over(key: Key, external_id: str, value: int) -> HandOver:
    call = Call(chain_id=1, to=b"\x11" * 20, value=value, data=b"")
    facts = facts_of_content(call, key.alias, key.address, "team", timezone.now())
    return HandOver.objects.create(
        external_id=external_id,
        key=key,
        payload_hash="0x" + "22" * 32,
        chain_id=1,
        to="0x" + "11" * 20,
        value=value,
        facts=shown(facts),
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


@pytest.mark.case("K45")
def test_change_of_policy_needs_people_other_than_its_author(key: Key, settings: Any) -> None:
    settings.KEYGUARD_POLICY_GROUP, settings.KEYGUARD_POLICY_APPROVALS = "policy", 1
    draft = publishing.draft({"rules": [ALLOW_PAYMENTS]}, "ann")
    asked = publishing.propose(draft, "cat")
    assert asked is not None
    draft.refresh_from_db()
    assert draft.state == "DRAFT"
    for name, words in (("ann", "wrote"), ("cat", "whoever asks"), ("eve", "only members")):
        with pytest.raises(VoteInvalidError, match=words):
            say(asked, person(name, *([] if name == "eve" else ["policy"])))
    say(asked, person("bob", "policy"))
    draft.refresh_from_db()
    assert draft.state == "ACTIVE"
    assert Policy.objects.filter(state="ACTIVE").count() == 1
    with pytest.raises(VoteInvalidError, match="no draft"):
        publishing.propose(draft, "cat")


def test_policy_that_is_not_understood_or_nothing_new_is_not_stored(key: Key) -> None:
    for body in ({"rules": [{}]}, Policy.objects.get().body):
        with pytest.raises(PolicyInvalidError):
            publishing.draft(body, "author")
    assert Policy.objects.count() == 1
