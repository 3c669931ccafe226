"""What people do to keys, and what a key signs then."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from dalp.chain_diagnosis import check_keys
from keyguard import lifecycle, sign_transactions
from keyguard.errors import KeyActInvalidError, KeyNotActiveError, VoteInvalidError
from keyguard.models import Key, KeyAct
from keyguard.policies import publishing
from keyguard.states import KeyState, KeyVerb
from tests.integration.keyguard.policies import person
from tests.integration.keyguard.requests import request

DAY = timedelta(days=1)


def code(key: Key) -> str:
    """Return the code with which a signature is refused, or nothing."""
    try:
        sign_transactions([request(key.address, f"r{timezone.now().timestamp()}")])
    except KeyNotActiveError as error:
        return error.code
    return ""


@pytest.mark.case("K50")
@pytest.mark.sqlite_too
def test_each_reason_not_to_sign_has_its_own_code(key: Key) -> None:
    now = timezone.now()
    assert code(key) == ""
    for verb, times, expected in (
        (KeyVerb.VALIDITY, {"not_after": now - DAY}, "KEYGUARD_KEY_EXPIRED"),
        (KeyVerb.VALIDITY, {"not_before": now + DAY}, "KEYGUARD_KEY_NOT_YET_VALID"),
        (KeyVerb.VALIDITY, {"not_before": now - DAY, "not_after": now + DAY}, ""),
        (KeyVerb.SUSPEND, {}, "KEYGUARD_KEY_SUSPENDED"),
        (KeyVerb.REACTIVATE, {}, ""),
        (KeyVerb.RETIRE, {}, "KEYGUARD_KEY_RETIRED"),
        (KeyVerb.COMPROMISED, {}, "KEYGUARD_KEY_COMPROMISED"),
    ):
        assert lifecycle.act(key, verb, "ann", "because", **times) is None
        assert code(key) == expected
    assert [one.verb for one in key.acts.order_by("at")][-2:] == ["RETIRE", "COMPROMISED"]


@pytest.mark.case("K50")
@pytest.mark.parametrize("verb", [KeyVerb.REACTIVATE, KeyVerb.SUSPEND, KeyVerb.RETIRE])
def test_key_that_was_compromised_comes_back_by_no_way(key: Key, verb: KeyVerb) -> None:
    lifecycle.act(key, KeyVerb.COMPROMISED, "ann", "it was in a mail")
    with pytest.raises(KeyActInvalidError, match="Compromised cannot be"):
        lifecycle.act(key, verb, "ann", "because")
    stale = Key(pk=key.pk, state=KeyState.ACTIVE, address=key.address)
    if verb != KeyVerb.REACTIVATE:
        with pytest.raises(KeyActInvalidError, match="meanwhile"):
            lifecycle.act(stale, verb, "ann", "because")
    key.refresh_from_db()
    assert key.state == KeyState.COMPROMISED
    assert KeyAct.objects.count() == 1


def test_acts_need_a_reason_and_a_sensible_time(key: Key) -> None:
    now = timezone.now()
    with pytest.raises(KeyActInvalidError, match="say why"):
        lifecycle.act(key, KeyVerb.SUSPEND, "ann", " ")
    with pytest.raises(KeyActInvalidError, match="end before it begins"):
        lifecycle.act(key, KeyVerb.VALIDITY, "ann", "x", not_before=now, not_after=now - DAY)
    assert not KeyAct.objects.exists()


@pytest.mark.sqlite_too
def test_acts_are_never_changed(key: Key) -> None:
    lifecycle.act(key, KeyVerb.SUSPEND, "ann", "because")
    for change in (
        lambda: KeyAct.objects.update(actor="bob"),
        lambda: KeyAct.objects.all()._raw_delete("default"),
    ):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


@pytest.mark.case("K44")
def test_what_lets_a_key_sign_again_or_longer_takes_others_approval_and_what_stops_it_does_not(
    key: Key, settings: Any
) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    end = timezone.now() + DAY
    assert lifecycle.act(key, KeyVerb.VALIDITY, "ann", "less", not_after=end) is None
    longer = lifecycle.act(key, KeyVerb.VALIDITY, "ann", "more", not_after=end + DAY)
    assert longer is not None
    assert lifecycle.act(key, KeyVerb.SUSPEND, "ann", "odd signatures") is None
    again = lifecycle.act(key, KeyVerb.REACTIVATE, "ann", "looked into it")
    assert again is not None
    with pytest.raises(VoteInvalidError, match="whoever asks"):
        publishing.vote(again, person("ann", "officers"), True, again.content_hash)
    assert code(key) == "KEYGUARD_KEY_SUSPENDED"
    publishing.vote(again, person("bob", "officers"), True, again.content_hash)
    assert code(key) == ""
    key.refresh_from_db()
    assert key.not_after == end
    publishing.vote(longer, person("bob", "officers"), True, longer.content_hash)
    key.refresh_from_db()
    assert key.not_after == end + DAY
    assert KeyAct.objects.get(verb="REACTIVATE").actor == "ann, bob"


def test_approval_that_comes_too_late_for_the_key_changes_nothing(key: Key, settings: Any) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    lifecycle.act(key, KeyVerb.SUSPEND, "ann", "odd")
    again = lifecycle.act(key, KeyVerb.REACTIVATE, "ann", "fine")
    assert again is not None
    key.refresh_from_db()
    lifecycle.act(key, KeyVerb.COMPROMISED, "cat", "it was in a mail")
    with pytest.raises(KeyActInvalidError, match="meanwhile the key is Compromised"):
        publishing.vote(again, person("bob", "officers"), True, again.content_hash)
    assert code(key) == "KEYGUARD_KEY_COMPROMISED"
    again.refresh_from_db()
    assert (again.state, again.votes.count()) == ("OPEN", 0)


def test_command_changes_a_key_and_says_what_became_of_it(key: Key, settings: Any) -> None:
    said = StringIO()
    call_command("change_key", "treasury", "validity", reason="a year", not_after="2099-12-31", stdout=said)
    assert "ACTIVE, signs until 2099-12-31 00:00 UTC" in said.getvalue()
    call_command("change_key", key.address, "suspend", reason="odd", stdout=said)
    assert KeyAct.objects.filter(actor__startswith="command:").count() == 2
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    call_command("change_key", "treasury", "reactivate", reason="fine", stdout=said)
    assert "Asked: 1 of officers must approve it" in said.getvalue()
    for arguments, words in (
        (("treasury", "retire", "--reason", ""), "KEYGUARD_KEY_ACT_INVALID"),
        (("nobody", "retire", "--reason", "x"), "KEYGUARD_KEY_NOT_FOUND"),
        (("treasury", "validity", "--reason", "x", "--not-after", "soon"), "is no date"),
        (("treasury", "retire", "--reason", "x", "--not-after", "2099-12-31"), "belong to validity"),
    ):
        with pytest.raises(CommandError, match=words):
            call_command("change_key", *arguments)


def test_keys_whose_time_is_up_soon_are_listed(key: Key) -> None:
    assert lifecycle.expiring() == []
    lifecycle.act(key, KeyVerb.VALIDITY, "ann", "x", not_after=timezone.now() + 29 * DAY)
    assert lifecycle.expiring() == [key]


def test_doctor_names_keys_whose_time_is_up_soon(key: Key) -> None:
    lifecycle.act(key, KeyVerb.VALIDITY, "ann", "x", not_after=timezone.now() + DAY)
    [finding] = [one for one in check_keys() if one.name == "key treasury"]
    assert not finding.ok
    assert "change_key" in finding.remedy
