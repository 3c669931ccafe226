"""The policy on the signing path: what it denies, for signatures and for calls of custodies, and how a version comes into force."""

import json
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from keyguard import (
    ApprovalPendingError,
    HandOverRequest,
    plan_hand_overs,
    sign_message,
    sign_transactions,
)
from keyguard.errors import (
    AddressInvalidError,
    LimitExceededError,
    PolicyDeniedError,
    PolicyInvalidError,
    VoteInvalidError,
)
from keyguard.models import HandOver, Key, SigningRecord
from keyguard.policies import publishing
from keyguard.policies.models import Policy, Question, Vote
from tests.integration.keyguard.policies import (
    ALLOW_ALL,
    ALLOW_PAYMENTS,
    ask,
    differing,
    limit,
    person,
    put_in_force,
    say,
    wanted,
)
from tests.integration.keyguard.requests import TO
from tests.integration.keyguard.trail import entries


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
