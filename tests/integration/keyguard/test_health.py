"""Each backend and each KEK is asked how it stands, and one that hangs keeps nobody from hearing of the others."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from keyguard import create_key, health
from keyguard import hsm as token_module
from keyguard.backends import BACKENDS
from keyguard.backends.pkcs11 import Pkcs11Backend
from keyguard.health import HealthState
from keyguard.models import Key
from tests.fakes.vault import FakeVault
from tests.softhsm import SoftToken


@pytest.fixture
def released() -> Any:
    event = threading.Event()
    yield event
    event.set()


class Hanging:
    def __init__(self, until: threading.Event) -> None:
        self.until = until

    def probe(self, references: Sequence[str]) -> str:
        self.until.wait(30)
        return "at last"


def by_name(found: Sequence[health.Health]) -> dict[str, health.Health]:
    return {one.name: one for one in found}


def test_backends_in_use_and_keks_that_are_needed_are_asked(
    fresh_db: str, hsm: SoftToken, vault: FakeVault
) -> None:
    assert health.check_all() == []  # nothing is used, and nobody is asked
    for backend in ("database", "pkcs11", "vault"):
        create_key(f"in-{backend}", backend)
    found = health.check_all()
    assert [one.state for one in found] == [HealthState.OK] * 4
    assert [one.name.split()[0] for one in found] == ["database", "pkcs11", "vault", "kek"]
    assert "has 1 keys" in found[1].words
    assert "Vault is active and keeps 1 keys" in found[2].words


def test_backend_that_hangs_stops_no_other(
    fresh_db: str, hsm: SoftToken, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key("one", "database")
    create_key("two", "pkcs11")
    monkeypatch.setitem(BACKENDS, "database", lambda: Hanging(released))
    began = time.monotonic()
    found = by_name(health.check_all(seconds=1.0))
    assert time.monotonic() - began < 5
    assert (found["database"].state, found["database"].words) == (HealthState.DOWN, "no answer in 1 s")
    assert found["pkcs11"].state == HealthState.OK


def test_two_that_hang_cost_the_time_of_one(
    fresh_db: str, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, backend in enumerate(("pkcs11", "vault", "database")):
        Key.objects.create(
            alias=f"k{number}",
            address=f"0x{number:040x}",
            public_key=b"\4" * 65,
            backend=backend,
            origin="GENERATED",
        )
        monkeypatch.setitem(BACKENDS, backend, lambda: Hanging(released))
    began = time.monotonic()
    assert {one.state for one in health.check_all(seconds=1.0)} == {HealthState.DOWN}
    assert time.monotonic() - began < 2.5


@pytest.mark.case("K36")
def test_absent_token_missing_key_and_refused_pin_are_told_apart(
    fresh_db: str, fresh_hsm: SoftToken, settings: Any
) -> None:
    key = create_key("treasury", "pkcs11")
    assert health.check("pkcs11").state == HealthState.OK
    Pkcs11Backend().discard(bytes.fromhex(key.backend_ref))
    assert f"1 are missing, the first is {key.uri}" in health.check("pkcs11").words
    settings.KEYGUARD_HSM_TOKEN = "another"
    assert "KEYGUARD_HSM_ABSENT" in health.check("pkcs11").words
    settings.KEYGUARD_HSM_TOKEN, settings.KEYGUARD_HSM_PIN = fresh_hsm.label, "wrong-pin-0000"
    token_module.close()  # a process that is logged in needs no PIN
    refused = health.check("pkcs11")
    assert "KEYGUARD_HSM_PIN" in refused.words
    assert "try_hsm_pin" in refused.remedy
    assert "wrong-pin-0000" not in str(refused)


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({"sealed": True}, HealthState.DOWN, "KEYGUARD_VAULT_SEALED"),
        ({"standby": 429}, HealthState.OK, "is a standby"),
        ({"standby": 473}, HealthState.OK, "is a performance standby"),
        ({"standby": 472}, HealthState.DOWN, "is a recovery replica"),
    ],
)
def test_vault_says_how_it_stands(
    fresh_db: str, vault: FakeVault, change: dict[str, Any], state: HealthState, words: str
) -> None:
    create_key("treasury", "vault")
    for name, value in change.items():
        setattr(vault, name, value)
    found = health.check("vault")
    assert found.state == state
    assert words in found.words


def test_error_that_nobody_foresaw_shows_its_type_alone(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        def probe(self, references: Sequence[str]) -> str:
            raise RuntimeError("s3cret")

    monkeypatch.setitem(BACKENDS, "database", Odd)
    found = health.check("database")
    assert (found.state, found.words) == (HealthState.DOWN, "RuntimeError")
    assert "s3cret" not in repr(found)
