"""Second factors asked for: at a dangerous act, at the login, and where they are required."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import F
from django.test import Client
from django.utils import timezone

from dalp import checks, second_factor
from dalp.console.confirming import LOCKED, UNREADABLE, WRONG_EITHER, why_unconfirmed
from dalp.console.login import INVALID
from dalp.models import Authenticator, WrongPassword
from keyguard import create_key
from keyguard.models import Key
from tests.integration.dalp.factors import (
    ENROL,
    PAGE,
    code_of,
    codes_in,
    enrolled,
    given,
    long_ago,
    sealed_in,
    shown,
    wrong_code_of,
)
from tests.integration.keyguard.people import PASSWORD, at, browser, someone, text_of
from tests.threads import at_once

LOGIN = "/admin/login/"

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


@pytest.fixture
def key(db: None) -> Key:
    return create_key("treasury")


def state(key: Key) -> str:
    key.refresh_from_db()
    return key.state


def said(**changes: str) -> dict[str, str]:
    return {"reason": "odd signatures", "password": PASSWORD, **changes}


# --- At an act -------------------------------------------------------------------------------------------


def test_an_act_takes_password_and_code(ann: User, key: Key) -> None:
    given(ann)
    client = browser(ann)
    page = text_of(client.get(at(key, "suspend")))
    assert 'autocomplete="one-time-code"' in page
    for changes in ({}, {"one_time_code": wrong_code_of(ann)}):
        client.post(at(key, "suspend"), said(**changes))
        assert state(key) == "ACTIVE"
    client.post(at(key, "suspend"), said(one_time_code=code_of(ann)))
    assert state(key) == "SUSPENDED"


def test_whoever_has_none_is_asked_for_the_password_alone(ann: User, key: Key) -> None:
    client = browser(ann)
    assert "one-time-code" not in text_of(client.get(at(key, "suspend")))
    client.post(at(key, "suspend"), said())
    assert state(key) == "SUSPENDED"


def test_what_is_said_does_not_tell_which_of_the_two_was_wrong(ann: User, key: Key) -> None:
    given(ann)
    client = browser(ann)
    pages = []
    for password, code in (
        ("wrong", code_of(ann)),
        (PASSWORD, wrong_code_of(ann)),
        ("wrong", wrong_code_of(ann)),
    ):
        long_ago(ann)
        page = text_of(
            client.post(at(key, "suspend"), said(password=password, one_time_code=code), follow=True)
        )
        assert WRONG_EITHER in page
        assert code not in page
        pages.append(page.partition('<div class="max-w-2xl">')[2])
    without_token = {page.partition("csrfmiddlewaretoken")[0] for page in pages}
    assert len(without_token) == 1
    assert WrongPassword.objects.count() == 3


def test_a_code_confirms_once(ann: User) -> None:
    given(ann)
    code = code_of(ann)
    assert why_unconfirmed(ann, PASSWORD, code) == ""
    assert why_unconfirmed(ann, PASSWORD, code) == WRONG_EITHER
    Authenticator.objects.update(throttling_failure_timestamp=timezone.now() - timedelta(minutes=1))
    assert why_unconfirmed(ann, PASSWORD, code) == WRONG_EITHER
    assert why_unconfirmed(ann, PASSWORD, code_of(ann)) == ""


def test_the_code_that_set_it_up_confirms_nothing_else(ann: User) -> None:
    client = browser(ann)
    sealed = sealed_in(text_of(client.get(ENROL)))
    code = shown(ann, sealed)
    client.post(ENROL, {"sealed": sealed, "first_code": code, "password": PASSWORD})
    assert second_factor.has_one(ann)
    assert why_unconfirmed(ann, PASSWORD, code) == WRONG_EITHER


def test_a_code_that_came_with_a_wrong_password_is_not_used_up(ann: User) -> None:
    backup = given(ann)[0]
    code = code_of(ann)
    assert why_unconfirmed(ann, "wrong", code) == WRONG_EITHER
    assert why_unconfirmed(ann, "wrong", backup) == WRONG_EITHER
    assert why_unconfirmed(ann, PASSWORD, code) == ""
    assert why_unconfirmed(ann, PASSWORD, backup) == ""


@pytest.mark.sqlite_too
def test_of_many_at_once_with_one_code_one_is_confirmed(fresh_db: str) -> None:
    ann = someone("ann")
    backup = given(ann)[3]
    code = code_of(ann)
    said = at_once(4, lambda _: why_unconfirmed(ann, PASSWORD, code))
    assert sorted(said) == ["", *[WRONG_EITHER] * 3]
    WrongPassword.objects.all().delete()
    said = at_once(4, lambda _: why_unconfirmed(ann, PASSWORD, backup))
    assert sorted(said) == ["", *[WRONG_EITHER] * 3]


def test_a_backup_code_confirms_once_however_it_is_typed(ann: User) -> None:
    codes = given(ann)
    assert why_unconfirmed(ann, PASSWORD, f" {codes[0].upper().replace('-', ' ')} ") == ""
    assert why_unconfirmed(ann, PASSWORD, codes[0]) == WRONG_EITHER
    long_ago(ann)
    assert why_unconfirmed(ann, PASSWORD, codes[1]) == ""
    assert second_factor.codes_left(ann) == 8
    assert "8 of 10" in text_of(browser(ann).get(PAGE))


def test_after_a_wrong_code_the_right_one_waits_and_after_many_it_is_said_until_when(ann: User) -> None:
    given(ann)
    assert why_unconfirmed(ann, PASSWORD, wrong_code_of(ann)) == WRONG_EITHER
    right = shown(ann, Authenticator.objects.get().key)
    Authenticator.objects.update(last_t=F("last_t") - 120)
    assert why_unconfirmed(ann, PASSWORD, right) == WRONG_EITHER, "within a second of the wrong one"
    Authenticator.objects.update(throttling_failure_timestamp=timezone.now() - timedelta(seconds=2))
    assert why_unconfirmed(ann, PASSWORD, right) == ""
    Authenticator.objects.update(
        throttling_failure_count=12, throttling_failure_timestamp=timezone.now() - timedelta(minutes=10)
    )
    tries = WrongPassword.objects.count()
    for password in (PASSWORD, "wrong"):
        assert "many wrong codes in a row" in why_unconfirmed(ann, password, shown(ann, second_key(ann)))
    assert WrongPassword.objects.count() == tries, "it was not looked at"


def second_key(person: User) -> str:
    return str(Authenticator.objects.get(user=person).key)


@pytest.mark.sqlite_too
def test_after_five_wrong_tries_of_either_kind_none_is_looked_at(ann: User) -> None:
    backup = given(ann)[0]
    for password, code in ((PASSWORD, wrong_code_of(ann)), ("wrong", code_of(ann)), ("wrong", "")) * 2:
        long_ago(ann)
        last = why_unconfirmed(ann, password, code)
    assert last == LOCKED
    assert why_unconfirmed(ann, PASSWORD, code_of(ann)) == LOCKED
    assert why_unconfirmed(ann, PASSWORD, backup) == LOCKED
    WrongPassword.objects.update(at=F("at") - timedelta(minutes=15))
    assert why_unconfirmed(ann, PASSWORD, backup) == "", "it was not used up"


def test_another_persons_code_confirms_nothing(ann: User) -> None:
    bob = someone("bob")
    given(ann)
    codes = given(bob)
    assert why_unconfirmed(ann, PASSWORD, code_of(bob)) == WRONG_EITHER
    long_ago(ann)
    assert why_unconfirmed(ann, PASSWORD, codes[0]) == WRONG_EITHER
    long_ago(ann)
    Authenticator.objects.filter(user=ann).update(key=Authenticator.objects.get(user=bob).key)
    assert why_unconfirmed(ann, PASSWORD, code_of(bob)) == UNREADABLE, "nor does a copy of their secret"


def test_it_survives_a_new_secret_key_as_long_as_the_old_one_is_a_fallback(ann: User, settings: Any) -> None:
    codes = given(ann)
    code = code_of(ann)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "n" * 60
    assert why_unconfirmed(ann, PASSWORD, code) == UNREADABLE
    assert why_unconfirmed(ann, PASSWORD, codes[0]) == "", "which a backup code replaces"
    settings.SECRET_KEY_FALLBACKS = [old]
    assert why_unconfirmed(ann, PASSWORD, code) == ""


# --- At the login ----------------------------------------------------------------------------------------


def test_whoever_has_one_logs_in_with_it_and_not_without(ann: User, client: Any) -> None:
    backup = given(ann)[0]
    assert "one-time-code" in text_of(client.get(LOGIN))
    code = code_of(ann)
    for one_time_code, password in (("", PASSWORD), (wrong_code_of(ann), PASSWORD), (code, "wrong")):
        page = text_of(
            client.post(LOGIN, {"username": "ann", "password": password, "one_time_code": one_time_code})
        )
        assert INVALID in page
        assert "_auth_user_id" not in client.session
        long_ago(ann)
    login = {"username": "ann", "password": PASSWORD, "one_time_code": code_of(ann)}
    assert client.post(LOGIN, login).status_code == 302
    assert client.session["_auth_user_id"] == str(ann.pk)
    assert why_unconfirmed(ann, PASSWORD, login["one_time_code"]) == WRONG_EITHER, "it was used to log in"
    client.logout()
    assert client.post(LOGIN, {**login, "one_time_code": backup}).status_code == 302
    client.logout()
    assert INVALID in text_of(client.post(LOGIN, {**login, "one_time_code": backup}))


def test_wrong_codes_at_the_login_are_counted_and_slowed_down(ann: User, client: Any) -> None:
    given(ann)
    login = {"username": "ann", "password": PASSWORD}
    client.post(LOGIN, {**login, "one_time_code": wrong_code_of(ann)})
    assert Authenticator.objects.get().throttling_failure_count == 1
    Authenticator.objects.update(
        last_t=F("last_t") - 120,
        throttling_failure_count=10,
        throttling_failure_timestamp=timezone.now() - timedelta(minutes=5),
    )
    right = shown(ann, Authenticator.objects.get().key)
    assert INVALID in text_of(client.post(LOGIN, {**login, "one_time_code": right}))


def test_whoever_has_none_logs_in_as_ever(ann: User, client: Any) -> None:
    assert client.post(LOGIN, {"username": "ann", "password": PASSWORD}).status_code == 302
    assert client.session["_auth_user_id"] == str(ann.pk)


def test_of_many_logins_at_once_with_one_code_one_succeeds(fresh_db: str) -> None:
    ann = someone("ann")
    given(ann)
    login = {"username": "ann", "password": PASSWORD, "one_time_code": code_of(ann)}
    answers = at_once(3, lambda _: Client().post(LOGIN, login).status_code)
    assert sorted(answers) == [200, 200, 302]


def test_whoever_may_not_use_the_console_does_not_log_in_with_a_code_either(db: None, client: Any) -> None:
    eve = User.objects.create_user("eve", password=PASSWORD)
    given(eve)
    login = {"username": "eve", "password": PASSWORD, "one_time_code": code_of(eve)}
    assert client.post(LOGIN, login).status_code == 200
    assert "_auth_user_id" not in client.session


# --- Required --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["required", "Offered"])
def test_where_it_is_required_whoever_has_none_does_nothing_dangerous(
    ann: User, key: Key, settings: Any, value: str
) -> None:
    settings.CONSOLE_SECOND_FACTOR = value
    client = browser(ann)
    assert f'href="{PAGE}"' in text_of(client.get(at(key, "suspend"))).partition('<div class="max-w-2xl">')[2]
    page = text_of(client.post(at(key, "suspend"), said()))
    assert "Dangerous acts want a second factor here, and you have none." in page
    assert f'<a class="underline" href="{PAGE}">' in page
    assert state(key) == "ACTIVE"
    assert "Dangerous acts are refused to you" in text_of(client.get(PAGE))
    assert len(codes_in(text_of(enrolled(ann, client)))) == 10
    client.post(at(key, "suspend"), said(one_time_code=code_of(ann)))
    assert state(key) == "SUSPENDED"


def test_checks_warn_where_it_is_not_required_and_refuse_what_is_neither(settings: Any) -> None:
    settings.DEBUG = False
    assert [found.id for found in checks.check_second_factor()] == ["dalp.W005"]
    settings.CONSOLE_SECOND_FACTOR = "required"
    assert checks.check_second_factor() == []
    assert checks.unknown_second_factor() == []
    settings.CONSOLE_SECOND_FACTOR = "requierd"
    assert [found.id for found in checks.unknown_second_factor()] == ["dalp.E005"]
