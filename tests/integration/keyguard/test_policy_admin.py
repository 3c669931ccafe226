"""Policies and their limits in the console: who may write and change them, and what a page says."""

import json
from typing import Any

import pytest

from dalp.console.confirming import WRONG
from keyguard import ApprovalPendingError, KeyguardError, sign_transactions
from keyguard.models import Key, SigningRecord
from keyguard.policies import publishing
from keyguard.policies.models import Policy, Question
from tests.integration.keyguard.people import PASSWORD, at, browser, someone, text_of
from tests.integration.keyguard.policies import (
    ALLOW_ALL,
    ALLOW_PAYMENTS,
    ask,
    handed_over,
    limit,
    put_in_force,
    wanted,
)

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

NASTY = "<script>alert('x')</script>"
ADD = "/admin/keyguard/policy/add/"


def body(*rules: dict[str, Any]) -> str:
    return json.dumps({"rules": list(rules)})


# --- Writing and rehearsing -------------------------------------------------------------------------------


@pytest.mark.parametrize("may", ["", "view_policy", "view_policy change_policy"])
def test_only_who_may_add_policies_writes_one(db: None, may: str) -> None:
    client = browser(someone("eve", may=may))
    assert client.get(ADD).status_code == 403
    assert client.post(ADD, {"body": body(ALLOW_PAYMENTS), "note": "mine"}).status_code == 403
    assert Policy.objects.count() == 1


def test_new_version_begins_with_the_text_in_force_and_is_stored_as_a_draft(db: None) -> None:
    client = browser(someone("ann", may="view_policy add_policy"))
    assert "whatever passes the floor" in client.get(ADD).content.decode()
    answer = client.post(ADD, {"body": body(ALLOW_PAYMENTS), "note": "payments alone"}, follow=True)
    draft = Policy.objects.get(number=2)
    assert (draft.state, draft.author, draft.note) == ("DRAFT", "ann", "payments alone")
    assert draft.body == {"rules": [ALLOW_PAYMENTS]}
    page = text_of(answer)
    assert "policy 2 is stored as a draft. It decides nothing yet" in page
    assert "allow payments" in page
    assert at(draft, "in-force") not in page, "who may only write does not put it in force"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"rules": [', "This is no JSON: Expecting value: line 1 column 12"),
        ('{"rules": [], "rules": []}', "&#x27;rules&#x27; is given twice in one object"),
        ('{"rules": [NaN]}', "NaN is no number"),
        ('{"rules": [{"name": "a\\u0000", "effect": "deny"}]}', "the database cannot hold"),
        (body({"name": "x", "effect": "allow", "when": {"what": ["call"]}}), "rules[0] (x).when.function: is required"),
        (body({"name": "x", "effect": "permit"}), "rules[0] (x).effect: must be one of"),
        ("[" * 5_000, "This is no JSON"),
        ("", "This field is required"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_text_is_told_with_its_place(db: None, text: str, said: str) -> None:
    answer = browser(someone("ann", may="view_policy add_policy")).post(ADD, {"body": text, "note": "x"})
    assert answer.status_code == 200
    assert said in text_of(answer)
    assert Policy.objects.count() == 1


def test_policy_in_force_is_no_new_version(db: None) -> None:
    client = browser(someone("ann", may="view_policy add_policy"))
    answer = client.post(ADD, {"body": json.dumps(Policy.objects.get().body), "note": "again"})
    assert "is the same as policy 1, which is in force" in text_of(answer)


@pytest.mark.sqlite_too
def test_rehearsal_shows_what_would_be_decided_otherwise_and_stores_nothing(key: Key) -> None:
    client = browser(someone("ann", may="view_policy add_policy"))
    given = {"body": body(ALLOW_PAYMENTS), "note": "", "_rehearse": "1"}
    assert "Nothing was asked for yet" in text_of(client.post(ADD, given))
    sign_transactions([wanted(key), wanted(key, 1, "call", data="0xdeadbeef")])
    page = text_of(client.post(ADD, given))
    assert (
        "1 of the last 2 requests would be decided otherwise than by policy 1: 1 allowed now and denied then"
        in page
    )
    assert "a call of selector 0xdeadbeef" in page
    assert "Then: denied: no rule allows it" in page
    assert "Now: allowed (any call)" in page
    everything = {**given, "body": body(*ALLOW_ALL)}
    assert "None of the last 2 requests would be decided otherwise" in text_of(client.post(ADD, everything))
    assert Policy.objects.count() == 1


def test_rehearsal_names_what_was_handed_over_and_what_waits(key: Key) -> None:
    handed = handed_over(key, "paid", 50)
    put_in_force(*ALLOW_ALL, ask(approvals=1))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key)])
    draft = publishing.draft({"rules": []}, "ann")
    answer = browser(someone("ann", may="view_policy")).get(at(draft, "rehearse"))
    page = text_of(answer)
    assert "2 of the last 2 requests would be decided otherwise" in page
    assert page.count(", waits for approval") == 1
    for place in (f"handover/{handed.pk}", f"question/{Question.objects.get().pk}"):
        assert f"/admin/keyguard/{place}/change/" in answer.content.decode()


def test_draft_is_rehearsed_and_compared_with_the_policy_in_force(key: Key) -> None:
    sign_transactions([wanted(key)])
    draft = publishing.draft({"rules": []}, "ann", NASTY)
    client = browser(someone("ann", may="view_policy"))
    assert "1 allowed now and denied then" in text_of(client.get(at(draft, "rehearse")))
    page = text_of(client.get(at(draft)))
    assert NASTY not in page
    assert "gone" in page
    assert "any call" in page


# --- Putting in force -------------------------------------------------------------------------------------


def test_only_who_may_change_policies_puts_one_in_force(db: None) -> None:
    draft = publishing.draft({"rules": []}, "ann")
    client = browser(someone("eve", may="view_policy add_policy"))
    for answer in (
        client.get(at(draft, "in-force")),
        client.post(at(draft, "in-force"), {"password": PASSWORD}),
    ):
        assert answer.status_code == 403
    draft.refresh_from_db()
    assert draft.state == "DRAFT"


@pytest.mark.sqlite_too
def test_putting_in_force_asks_for_the_password_again(db: None) -> None:
    draft = publishing.draft({"rules": []}, "ann")
    client = browser(someone("ann", may="view_policy change_policy"))
    assert "Nobody is asked (KEYGUARD_POLICY_GROUP is empty)" in text_of(client.get(at(draft, "in-force")))
    for password, said in (("wrong", WRONG), ("", "This field is required")):
        assert said in text_of(client.post(at(draft, "in-force"), {"password": password}))
        draft.refresh_from_db()
        assert draft.state == "DRAFT"
    page = text_of(client.post(at(draft, "in-force"), {"password": PASSWORD}, follow=True))
    assert "policy 2 is in force" in page
    assert PASSWORD not in page
    assert Policy.objects.get(state="ACTIVE").number == 2
    assert client.get(at(draft, "in-force")).status_code == 403, "it is no draft any more"


@pytest.mark.case("K45")
def test_with_a_group_it_is_in_force_when_its_members_have_said_so(settings: Any, db: None) -> None:
    settings.KEYGUARD_POLICY_GROUP, settings.KEYGUARD_POLICY_APPROVALS = "policy", 1
    draft = publishing.draft({"rules": [ALLOW_PAYMENTS]}, "ann", "payments alone")
    cat = browser(someone("cat", "policy", may="view_policy change_policy view_question"))
    assert "1 of the group policy must approve it first" in text_of(cat.get(at(draft, "in-force")))
    assert "It waits for 1 of the group policy" in text_of(
        cat.post(at(draft, "in-force"), {"password": PASSWORD}, follow=True)
    )
    asked = Question.objects.get()
    page = text_of(cat.get(at(asked)))
    assert "whoever asks does not answer" in page
    assert "Only 0 may: without more people in the group this is never approved" in page
    ann = browser(someone("ann", "policy", may="view_question"))
    assert "whoever wrote a policy does not approve it" in text_of(ann.get(at(asked)))
    answer = {"content_hash": draft.hash, "reason": "read", "password": PASSWORD}
    for client in (cat, ann):
        assert client.post(at(asked, "approve"), answer).status_code == 403
    bob = browser(someone("bob", "policy", may="view_question"))
    page = text_of(bob.get(at(asked, "approve")))
    assert "payments alone" in page
    assert "gone" in page, "whoever approves sees what changes"
    page = text_of(bob.post(at(asked, "approve"), answer, follow=True))
    assert "It is approved: policy 2 is in force" in page
    assert "approved, and put in force" in page
    assert "cat asked to put it in force: approved, and put in force" in text_of(cat.get(at(draft)))
    assert Policy.objects.get(state="ACTIVE").number == 2


def test_refused_draft_stays_one_and_may_be_proposed_again(settings: Any, db: None) -> None:
    settings.KEYGUARD_POLICY_GROUP = "policy"
    draft = publishing.draft({"rules": [ALLOW_PAYMENTS]}, "ann")
    cat = browser(someone("cat", may="view_policy change_policy"))
    cat.post(at(draft, "in-force"), {"password": PASSWORD})
    assert cat.get(at(draft, "in-force")).status_code == 403, "people are asked already"
    bob = browser(someone("bob", "policy", may="view_question"))
    given = {"content_hash": draft.hash, "reason": "too wide"}
    page = text_of(bob.post(at(Question.objects.get(), "refuse"), given, follow=True))
    assert "It is refused: the policy stays a draft." in page
    assert cat.post(at(draft, "in-force"), {"password": PASSWORD}).status_code == 302
    assert list(Question.objects.order_by("asked_at").values_list("state", flat=True)) == ["REFUSED", "OPEN"]
    assert Policy.objects.get(state="ACTIVE").number == 1


# --- Limits, records, transactions -----------------------------------------------------------------------


def test_limits_say_what_is_left(key: Key) -> None:
    policy = put_in_force(*ALLOW_ALL, limit(7))
    client = browser(someone("ann", may="view_policy view_purse view_signingrecord"))
    assert "Nothing was counted yet: all of it is left" in text_of(client.get(at(policy)))
    sign_transactions([wanted(key, value=3)])
    page = text_of(client.get(at(policy)))
    assert "limit: value, at most 0.000000000000000007 ether (7 wei) within 1 hour" in page
    assert "key treasury" in page
    assert "0.000000000000000004 ether (4 wei) left" in page
    assert "0.000000000000000004 ether (4 wei)" in text_of(client.get("/admin/keyguard/purse/"))
    with pytest.raises(KeyguardError):
        sign_transactions([wanted(key, 1, "other", value=5)])
    record = SigningRecord.objects.get(state="REFUSED")
    page = text_of(client.get(f"/admin/keyguard/signingrecord/{record.pk}/change/"))
    for words in ("policy 2", "other", "team", "5 would be more than is left of 7"):
        assert words in page
    listed = text_of(client.get("/admin/keyguard/signingrecord/", {"error": "KEYGUARD_LIMIT_EXCEEDED"}))
    assert "5 would be more than is left of 7" in listed
    put_in_force(*ALLOW_ALL)
    assert "(4 wei)" not in text_of(client.get("/admin/keyguard/purse/")), (
        "limits that are no more are not shown"
    )
