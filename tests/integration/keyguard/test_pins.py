"""A wrong PIN is tried once, by whoever comes first, and then not before a person says so."""

import logging
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from dalp.chain_diagnosis import check_keys
from keyguard import crashpoints, create_key, hsm, pins, sealing, sign_message
from keyguard.backend_errors import HsmPinError
from keyguard.backends.pkcs11 import Pkcs11Backend
from keyguard.errors import Disposition, KeyguardSealedError
from keyguard.models import HsmToken, Key, Sealing, SigningRecord
from tests.softhsm import PIN, SoftToken
from tests.threads import at_once

WRONG = "not-the-pin-2026"


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every PIN that is given to the token."""
    given: list[str] = []
    real = hsm.Token._with_pin

    def count(self: hsm.Token, pin: str) -> Any:
        given.append(pin)
        return real(self, pin)

    monkeypatch.setattr(hsm.Token, "_with_pin", count)
    return given


@pytest.mark.case("K36")
@pytest.mark.sqlite_too
def test_wrong_pin_is_tried_once_and_again_only_after_a_person_has_said_so(
    fresh_db: str,
    fresh_hsm: SoftToken,
    settings: Any,
    tries: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = create_key("treasury", "pkcs11")
    hsm.close()
    tries.clear()
    settings.KEYGUARD_HSM_PIN = WRONG
    for number in range(4):
        with pytest.raises(HsmPinError) as caught:
            sign_message(key.address, b"a", f"wrong-{number}")
        assert caught.value.disposition is Disposition.PARK
        assert WRONG not in str(caught.value)
    assert tries == [WRONG]
    # Everybody is told, in the words in which seals are told of.
    seal = Sealing.objects.get()
    assert (seal.backend, seal.code, seal.lifted_at) == ("pkcs11", "KEYGUARD_HSM_PIN", None)
    errors = [each.msg for each in caplog.records if each.levelno == logging.ERROR]
    assert [each["event"] for each in errors if isinstance(each, dict)] == ["keyguard_sealed"]
    alarms = [one.detail for one in check_keys() if not one.ok]
    assert [words for words in alarms if "keys of pkcs11 are sealed by keyguard itself" in words]
    assert create_key("elsewhere")
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert not SigningRecord.objects.exists()
    # The right one in the settings is not enough: perhaps the token has one try left.
    settings.KEYGUARD_HSM_PIN = PIN
    with pytest.raises(HsmPinError):
        sign_message(key.address, b"a", "right-too-early")
    assert tries == [WRONG]
    told = StringIO()
    call_command("try_hsm_pin", stdout=told)
    assert "is right" in told.getvalue()
    assert PIN not in told.getvalue()
    assert tries == [WRONG, PIN]
    seal.refresh_from_db()
    assert seal.lifted_at is not None
    assert sign_message(key.address, b"a", "right")


@pytest.mark.case("K36")
@pytest.mark.postgresql("SQLite remembers a refusal within a transaction in the process alone")
def test_refusal_is_known_to_other_processes_although_the_signing_was_rolled_back(
    fresh_db: str, fresh_hsm: SoftToken, settings: Any, tries: list[str]
) -> None:
    key = create_key("treasury", "pkcs11")
    hsm.close()
    tries.clear()
    settings.KEYGUARD_HSM_PIN = WRONG
    with pytest.raises(HsmPinError):
        sign_message(key.address, b"a", "wrong")
    assert HsmToken.objects.get(label=fresh_hsm.label).pin_refused_at is not None
    # As another process: it knows nothing but the table.
    hsm.close()
    pins._refused.clear()
    sealing._wanted.clear()
    with pytest.raises(HsmPinError, match="before"):
        sign_message(key.address, b"a", "other-process")
    # Nor by whoever could log in.
    pins.allow_pin(fresh_hsm.label)
    settings.KEYGUARD_HSM_PIN = PIN
    with pytest.raises(KeyguardSealedError):
        sign_message(key.address, b"a", "logged-in")
    assert tries == [WRONG, PIN]


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.case("K36")
@pytest.mark.postgresql("SQLite remembers a refusal within a transaction in the process alone")
def test_who_comes_after_a_crash_between_the_refusal_and_the_seal_seals(
    fresh_db: str, fresh_hsm: SoftToken, settings: Any, tries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str) -> None:
        if name == "keyguard.pin_refused":
            raise KilledError

    key = create_key("treasury", "pkcs11")
    hsm.close()
    tries.clear()
    settings.KEYGUARD_HSM_PIN = WRONG
    with monkeypatch.context() as patched:
        patched.setattr(crashpoints, "_reached", [die])
        with pytest.raises(KilledError):
            sign_message(key.address, b"a", "wrong")
    assert not Sealing.objects.exists()
    hsm.close()
    with pytest.raises(HsmPinError, match="before"):
        sign_message(key.address, b"a", "other-process")
    assert Sealing.objects.get().code == "KEYGUARD_HSM_PIN"
    assert tries == [WRONG]


@pytest.mark.case("K36")
@pytest.mark.postgresql("nothing runs beside on SQLite")
def test_many_at_once_try_a_wrong_pin_once(
    fresh_db: str, fresh_hsm: SoftToken, settings: Any, tries: list[str]
) -> None:
    create_key("treasury", "pkcs11")
    hsm.close()
    tries.clear()
    settings.KEYGUARD_HSM_PIN = WRONG
    place = hsm.token().place
    # Each a token of its own, as in as many processes.
    errors = at_once(6, lambda number: _code(hsm.Token(place)))
    assert errors == ["KEYGUARD_HSM_PIN"] * 6
    assert tries == [WRONG]


def _code(token: hsm.Token) -> str:
    try:
        token.log_in()
    except HsmPinError as error:
        return error.code
    return "logged in"


def test_wrong_pin_of_the_command_is_remembered_too(
    fresh_db: str, fresh_hsm: SoftToken, settings: Any, tries: list[str]
) -> None:
    settings.KEYGUARD_HSM_PIN = WRONG
    for count in (1, 2):  # each time a person says so
        with pytest.raises(CommandError, match="KEYGUARD_HSM_PIN") as caught:
            call_command("try_hsm_pin")
        assert WRONG not in str(caught.value)
        assert len(tries) == count
    with pytest.raises(HsmPinError):
        create_key("treasury", "pkcs11")
    assert len(tries) == 2
    assert not Key.objects.exists()


def test_command_names_key_pairs_that_belong_to_no_key(fresh_db: str, fresh_hsm: SoftToken) -> None:
    create_key("known", "pkcs11")
    stranger = Pkcs11Backend().generate("stranger")
    stranger.delete()
    told = StringIO()
    call_command("try_hsm_pin", stdout=told)
    assert f"1 key pairs in the token belong to no key here: {stranger.uri}" in told.getvalue()
