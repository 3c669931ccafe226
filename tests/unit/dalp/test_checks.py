"""Production does not start without its own secrets."""

import base64
import os
import subprocess
import sys
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from dalp import checks

PRODUCTION = {
    "DEBUG": False,
    "SECRET_KEY": "a long and random production key, really",
    "KEYGUARD_KEK": base64.b64encode(bytes(range(32))).decode(),
    "DALP_TEST_DISABLE_FENCE": False,
}


@pytest.fixture
def production(settings: Any) -> Any:
    for name, value in PRODUCTION.items():
        setattr(settings, name, value)
    return settings


def ids() -> set[str | None]:
    return {message.id for message in checks.check_secrets()}


def test_production_with_its_own_secrets_starts(production: Any) -> None:
    checks.stop_if_unsafe()


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("SECRET_KEY", "development-only-secret-key-that-everybody-knows", "dalp.E001"),
        ("KEYGUARD_KEK", "", "dalp.E004"),
        ("KEYGUARD_KEK", "ZGV2ZWxvcG1lbnQtb25seS1rZWstMzItYnl0ZXMhISE=", "dalp.E002"),
        ("DALP_TEST_DISABLE_FENCE", True, "dalp.E003"),
        ("KEYGUARD_KEK", "too short", "dalp.E004"),
        ("KEYGUARD_KEK", base64.b64encode(b"x" * 31).decode(), "dalp.E004"),
        ("KEYGUARD_KEK_FALLBACKS", ["ZGV2ZWxvcG1lbnQtb25seS1rZWstMzItYnl0ZXMhISE="], "dalp.E002"),
        ("KEYGUARD_KEK_FALLBACKS", ["too short"], "dalp.E004"),
        ("KEYGUARD_KEK_PROVIDER", "magic", "keyguard.E001"),
        ("KEYGUARD_KEK_PROVIDER", "vault", "keyguard.E002"),
        ("KEYGUARD_KEK_PROVIDER", "pkcs11", "keyguard.E002"),
        ("KEYGUARD_VAULT_URL", "http://vault.example:8200", "keyguard.E003"),
    ],
)
def test_production_with_a_missing_or_known_secret_does_not_start(
    production: Any, name: str, value: Any, found: str
) -> None:
    setattr(production, name, value)
    assert ids() == {found}
    with pytest.raises(ImproperlyConfigured) as error:
        checks.stop_if_unsafe()
    assert found in str(error.value)
    assert str(value) not in str(error.value) or value in ("", True, "vault", "pkcs11")


def test_whoever_keeps_the_kek_elsewhere_needs_none_in_the_settings(production: Any) -> None:
    production.KEYGUARD_KEK = production.DEVELOPMENT_KEK
    production.KEYGUARD_KEK_PROVIDER = "vault"
    production.KEYGUARD_VAULT_URL = "https://vault.example:8200"
    production.KEYGUARD_VAULT_ROLE_ID = production.KEYGUARD_VAULT_SECRET_ID = "x"
    checks.stop_if_unsafe()
    # Vault Agent on this machine.
    production.KEYGUARD_VAULT_URL = "http://127.0.0.1:8100"
    checks.stop_if_unsafe()


def test_process_that_signs_nothing_needs_no_kek(production: Any) -> None:
    production.KEYGUARD_SIGNS = False
    production.KEYGUARD_KEK = ""
    production.KEYGUARD_KEK_PROVIDER = "vault"
    checks.stop_if_unsafe()


def test_process_that_signs_nothing_forgets_what_opens_keys() -> None:
    code = (
        "from django.conf import settings as s;"
        "print([s.KEYGUARD_KEK, s.KEYGUARD_KEK_FALLBACKS, s.KEYGUARD_HSM_PIN, s.KEYGUARD_VAULT_SECRET_ID])"
    )
    given = {"KEYGUARD_KEK": "k" * 44, "KEYGUARD_KEK_FALLBACKS": "a,b", "KEYGUARD_HSM_PIN": "1234"}
    given |= {"KEYGUARD_VAULT_SECRET_ID": "secret", "DJANGO_SETTINGS_MODULE": "dalp.settings"}

    def shown(**more: str) -> str:
        env = {**os.environ, **given, **more}
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert shown(KEYGUARD_SIGNS="false") == "['', [], '', '']"
    assert "1234" in shown()


def test_key_of_the_audit_trail_is_32_bytes_in_hex(production: Any) -> None:
    for text in ("11" * 31, "no hex", "11" * 33):
        production.KEYGUARD_AUDIT_KEY = text
        with pytest.raises(ImproperlyConfigured) as error:
            checks.stop_if_unsafe()
        assert "openssl rand -hex 32" in str(error.value)
        assert text not in str(error.value)


def test_development_may_use_the_development_secrets(production: Any) -> None:
    production.DEBUG = True
    production.SECRET_KEY = production.DEVELOPMENT_SECRET_KEY
    production.KEYGUARD_KEK = production.DEVELOPMENT_KEK
    production.DALP_TEST_DISABLE_FENCE = True
    checks.stop_if_unsafe()


def test_production_on_sqlite_is_warned_about(production: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(production.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    assert [message.id for message in checks.check_database()] == ["dalp.W001"]
