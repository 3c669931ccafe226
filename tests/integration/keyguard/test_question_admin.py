"""Questions in the console: what is asked, who may answer, and what an answer is bound to."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db.models import F
from django.urls import reverse

from dalp.console.confirming import WRONG
from dalp.models import WrongPassword
from keyguard import ApprovalPendingError, sign_transactions
from keyguard.models import Key
from keyguard.policies.models import Question, Vote
from signer.models import Chain, Lane, Transaction
from tests.integration.keyguard.people import PASSWORD, at, browser, someone, text_of
from tests.integration.keyguard.policies import ALLOW_ALL, ask, put_in_force, wanted

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


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
