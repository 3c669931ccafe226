"""Second factors: setting one up, replacing and losing it. Nobody sees or changes another person's."""

import base64
import io
import json
import logging
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django_otp.plugins.otp_static.models import StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from dalp import factor_sealing, second_factor
from dalp.console.confirming import WRONG_EITHER, why_unconfirmed
from dalp.models import Authenticator, BackupCodes, WrongPassword
from tests.integration.dalp.factors import (
    CODES,
    ENROL,
    PAGE,
    REMOVE,
    code_of,
    codes_in,
    enrolled,
    given,
    long_ago,
    sealed_in,
    shown,
    wrong_code_of,
)
from tests.integration.keyguard.people import PASSWORD, browser, someone, text_of

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


def history(person: User) -> list[str]:
    found = LogEntry.objects.filter(object_id=str(person.pk), content_type__model="user").order_by("pk")
    return [entry.get_change_message() for entry in found]


# --- Setting one up --------------------------------------------------------------------------------------


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


def test_replacing_takes_the_password_and_a_code_of_the_present_one(ann: User) -> None:
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


# --- Losing it -------------------------------------------------------------------------------------------


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


# --- Nobody else's, and nowhere else ---------------------------------------------------------------------


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
