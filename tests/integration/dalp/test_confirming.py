"""The password that is asked for again, and the warnings before a deploy about who decides what is signed."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

from dalp import checks
from dalp.console.confirming import LOCKED, WRONG, why_unconfirmed
from dalp.models import WrongPassword
from tests.integration.keyguard.people import PASSWORD, someone
from tests.integration.keyguard.policies import ALLOW_PAYMENTS, person, put_in_force
from tests.threads import at_once


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


def test_deploy_check_warns_of_the_starter_policy_and_of_who_may_change_it(settings: Any, db: None) -> None:
    settings.DEBUG = True
    assert checks.check_policy() == []
    settings.DEBUG = False
    assert [found.id for found in checks.check_policy()] == ["dalp.W006", "dalp.W002", "dalp.W003"]
    settings.KEYGUARD_IMPORT = "wrapped"
    put_in_force(ALLOW_PAYMENTS)
    assert [found.id for found in checks.check_policy()] == ["dalp.W003"]
    settings.KEYGUARD_POLICY_GROUP, settings.KEYGUARD_POLICY_APPROVALS = "policy", 1
    assert [found.id for found in checks.check_policy()] == ["dalp.W004"]
    person("bob", "policy")
    assert checks.check_policy() == []
