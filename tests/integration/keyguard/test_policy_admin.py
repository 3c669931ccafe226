"""Policies, questions and limits in the console: who may do what, what a page says, and the password asked for again."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db.models import F
from django.test import Client
from django.urls import reverse

from dalp import checks
from dalp.console.confirming import LOCKED, WRONG, why_unconfirmed
from dalp.models import WrongPassword
from keyguard import ApprovalPendingError, KeyguardError, create_key, sign_transactions
from keyguard.models import Key, SigningRecord
from keyguard.policies import publishing
from keyguard.policies.models import Policy, Question, Vote
from signer.models import Chain, Lane, Transaction
from tests.integration.keyguard.policies import ALLOW_ALL, ALLOW_PAYMENTS, ask, limit, person, put_in_force
from tests.integration.keyguard.test_policy_path import wanted
from tests.threads import at_once

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

PASSWORD = "correct horse battery"
NASTY = "<script>alert('x')</script>"


@pytest.fixture
def key(db: None) -> Key:
    return create_key("treasury")


def someone(name: str, *groups: str, may: str = "") -> User:
    """Return a person of the console with a password. may: permissions, separated by spaces."""
    user = person(name, *groups)
    user.is_staff = True
    user.set_password(PASSWORD)
    user.save()
    user.user_permissions.set(
        Permission.objects.filter(codename__in=may.split(), content_type__app_label="keyguard")
    )
    return user


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def at(row: Policy | Question, act: str = "change") -> str:
    if act == "change":
        return reverse(f"admin:keyguard_{row._meta.model_name}_change", args=[row.pk])
    return f"/admin/keyguard/{row._meta.model_name}/{row.pk}/{act}/"


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode())


def body(*rules: dict[str, Any]) -> str:
    return json.dumps({"rules": list(rules)})


ADD = "/admin/keyguard/policy/add/"


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
    assert "Nothing was asked to be signed yet" in text_of(client.post(ADD, given))
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
    assert "policy 2 is in force" in text_of(bob.post(at(asked, "approve"), answer, follow=True))
    assert Policy.objects.get(state="ACTIVE").number == 2


# --- Answering --------------------------------------------------------------------------------------------


@pytest.fixture
def question(key: Key) -> Question:
    put_in_force(*ALLOW_ALL, ask())
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, value=10**18)])
    return Question.objects.get()


def answer(question: Question, **changes: str) -> dict[str, str]:
    return {"content_hash": question.content_hash, "reason": "I called them", "password": PASSWORD, **changes}


@pytest.mark.case("K44")
def test_two_people_approve_through_the_form_and_it_is_signed(key: Key, question: Question) -> None:
    ann, bob = (browser(someone(name, "treasury", may="view_question")) for name in ("ann", "bob"))
    page = text_of(ann.get(at(question, "approve")))
    assert "a payment of 1 ether (1000000000000000000 wei)" in page
    assert f'value="{question.content_hash}"' in page
    page = text_of(ann.post(at(question, "approve"), answer(question), follow=True))
    assert "Your yes is counted: 1 of 2 of treasury. It waits for the others" in page
    assert "You cannot answer it: you have answered already." in page
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, value=10**18)])
    page = text_of(bob.post(at(question, "approve"), answer(question), follow=True))
    assert "It is approved. Whoever asked signs it" in page
    assert len(sign_transactions([wanted(key, value=10**18)])) == 1
    assert set(Vote.objects.values_list("person", "reason")) == {
        ("ann", "I called them"),
        ("bob", "I called them"),
    }


@pytest.mark.case("K44")
def test_answer_to_content_that_is_not_what_is_asked_now_does_not_count(question: Question) -> None:
    ann = browser(someone("ann", "treasury", may="view_question"))
    given = answer(question)
    Question.objects.update(content_hash="0x" + "12" * 32)
    page = text_of(ann.post(at(question, "approve"), given))
    assert "what you were shown is not what is asked: read it again" in page
    page = text_of(ann.post(at(question, "refuse"), given))
    assert "what you were shown is not what is asked: read it again" in page
    assert not Vote.objects.exists()


def test_approving_needs_the_password_and_a_reason_refusing_a_reason(question: Question) -> None:
    ann = browser(someone("ann", "treasury", may="view_question"))
    assert WRONG in text_of(ann.post(at(question, "approve"), answer(question, password="guess")))
    assert "This field is required" in text_of(ann.post(at(question, "approve"), answer(question, reason="")))
    assert WrongPassword.objects.count() == 1, "what is incomplete is no try"
    assert not Vote.objects.exists()
    given = {"content_hash": question.content_hash, "reason": "who are they?"}
    page = text_of(ann.post(at(question, "refuse"), given, follow=True))
    assert "It is refused: nothing is signed, and whoever asked is told why" in page
    question.refresh_from_db()
    assert question.state == "REFUSED"


@pytest.mark.parametrize(
    ("name", "groups", "why"),
    [
        ("eve", ("others",), "only members of treasury answer this"),
        ("root", (), "only members of treasury answer this"),
        ("team", ("treasury",), "whoever asks does not answer"),
    ],
)
def test_whoever_may_not_answer_sees_why_and_no_buttons(
    question: Question, name: str, groups: tuple[str, ...], why: str
) -> None:
    user = someone(name, *groups, may="view_question")
    User.objects.filter(username="root").update(is_superuser=True)
    client = browser(user)
    page = text_of(client.get(at(question)))
    assert f"You cannot answer it: {why}." in page
    assert at(question, "approve") not in page
    assert client.post(at(question, "approve"), answer(question)).status_code == 403
    assert not Vote.objects.exists()


def test_question_whose_time_is_over_says_so(question: Question) -> None:
    ann = browser(someone("ann", "treasury", may="view_question"))
    assert f'href="{at(question, "approve")}"' in text_of(ann.get(at(question)))
    Question.objects.update(expires_at=F("expires_at") - timedelta(days=1))
    page = text_of(ann.get(at(question)))
    assert "You cannot answer it: the time for an answer is over." in page
    assert "for 59 minutes more" not in page


@pytest.mark.sqlite_too
def test_list_has_what_is_open_on_top_and_a_number_in_the_sidebar(key: Key, question: Question) -> None:
    client = browser(someone("ann", "treasury", may="view_question"))
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, 1, "later", value=2)])
    Question.objects.filter(subject="later").update(state="REFUSED")
    page = text_of(client.get("/admin/keyguard/question/"))
    assert page.index("a payment of 1 ether") < page.index("a payment of 0.000000000000000002 ether")
    assert "0; needs 2 of treasury" in page
    assert re.search(r"Questions.{0,400}>\s*1\s*<", page)
    Question.objects.update(state="EXPIRED")
    empty = text_of(client.get("/admin/keyguard/question/", {"state__exact": "OPEN"}))
    assert "Nothing fits what you look for" in empty
    assert not re.search(r"Questions.{0,400}>\s*1\s*<", empty)


def test_call_is_decoded_where_a_rule_knows_its_function(key: Key) -> None:
    rule = {**ask(1), "name": "calls to be seen", "when": {"what": ["call"]}}
    put_in_force(
        *ALLOW_ALL, rule, {"name": "burns", "effect": "deny", "when": {"function": ["burn(uint256 sum)"]}}
    )
    known, unknown = "0xa9059cbb" + "00" * 12 + "22" * 20 + f"{7:064x}", "0xdeadbeef"
    for number, data in enumerate((known, unknown)):
        with pytest.raises(ApprovalPendingError):
            sign_transactions([wanted(key, number, f"s{number}", data=data)])
    client = browser(someone("ann", "treasury", may="view_question"))
    assert "unknown: no rule names it; selector 0xa9059cbb" in text_of(
        client.get(at(Question.objects.get(subject="s0")))
    )
    put_in_force(
        *ALLOW_ALL,
        rule,
        {
            "name": "x",
            "effect": "deny",
            "when": {"function": ["transfer(address to, uint256 amount)"], "chain": [5]},
        },
    )
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, 2, "s2", data=known)])
    page = text_of(client.get(at(Question.objects.get(subject="s2"))))
    assert f"transfer(to 0x{'22' * 20}, amount 7)" in page


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


def test_transaction_that_waits_for_people_leads_to_their_question_and_back(key: Key) -> None:
    chain = Chain.objects.create(chain_id=31337, name="local", genesis_hash="0x" + "00" * 32)
    lane = Lane.objects.create(chain=chain, address=key.address)
    row = Transaction.objects.create(
        chain=chain, lane=lane, kind="CALL", to=key.address, state="PENDING_APPROVAL", idempotency_key="t1",
        label="rent of May",
    )  # fmt: skip
    client = browser(User.objects.create_superuser("root"))
    page = reverse("admin:signer_transaction_change", args=[row.pk])
    assert "People were asked" not in text_of(client.get("/admin/signer/transaction/"))
    put_in_force(*ALLOW_ALL, ask())
    with pytest.raises(ApprovalPendingError):
        sign_transactions([wanted(key, subject=str(row.pk))])
    question = Question.objects.get()
    assert f'href="{at(question)}"' in text_of(client.get(page))
    there = text_of(client.get(at(question)))
    assert f'href="{page}"' in there
    assert "rent of May" in there


# --- The password -----------------------------------------------------------------------------------------


@pytest.mark.sqlite_too
def test_after_five_wrong_passwords_none_is_looked_at_for_a_quarter_of_an_hour(db: None) -> None:
    ann, bob = someone("ann"), someone("bob")
    assert [why_unconfirmed(ann, "guess") for _ in range(6)] == [WRONG] * 5 + [LOCKED]
    assert why_unconfirmed(ann, PASSWORD) == LOCKED
    assert why_unconfirmed(bob, PASSWORD) == ""
    WrongPassword.objects.update(at=F("at") - timedelta(minutes=15))
    assert why_unconfirmed(ann, PASSWORD) == ""
    assert why_unconfirmed(ann, "guess") == WRONG
    assert WrongPassword.objects.count() == 1, "old ones are forgotten"


@pytest.mark.sqlite_too
def test_many_tries_at_once_are_counted_one_by_one(fresh_db: str) -> None:
    ann = someone("ann")
    said = at_once(12, lambda number: why_unconfirmed(ann, f"guess {number}"))
    assert sorted(said) == sorted([WRONG] * 5 + [LOCKED] * 7)


def test_person_without_a_password_confirms_nothing(db: None) -> None:
    ann = someone("ann")
    ann.set_unusable_password()
    ann.save()
    assert "You have no password here" in why_unconfirmed(ann, "")
    assert not WrongPassword.objects.exists()


# --- Before a deploy --------------------------------------------------------------------------------------


def test_deploy_check_warns_of_the_starter_policy_and_of_who_may_change_it(settings: Any, db: None) -> None:
    settings.DEBUG = True
    assert checks.check_policy() == []
    settings.DEBUG = False
    assert [found.id for found in checks.check_policy()] == ["dalp.W002", "dalp.W003"]
    put_in_force(ALLOW_PAYMENTS)
    assert [found.id for found in checks.check_policy()] == ["dalp.W003"]
    settings.KEYGUARD_POLICY_GROUP, settings.KEYGUARD_POLICY_APPROVALS = "policy", 1
    assert [found.id for found in checks.check_policy()] == ["dalp.W004"]
    person("bob", "policy")
    assert checks.check_policy() == []
