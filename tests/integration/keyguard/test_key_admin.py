"""Keys in the console: acts with a reason and the password, and people's approval."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from keyguard import importing, succession
from keyguard.models import Key, KeyAct
from keyguard.policies.models import Question
from tests.integration.keyguard.people import PASSWORD, at, browser, someone, text_of
from workflows.models import Run

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


def said(**changes: str) -> dict[str, str]:
    return {"reason": "odd signatures", "password": PASSWORD, **changes}


def state(key: Key) -> str:
    key.refresh_from_db()
    return key.state


def test_key_is_suspended_and_given_back_and_its_page_tells_of_both(key: Key) -> None:
    ann = browser(someone("ann", may="view_key change_key"))
    page = text_of(ann.get(at(key)))
    assert "Suspend" in page
    assert "Give back to work" not in page
    assert "until it is given back to work" in text_of(ann.get(at(key, "suspend")))
    page = text_of(ann.post(at(key, "suspend"), said(), follow=True))
    assert state(key) == "SUSPENDED"
    assert "odd signatures" in page
    assert "Give back to work" in page
    ann.post(at(key, "reactivate"), said(reason="looked into it"))
    assert state(key) == "ACTIVE"
    assert list(KeyAct.objects.order_by("at").values_list("verb", "actor")) == [
        ("SUSPEND", "ann"),
        ("REACTIVATE", "ann"),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"password": "wrong"}, "This is not your password"), ({"reason": ""}, "This field is required")],
)
def test_nothing_is_done_without_a_reason_and_the_password(
    key: Key, changes: dict[str, str], words: str
) -> None:
    ann = browser(someone("ann", may="view_key change_key"))
    assert words in text_of(ann.post(at(key, "compromised"), said(**changes), follow=True))
    assert state(key) == "ACTIVE"


def test_whoever_may_only_look_does_nothing(key: Key) -> None:
    eve = browser(someone("eve", may="view_key"))
    assert "Suspend" not in text_of(eve.get(at(key)))
    assert eve.post(at(key, "suspend"), said()).status_code == 403
    assert state(key) == "ACTIVE"


def test_validity_is_set_in_utc_and_refused_where_it_makes_no_sense(key: Key) -> None:
    ann = browser(someone("ann", may="view_key change_key"))
    times = {"not_before_0": "2027-01-01", "not_before_1": "00:00:00"}
    ends = {"not_after_0": "2026-01-01", "not_after_1": "00:00:00"}
    page = text_of(ann.post(at(key, "validity"), said(**times, **ends), follow=True))
    assert "it would end before it begins" in page
    ann.post(at(key, "validity"), said(**times))
    key.refresh_from_db()
    assert (key.not_before, key.not_after) == (datetime(2027, 1, 1, tzinfo=UTC), None)


@pytest.mark.case("K44")
def test_what_lets_a_key_sign_again_waits_for_others_and_is_done_with_their_yes(
    key: Key, settings: Any
) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    ann = browser(someone("ann", "officers", may="view_key change_key view_question"))
    bob = browser(someone("bob", "officers", may="view_key view_question"))
    ann.post(at(key, "suspend"), said())
    page = text_of(ann.post(at(key, "reactivate"), said(reason="looked into it"), follow=True))
    assert "Nothing has changed yet: members of officers are asked to approve it." in page
    assert "give back to work: the key treasury" in page
    question = Question.objects.get()
    assert "whoever asks does not answer" in text_of(ann.get(at(question)))
    assert "ann says: looked into it" in text_of(bob.get("/admin/keyguard/question/"))
    answer = {"content_hash": question.content_hash, "reason": "I agree", "password": PASSWORD}
    page = text_of(bob.post(at(question, "approve"), answer, follow=True))
    assert "It is approved, and done." in page
    assert state(key) == "ACTIVE"


def test_key_is_handed_over_to_a_new_one_and_its_page_tells_of_the_run(key: Key) -> None:
    ann = browser(someone("ann", may="view_key change_key"))
    assert "Hand over" in text_of(ann.get(at(key)))
    assert "this one is retired" in text_of(ann.get(at(key, "rotate")))
    assert "This field is required" in text_of(ann.post(at(key, "rotate"), said(reason="", fund_wei="7")))
    page = text_of(ann.post(at(key, "rotate"), said(reason="once a year", fund_wei="7"), follow=True))
    run = Run.objects.get()
    assert (run.workflow, run.input["fund_wei"]) == ("key.rotate", "7")
    assert f"/admin/workflows/run/{run.pk}/change/" in page
    assert (KeyAct.objects.get().verb, KeyAct.objects.get().reason) == ("ROTATE", "once a year")
    new = succession.make_successor(key, "ann", "once a year")
    assert "is to take its place" in text_of(ann.get(at(key)))
    assert f"from {key}" in re.sub(r"<[^>]+>", "", text_of(ann.get(at(new))))


@pytest.mark.case("K44")
def test_hand_over_begins_with_the_last_yes(key: Key, settings: Any) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    ann = browser(someone("ann", may="view_key change_key view_question"))
    bob = browser(someone("bob", "officers", may="view_key view_question"))
    page = text_of(ann.post(at(key, "rotate"), said(reason="once a year", fund_wei="7"), follow=True))
    assert "Nothing has changed yet" in page
    question = Question.objects.get()
    asked = text_of(bob.get(at(question)))
    assert "hand over to a new key: the key treasury" in asked
    assert "sending along, in wei, 7" in asked
    assert not Run.objects.exists()
    answer = {"content_hash": question.content_hash, "reason": "I agree", "password": PASSWORD}
    assert "It is approved, and done." in text_of(bob.post(at(question, "approve"), answer, follow=True))
    assert Run.objects.get().input["actor"] == "ann, bob"
    assert "approved, and done" in text_of(bob.get(at(question)))


def test_only_a_key_that_is_out_of_service_may_be_destroyed(key: Key) -> None:
    ann = browser(someone("ann", may="view_key change_key"))
    assert "Destroy" not in text_of(ann.get(at(key)))
    assert ann.post(at(key, "destroy"), said()).status_code == 403
    ann.post(at(key, "retire"), said())
    assert "nor undo this" in text_of(ann.get(at(key, "destroy")))
    ann.post(at(key, "destroy"), said(reason="no longer needed"))
    assert state(key) == "DESTROYED"
    page = text_of(ann.get(at(key)))
    for gone in ("Suspend", "Retire", "Compromised</", "Hand over<"):
        assert gone not in page


@pytest.mark.case("K44")
def test_what_a_command_asks_for_is_approved_in_the_console_and_done_by_the_command(
    key: Key, settings: Any
) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    bob = browser(someone("bob", "officers", may="view_question"))
    address = "0x" + "11" * 20
    asked = importing.approval("old", address, "database", "command:ann")
    assert asked is not None
    assert "import: the key old" in text_of(bob.get("/admin/keyguard/question/"))
    assert "may run the command again" in text_of(bob.get(at(asked, "approve")))
    answer = {"content_hash": asked.content_hash, "reason": "I agree", "password": PASSWORD}
    page = text_of(bob.post(at(asked, "approve"), answer, follow=True))
    assert "Whoever asked runs the command again to do it" in page
    assert "not done yet" in page
    assert importing.approval("old", address, "database", "command:ann") is None


def test_a_no_leaves_the_key_as_it_is(key: Key, settings: Any) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    ann = browser(someone("ann", may="view_key change_key"))
    bob = browser(someone("bob", "officers", may="view_question"))
    ann.post(at(key, "suspend"), said())
    ann.post(at(key, "reactivate"), said())
    question = Question.objects.get()
    page = text_of(
        bob.post(at(question, "refuse"), {"content_hash": question.content_hash, "reason": "no"}, follow=True)
    )
    assert "nothing changes" in page
    assert state(key) == "SUSPENDED"
