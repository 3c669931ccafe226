"""KEKs that are kept elsewhere: proved before they are used, told apart from damaged material, asked seldom."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from keyguard import create_key, health, sign_message
from keyguard import hsm as token_module
from keyguard import kek as keks
from keyguard.backend_errors import KekRefusedError, VaultSealedError
from keyguard.errors import (
    BackendError,
    Disposition,
    KekError,
    KekMismatchError,
    KekMissingError,
    KekProviderUnknownError,
    MaterialTamperedError,
)
from keyguard.health import HealthState
from keyguard.kek_providers.pkcs11 import is_confined
from keyguard.kek_rotation import create_kek
from keyguard.models import Kek, Key, SigningRecord
from tests.fakes.vault import FakeVault
from tests.integration.keyguard.keks import kek_text, set_keks
from tests.integration.keyguard.requests import current, insert
from tests.softhsm import SoftToken

pytestmark = pytest.mark.django_db

PROVIDERS = ["vault", "pkcs11"]


@pytest.fixture
def keeper(request: pytest.FixtureRequest) -> Iterator[str]:
    """The provider's name; its Vault or token is there."""
    request.getfixturevalue({"vault": "vault", "pkcs11": "hsm"}[request.param])
    yield str(request.param)
    keks.forget()


@pytest.fixture
def vault_kek(vault: FakeVault, settings: Any) -> Kek:
    settings.KEYGUARD_KEK_PROVIDER = "vault"
    return first("vault")


def first(provider: str) -> Kek:
    """The first KEK, without `create_kek`, which commits."""
    from keyguard.kek_rotation import _make

    kek = _make(provider)
    kek.state = "ACTIVE"
    kek.save()
    return kek


def sign(key: Key, name: str) -> bytes:
    return sign_message(key.address, b"a", name)


@pytest.mark.parametrize("keeper", PROVIDERS, indirect=True)
def test_keys_are_stored_and_sign_under_a_remote_kek(keeper: str) -> None:
    kek = first(keeper)
    key = create_key("treasury")
    assert sign(key, "first")
    assert key.material.get().kek == kek
    assert (len(kek.kcv), bool(kek.provider_ref), bool(bytes(kek.proof))) == (16, True, True)


@pytest.mark.parametrize("keeper", PROVIDERS, indirect=True)
@pytest.mark.case("K1", "K2", "K5")
@pytest.mark.parametrize("attack", ["another key's row", "one bit", "another length", "other number"])
def test_tampered_material_under_a_remote_kek_suspends_its_key(keeper: str, attack: str) -> None:
    first(keeper)
    one, two = create_key("one"), create_key("two")
    row = current(one)
    changed = bytearray(row.wrapped_dek)
    changed[-3] ^= 1
    if attack == "another key's row":
        insert(two, row)
    elif attack == "one bit":
        insert(two, current(two), wrapped_dek=bytes(changed))
    elif attack == "another length":
        insert(two, current(two), wrapped_dek=bytes(current(two).wrapped_dek)[:-1])
    else:
        insert(two, current(two))
    with pytest.raises(MaterialTamperedError):
        sign(two, "tampered")
    two.refresh_from_db()
    assert two.state == "SUSPENDED"
    assert sign(one, "other")


@pytest.mark.case("K10")
@pytest.mark.parametrize("keeper", PROVIDERS, indirect=True)
@pytest.mark.parametrize("when", ["before the process started", "while it ran"])
def test_kek_that_was_exchanged_for_another_accuses_no_key(
    keeper: str, when: str, request: pytest.FixtureRequest
) -> None:
    kek = first(keeper)
    key = create_key("treasury")
    assert sign(key, "first")
    if keeper == "vault":
        request.getfixturevalue("vault").transit.keys[kek.provider_ref]["secrets"] = [os.urandom(32)]
    else:
        exchange(kek)
    keks.dek_cache.forget() if when == "while it ran" else keks.forget()
    with pytest.raises(KekMismatchError):
        sign(key, "second")
    with pytest.raises(KekMismatchError):
        create_key("other")
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert SigningRecord.objects.filter(state="SIGNED").count() == 1


def destroy_in_token(kek: Kek) -> None:
    def act(session: token_module.Session) -> None:
        for found in list(session.handle.get_objects({Attribute.ID: kek.id.bytes})):
            found.destroy()

    token_module.token().run(act, "destroy")


def exchange(kek: Kek) -> None:
    destroy_in_token(kek)

    def act(session: token_module.Session) -> None:
        session.handle.generate_key(
            KeyType.AES,
            256,
            id=kek.id.bytes,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        )

    token_module.token().run(act, "exchange")
    token_module.close()


@pytest.mark.case("K10")
def test_kek_that_is_gone_is_a_clear_error(hsm: SoftToken, vault: FakeVault) -> None:
    for provider in PROVIDERS:
        kek = first(provider)
        key = create_key(f"of-{provider}")
        if provider == "vault":
            del vault.transit.keys[kek.provider_ref]
        else:
            destroy_in_token(kek)
            token_module.close()
        keks.forget()
        with pytest.raises(KekRefusedError) as caught:
            sign(key, f"gone-{provider}")
        assert caught.value.disposition is Disposition.PARK
        key.refresh_from_db()
        assert key.state == "ACTIVE"
        Kek.objects.filter(pk=kek.pk).update(state="DECRYPT_ONLY")


@pytest.mark.case("K37")
def test_kek_cannot_leave_the_token_and_encrypts_only(hsm: SoftToken) -> None:
    kek = first("pkcs11")

    def act(session: token_module.Session) -> None:
        key = session.key(ObjectClass.SECRET_KEY, kek.id.bytes)
        expected = {
            Attribute.TOKEN: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.NEVER_EXTRACTABLE: True,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            Attribute.WRAP: False,
            Attribute.UNWRAP: False,
            Attribute.VALUE_LEN: 32,
        }
        assert {name: key[name] for name in expected} == expected
        loose = session.handle.generate_key(
            KeyType.AES, 256, store=False, template={Attribute.EXTRACTABLE: True}
        )
        assert not is_confined(loose)

    token_module.token().run(act, "look")


# Vault's own rotations


@pytest.mark.case("K33")
def test_transit_key_that_was_rotated_in_vault_is_told_of_before_keys_are_lost(
    vault: FakeVault, vault_kek: Kek
) -> None:
    key = create_key("treasury")
    assert kek_health(vault_kek).state == HealthState.OK
    vault.transit.rotate(vault_kek.provider_ref)
    # What we store stays under our version, so that what the row says is true.
    assert bytes(create_key("later").material.get().wrapped_dek).startswith(b"vault:v1:")
    threatened = kek_health(vault_kek)
    assert threatened.state == HealthState.THREATENED
    assert "min_decryption_version" in threatened.words
    assert "rotate_kek" in threatened.remedy
    # Somebody raises it all the same: no key is accused, and lowering it mends everything.
    vault.transit.keys[vault_kek.provider_ref]["least"] = 2
    keks.forget()
    with pytest.raises(KekRefusedError):
        sign(key, "refused")
    down = kek_health(vault_kek)
    assert (down.state, "KEYGUARD_KEK_REFUSED" in down.words) == (HealthState.DOWN, True)
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    vault.transit.keys[vault_kek.provider_ref]["least"] = 1
    assert sign(key, "lowered")


def kek_health(kek: Kek) -> health.Health:
    return health._gathered({"kek": health._kek_probe(kek)}, 5)[0]


def test_transit_key_that_is_not_derived_is_no_kek(vault: FakeVault, vault_kek: Kek) -> None:
    from keyguard.kek_providers.vault import VaultProvider

    vault.transit.keys[vault_kek.provider_ref]["derived"] = False
    with pytest.raises(KekRefusedError, match="not derived"):
        VaultProvider().make(vault_kek)


# DEKs that are kept for a moment


def test_unwrapped_dek_is_kept_for_a_moment_and_forgotten_when_told(vault: FakeVault, vault_kek: Kek) -> None:
    key = create_key("treasury")
    vault.log.clear()
    for number in range(5):
        assert sign(key, f"kept-{number}")
    assert len(vault.requests("transit/decrypt")) == 1
    assert keks.forget() == 1
    assert sign(key, "again")
    assert len(vault.requests("transit/decrypt")) == 3  # the proof, and the DEK


def test_nothing_is_kept_when_the_settings_say_so(vault: FakeVault, vault_kek: Kek, settings: Any) -> None:
    settings.KEYGUARD_DEK_CACHE_SECONDS = 0.0
    key = create_key("treasury")
    vault.log.clear()
    assert sign(key, "a")
    assert sign(key, "b")
    assert len(vault.requests("transit/decrypt")) == 2
    assert keks.forget() == 0


@pytest.mark.case("K5")
def test_kept_dek_does_not_hide_that_the_row_was_altered(vault: FakeVault, vault_kek: Kek) -> None:
    key = create_key("treasury")
    assert sign(key, "kept")
    row = current(key)
    changed = bytearray(row.wrapped_dek)
    changed[-3] ^= 1
    insert(key, row, wrapped_dek=bytes(changed))
    with pytest.raises(MaterialTamperedError):
        sign(key, "altered")


@pytest.mark.case("K31")
@pytest.mark.parametrize(("how", "value"), [("status", 503), ("status", 500), ("drop", 0), ("status", 403)])
def test_vault_that_keeps_the_kek_and_cannot_answer_accuses_no_key(
    vault: FakeVault, vault_kek: Kek, how: str, value: float
) -> None:
    key = create_key("treasury")
    keks.forget()
    vault.trouble("transit/decrypt", how, value)
    with pytest.raises(BackendError):
        sign(key, "first")
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert not SigningRecord.objects.exists()
    assert sign(key, "first")


@pytest.mark.case("K11")
def test_sealed_vault_lets_nothing_be_signed_and_the_doctor_says_so(vault: FakeVault, vault_kek: Kek) -> None:
    key = create_key("treasury")
    keks.forget()
    vault.sealed = True
    with pytest.raises(VaultSealedError) as caught:
        sign(key, "sealed")
    assert caught.value.disposition is Disposition.RETRY
    assert "KEYGUARD_VAULT_SEALED" in kek_health(vault_kek).words
    vault.sealed = False
    assert sign(key, "sealed")


@pytest.mark.case("K12")
def test_signature_under_way_when_vault_is_sealed_is_finished_and_its_buffers_are_wiped(
    vault: FakeVault, vault_kek: Kek, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard import curve
    from keyguard.backends.database import DatabaseBackend

    key, buffers = create_key("treasury"), []
    real = curve.sign

    def seal_meanwhile(secret: bytearray, digest: bytes) -> bytes:
        vault.sealed = True
        keks.forget()
        buffers.append(secret)
        return real(secret, digest)

    monkeypatch.setattr(curve, "sign", seal_meanwhile)
    digests = [bytes([number]) * 32 for number in (1, 2, 3)]
    signatures = DatabaseBackend().prepare(key)(digests)
    assert [curve.recover(one, digest) for one, digest in zip(signatures, digests, strict=True)] == [
        bytes(key.public_key)
    ] * 3
    assert buffers == [bytes(32)] * 3
    # The next one is not begun.
    with pytest.raises(VaultSealedError):
        DatabaseBackend().prepare(key)(digests)
    assert len(buffers) == 3
    assert keks.forget() == 0


# From the settings


def test_development_kek_is_none_in_production(settings: Any) -> None:
    set_keks(settings, settings.DEVELOPMENT_KEK)
    settings.DEBUG = True
    key = create_key("treasury")
    settings.DEBUG = False
    with pytest.raises(KekMissingError):
        sign(key, "production")
    set_keks(settings, kek_text("own"), settings.DEVELOPMENT_KEK)
    with pytest.raises(KekMismatchError):
        sign(key, "production")
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    settings.DEBUG = True
    assert sign(key, "development")


def test_provider_that_does_not_exist_is_named(settings: Any) -> None:
    with pytest.raises(KekProviderUnknownError, match="env, pkcs11, vault"):
        create_kek("magic")
    key = create_key("treasury")
    Kek.objects.update(provider="magic")
    with pytest.raises(KekError):
        sign(key, "magic")
