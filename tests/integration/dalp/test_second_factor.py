"""Second factors: setting one up, confirming with it, losing it. Nobody sees or changes another person's."""

import base64
import io
import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db.models import F
from django.test import Client
from django.utils import timezone
from django_otp.plugins.otp_static.models import StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from dalp import checks, factor_sealing, second_factor
from dalp.console.confirming import LOCKED, UNREADABLE, WRONG_EITHER, why_unconfirmed
from dalp.console.login import INVALID
from dalp.models import Authenticator, BackupCodes, WrongPassword
from keyguard import create_key
from keyguard.models import Key
from tests.integration.dalp.factors import (
    ENROL,
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
PAGE, CODES, REMOVE = (f"/admin/second-factor/{end}" for end in ("", "codes/", "remove/"))

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


@pytest.fixture
def ann(db: None) -> User:
    return someone("ann", may="view_key change_key")


@pytest.fixture
def key(db: None) -> Key:
    return create_key("treasury")


def state(key: Key) -> str:
    key.refresh_from_db()
    return key.state


def said(**changes: str) -> dict[str, str]:
    return {"reason": "odd signatures", "password": PASSWORD, **changes}


def history(person: User) -> list[str]:
    found = LogEntry.objects.filter(object_id=str(person.pk), content_type__model="user").order_by("pk")
    return [entry.get_change_message() for entry in found]


# --- Setting one up ---------------------------------------------------------------------------------------


def test_a_second_factor_is_set_up_with_its_first_code_and_the_password(ann: User) -> None:
    client = browser(ann)
    assert "You have none" in text_of(client.get(PAGE))
    page = text_of(client.get(ENROL))
    secret = base64.b32encode(factor_sealing.unseal(sealed_in(page), ann.pk)).decode()
    assert " ".join(secret[place : place + 4] for place in range(0, 32, 4)) in page
    assert "data:image/svg+xml" in page
    assert not second_factor.has_one(ann), "looking at the page changes nothing"
    answer = enrolled(ann, client)
    codes = codes_in(text_of(answer))
    assert len(set(codes)) == 10
    assert "no-store" in answer["Cache-Control"]
    assert second_factor.has_one(ann)
    page = text_of(client.get(PAGE))
    assert "10 of 10" in page
    assert not any(code in page for code in codes), "they are shown once"
    assert history(ann) == ["Enrolled a second factor."]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_code": "12345"}, "shows no such code now"),
        ({"first_code": "wrong"}, "shows no such code now"),
        ({"password": "wrong"}, "This is not your password"),
        ({"password": ""}, "This field is required"),
    ],
)
def test_none_is_set_up_without_its_first_code_and_the_password(
    ann: User, changes: dict[str, str], words: str
) -> None:
    assert words in text_of(enrolled(ann, browser(ann), **changes))
    assert not second_factor.has_one(ann)
    assert not BackupCodes.objects.exists()
    assert WrongPassword.objects.count() == (changes == {"password": "wrong"})


def test_every_look_at_the_page_shows_another_secret_and_one_for_this_person_alone(ann: User) -> None:
    bob = someone("bob")
    client, other = browser(ann), browser(bob)
    first, second = sealed_in(text_of(client.get(ENROL))), sealed_in(text_of(client.get(ENROL)))
    assert factor_sealing.unseal(first, ann.pk) != factor_sealing.unseal(second, ann.pk)
    form = {"sealed": first, "first_code": shown(ann, first), "password": PASSWORD}
    assert "That page was too old" in text_of(other.post(ENROL, form, follow=True))
    assert "That page was too old" in text_of(other.post(ENROL, {**form, "sealed": "x"}, follow=True))
    assert not second_factor.has_one(bob)


def test_the_secret_is_encrypted_in_the_database_and_the_backup_codes_are_not_there(ann: User) -> None:
    codes = codes_in(text_of(enrolled(ann, browser(ann))))
    device = Authenticator.objects.get()
    secret = device.bin_key
    for stored in (device.key, repr(TOTPDevice.objects.values().get())):
        assert secret.hex() not in stored
        assert base64.b32encode(secret).decode() not in stored
    tokens = set(StaticToken.objects.values_list("token", flat=True))
    assert not tokens & {text for code in codes for text in (code, code.replace("-", ""))}


def test_replacing_takes_the_password_and_a_code_of_the_present_one(ann: User, key: Key) -> None:
    old = given(ann)
    client, before = browser(ann), Authenticator.objects.get().key
    assert "This field is required" in text_of(enrolled(ann, client))
    assert WRONG_EITHER in text_of(enrolled(ann, client, one_time_code=wrong_code_of(ann)))
    assert Authenticator.objects.get().key == before
    long_ago(ann)
    assert len(codes_in(text_of(enrolled(ann, client, one_time_code=shown(ann, before))))) == 10
    assert Authenticator.objects.get().key != before
    long_ago(ann)
    assert why_unconfirmed(ann, PASSWORD, shown(ann, before)) == WRONG_EITHER
    long_ago(ann)
    assert why_unconfirmed(ann, PASSWORD, old[0]) == WRONG_EITHER, "the old backup codes are gone, too"
    assert history(ann) == ["Enrolled a second factor.", "Replaced the second factor."]


def test_a_device_that_came_meanwhile_is_not_overwritten(ann: User) -> None:
    sealed = second_factor.new_secret(ann)
    used = second_factor.state_after(ann, sealed, shown(ann, sealed))
    assert used is not None
    given(ann)
    with pytest.raises(second_factor.FactorChangedError):
        second_factor.enrol(ann, sealed, used, None)


# --- Confirming -------------------------------------------------------------------------------------------


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


# --- Logging in -------------------------------------------------------------------------------------------


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


# --- Required ---------------------------------------------------------------------------------------------


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


# --- Losing it --------------------------------------------------------------------------------------------


def test_removing_it_takes_password_and_code(ann: User) -> None:
    backup = given(ann)[0]
    client = browser(ann)
    assert WRONG_EITHER in text_of(
        client.post(REMOVE, {"password": PASSWORD, "one_time_code": wrong_code_of(ann)})
    )
    assert WRONG_EITHER in text_of(client.post(REMOVE, {"password": "wrong", "one_time_code": code_of(ann)}))
    assert second_factor.has_one(ann)
    page = text_of(client.post(REMOVE, {"password": PASSWORD, "one_time_code": backup}, follow=True))
    assert "You have no second factor any more." in page
    assert not second_factor.has_one(ann)
    assert not StaticToken.objects.exists()
    assert history(ann) == ["Enrolled a second factor.", "Removed the second factor."]


def test_new_backup_codes_take_the_place_of_the_old_ones(ann: User) -> None:
    old = given(ann)
    client = browser(ann)
    assert codes_in(text_of(client.post(CODES, {"password": PASSWORD, "one_time_code": ""}))) == []
    new = codes_in(text_of(client.post(CODES, {"password": PASSWORD, "one_time_code": old[0]})))
    assert len(set(new) - set(old)) == 10
    assert why_unconfirmed(ann, PASSWORD, old[1]) == WRONG_EITHER
    long_ago(ann)
    assert why_unconfirmed(ann, PASSWORD, new[0]) == ""


@pytest.mark.parametrize("page", [CODES, REMOVE])
def test_whoever_has_none_has_nothing_to_remove_or_renew(ann: User, page: str) -> None:
    client = browser(ann)
    assert client.get(page)["Location"] == PAGE
    assert client.post(page, {"password": PASSWORD})["Location"] == PAGE
    assert not BackupCodes.objects.exists()


def test_an_operator_resets_it_with_a_reason(ann: User, caplog: pytest.LogCaptureFixture) -> None:
    given(ann)
    given(someone("bob"))
    with pytest.raises(CommandError, match="Say why"):
        call_command("reset_second_factor", "ann", "--reason", " ")
    out = io.StringIO()
    with caplog.at_level(logging.WARNING):
        call_command("reset_second_factor", "ann", "--reason", "lost her phone", stdout=out)
    assert "ann has no second factor any more." in out.getvalue()
    assert list(Authenticator.objects.values_list("user__username", flat=True)) == ["bob"]
    assert "second_factor_reset" in caplog.text
    assert "lost her phone" in caplog.text
    assert "Second factor reset by command:" in history(ann)[-1]
    for name, words in (("ann", "has no second factor"), ("nobody", "There is nobody")):
        with pytest.raises(CommandError, match=words):
            call_command("reset_second_factor", name, "--reason", "lost her phone")


# --- Nobody else's, and nowhere else ----------------------------------------------------------------------


def test_django_otps_own_pages_are_gone_for_a_superuser_too(ann: User) -> None:
    given(ann)
    root = browser(User.objects.create_superuser("root", password=PASSWORD))
    pk, static = Authenticator.objects.get().pk, BackupCodes.objects.get().pk
    for page in (
        "otp_totp/",
        "otp_totp/totpdevice/",
        "otp_totp/totpdevice/add/",
        f"otp_totp/totpdevice/{pk}/change/",
        f"otp_totp/totpdevice/{pk}/config/",
        f"otp_totp/totpdevice/{pk}/qrcode/",
        "otp_static/staticdevice/",
        f"otp_static/staticdevice/{static}/change/",
    ):
        assert root.get(f"/admin/{page}").status_code == 404, page


def test_the_pages_are_the_readers_own_whoever_is_named(ann: User) -> None:
    given(ann)
    root = browser(User.objects.create_superuser("root", password=PASSWORD))
    for page in (f"{PAGE}?user={ann.pk}", f"{PAGE}?username=ann"):
        assert "You have none" in text_of(root.get(page))
    for page in (REMOVE, CODES):
        root.post(page, {"password": PASSWORD, "one_time_code": code_of(ann), "user": ann.pk})
    assert second_factor.has_one(ann)
    assert second_factor.codes_left(ann) == 10


def test_an_anonymous_person_and_one_without_the_console_see_none_of_it(client: Any, ann: User) -> None:
    outside = User.objects.create_user("eve", password=PASSWORD)
    for visitor in (client, browser(outside)):
        for page in (PAGE, ENROL, CODES, REMOVE):
            assert visitor.get(page)["Location"].startswith("/admin/login/")


def test_the_secret_is_on_no_other_page_and_in_no_log(ann: User, caplog: pytest.LogCaptureFixture) -> None:
    client = browser(ann)
    with caplog.at_level(logging.DEBUG):
        sealed = sealed_in(text_of(client.get(ENROL)))
        form = {"sealed": sealed, "first_code": shown(ann, sealed), "password": PASSWORD}
        codes = codes_in(text_of(client.post(ENROL, form)))
        backup = code_of(ann)
        client.post(REMOVE, {"password": "wrong", "one_time_code": backup})
    secret = factor_sealing.unseal(sealed, ann.pk)
    text = base64.b32encode(secret).decode()
    secrets = [secret.hex(), text, text[:4] + " " + text[4:8], sealed, *codes, PASSWORD]
    root = browser(User.objects.create_superuser("root", password=PASSWORD))
    pages = [PAGE, CODES, REMOVE, "/admin/", f"/admin/auth/user/{ann.pk}/change/", "/admin/auth/user/"]
    pages += [f"/admin/auth/user/{ann.pk}/history/", f"/admin/auth/user/{ann.pk}/delete/"]
    for page in pages:
        for visitor in (client, root):
            answer = visitor.get(page, follow=True)
            refused = "/delete/" in page or (visitor is client and "/auth/" in page)
            assert answer.status_code == (403 if refused else 200), page
            assert not [each for each in secrets if each in answer.content.decode()], page
    logged = json.dumps([str(record.__dict__) for record in caplog.records])
    assert "second_factor_enrolled" in logged
    assert not [each for each in secrets if each in logged]
    assert not [each for each in secrets if each in repr(list(LogEntry.objects.values()))]
