"""Keys whose ciphertext is in Vault, driven through hvac over real HTTP."""

import base64
import time
from typing import Any

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from keyguard import create_key, curve, import_key, sign_message, sign_transactions, vault_client
from keyguard.backend_errors import (
    BackendSettingsError,
    VaultConflictError,
    VaultDeniedError,
    VaultRefusedError,
    VaultSealedError,
    VaultSecretMissingError,
    VaultUnreachableError,
)
from keyguard.backends import vault as vault_backend
from keyguard.backends.vault import VaultBackend
from keyguard.errors import AliasTakenError, BackendError, Disposition, MaterialTamperedError
from keyguard.models import Key, KeyMaterial, SigningRecord
from tests.fakes.vault import FakeVault
from tests.integration.keyguard.conftest import VAULT_POLICY, VAULT_ROLE, VAULT_SECRET
from tests.integration.keyguard.requests import request
from tests.threads import at_once

SECRET = bytes(range(1, 33))
SIGNATURES = 10_000

pytestmark = pytest.mark.django_db


def stored(vault: FakeVault, key: Key) -> dict[str, str]:
    [data] = vault.kv.versions[key.backend_ref]
    return dict(data)


def logins(vault: FakeVault) -> int:
    return vault.roles[VAULT_ROLE].logins


def test_transaction_is_signed_by_a_key_of_which_neither_side_has_enough(vault: FakeVault) -> None:
    key = import_key("treasury", SECRET, "vault")
    (signed,) = sign_transactions([request(key.address)])
    assert Account.recover_transaction(signed.raw) == key.address
    in_vault = stored(vault, key)
    assert sorted(in_vault) == ["address", "ciphertext", "format", "nonce"]
    assert SECRET.hex() not in base64.b64decode(in_vault["ciphertext"]).hex()
    material = KeyMaterial.objects.get()
    assert bytes(material.ciphertext) == bytes(material.nonce) == b""
    assert key.backend_ref == f"dalp/keys/{key.id}"


@pytest.mark.case("K20")
def test_ten_thousand_signatures_are_low_s_and_recover(vault: FakeVault) -> None:
    key = create_key("many", "vault")
    digests = [number.to_bytes(32) for number in range(1, SIGNATURES + 1)]
    signatures = VaultBackend().prepare(key)(digests)
    for digest, signature in zip(digests, signatures, strict=True):
        assert int.from_bytes(signature[32:64]) <= curve.HALF_ORDER
        assert curve.recover(signature, digest) == bytes(key.public_key)


def test_alias_that_is_taken_leaves_nothing_in_vault(vault: FakeVault) -> None:
    create_key("taken", "vault")
    with pytest.raises(AliasTakenError):
        create_key("taken", "vault")
    assert len(vault.kv.versions) == 1


# What Vault has lost or altered


@pytest.mark.case("K1", "K5")
@pytest.mark.parametrize("name", ["ciphertext", "nonce"])
def test_ciphertext_that_was_altered_in_vault_suspends_the_key(vault: FakeVault, name: str) -> None:
    key = create_key("treasury", "vault")
    data = vault.kv.versions[key.backend_ref][0]
    raw = bytearray(base64.b64decode(data[name]))
    raw[0] ^= 1
    data[name] = base64.b64encode(raw).decode()
    with pytest.raises(MaterialTamperedError):
        sign_transactions([request(key.address)])
    key.refresh_from_db()
    assert key.state == "SUSPENDED"


@pytest.mark.case("K1")
def test_ciphertext_of_another_key_does_not_open(vault: FakeVault) -> None:
    one, two = create_key("one", "vault"), create_key("two", "vault")
    vault.kv.versions[two.backend_ref] = vault.kv.versions[one.backend_ref]
    with pytest.raises(MaterialTamperedError):
        sign_transactions([request(two.address)])
    assert sign_transactions([request(one.address)])


@pytest.mark.parametrize("data", [{}, {"nonce": 7, "ciphertext": "A"}, {"nonce": "!", "ciphertext": "!"}])
def test_secret_that_is_none_of_ours_suspends_the_key(vault: FakeVault, data: dict[str, Any]) -> None:
    key = create_key("treasury", "vault")
    vault.kv.versions[key.backend_ref] = [data]
    with pytest.raises(MaterialTamperedError):
        sign_transactions([request(key.address)])


@pytest.mark.case("K32")
def test_deleted_version_is_a_clear_error_and_undelete_recovers(vault: FakeVault) -> None:
    key = create_key("treasury", "vault")
    vault.kv.answer("POST", f"delete/{key.backend_ref}", {}, {"versions": [1]})
    with pytest.raises(VaultSecretMissingError, match="deleted") as caught:
        sign_transactions([request(key.address)])
    assert caught.value.disposition is Disposition.PARK
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert not SigningRecord.objects.exists()
    vault.kv.answer("POST", f"undelete/{key.backend_ref}", {}, {"versions": [1]})
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K32")
@pytest.mark.parametrize("how", ["destroyed", "nothing is at"])
def test_destroyed_version_and_empty_path_are_told_apart(vault: FakeVault, how: str) -> None:
    key = create_key("treasury", "vault")
    if how == "destroyed":
        vault.kv.answer("POST", f"destroy/{key.backend_ref}", {}, {"versions": [1]})
    else:
        del vault.kv.versions[key.backend_ref]
    with pytest.raises(VaultSecretMissingError, match=how):
        sign_transactions([request(key.address)])
    key.refresh_from_db()
    assert key.state == "ACTIVE"


@pytest.mark.case("K32")
def test_version_that_somebody_wrote_on_top_is_not_read(vault: FakeVault) -> None:
    key = create_key("treasury", "vault")
    vault.kv.versions[key.backend_ref].append({"nonce": "", "ciphertext": ""})
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K32")
def test_two_writers_of_one_path_have_one_winner(vault: FakeVault) -> None:
    def put(number: int) -> str:
        try:
            vault_backend.write("dalp/keys/contested", {"number": str(number)})
        except VaultConflictError as error:
            return error.code
        return str(number)

    said = at_once(8, put)
    winners = [word for word in said if word != "KEYGUARD_VAULT_CONFLICT"]
    assert len(winners) == 1
    assert vault.kv.versions["dalp/keys/contested"] == [{"number": winners[0]}]


def test_nothing_is_written_over_a_deleted_secret(vault: FakeVault) -> None:
    vault_backend.write("dalp/keys/deleted", {"a": "b"})
    vault.kv.deleted["dalp/keys/deleted"] = {1}
    with pytest.raises(VaultConflictError, match="deleted"):
        vault_backend.write("dalp/keys/deleted", {"a": "b"})


# Lost answers of writes


@pytest.mark.case("K31", "K32")
def test_lost_answer_of_a_write_is_looked_up_and_nothing_is_written_twice(vault: FakeVault) -> None:
    vault.trouble("POST secret/data", "lose")
    key = create_key("treasury", "vault")
    assert vault.requests("secret/data") == [
        f"POST secret/data/{key.backend_ref}",
        f"GET secret/data/{key.backend_ref}",
    ]
    assert len(vault.kv.versions[key.backend_ref]) == 1
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K31")
def test_write_that_never_arrived_is_looked_up_and_then_written(vault: FakeVault) -> None:
    vault.trouble("POST secret/data", "drop")
    key = create_key("treasury", "vault")
    assert [line.split()[0] for line in vault.requests("secret/data")] == ["POST", "GET", "POST"]
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K31")
def test_write_that_cannot_be_looked_up_adds_no_key(vault: FakeVault) -> None:
    vault.trouble("POST secret/data", "lose")
    vault.trouble("GET secret/data", "drop")
    with pytest.raises(VaultUnreachableError):
        create_key("treasury", "vault")
    assert not Key.objects.exists()
    assert create_key("treasury", "vault")


# Tokens, policies, seals


@pytest.mark.case("K31")
def test_token_that_has_expired_costs_one_login(vault: FakeVault) -> None:
    key = create_key("treasury", "vault")
    vault.skew_seconds = 100_000
    assert sign_message(key.address, b"a", "first")
    assert sign_message(key.address, b"a", "second")
    assert logins(vault) == 2
    assert [line.split()[1] for line in vault.log[2:6]] == [
        f"secret/data/{key.backend_ref}",
        "auth/token/lookup-self",
        "auth/approle/login",
        f"secret/data/{key.backend_ref}",
    ]


@pytest.mark.case("K31")
def test_policy_that_says_no_costs_no_login_and_no_loop(vault: FakeVault) -> None:
    key = create_key("treasury", "vault")
    for token in vault.tokens.values():
        token.policy = []
    for number in range(3):
        with pytest.raises(VaultDeniedError) as caught:
            sign_message(key.address, b"a", f"denied-{number}")
    assert caught.value.disposition is Disposition.PARK
    assert logins(vault) == 1
    assert len(vault.requests("GET secret/data")) == 3
    key.refresh_from_db()
    assert key.state == "ACTIVE"


def test_refused_login_is_no_loop(vault: FakeVault, settings: Any) -> None:
    settings.KEYGUARD_VAULT_SECRET_ID = "another"
    with pytest.raises(VaultDeniedError, match="login") as caught:
        create_key("treasury", "vault")
    assert "another" not in str(caught.value)
    assert len(vault.requests("login")) == 1
    settings.KEYGUARD_VAULT_SECRET_ID = ""
    with pytest.raises(BackendSettingsError, match="KEYGUARD_VAULT_SECRET_ID"):
        create_key("treasury", "vault")


def test_token_is_renewed_in_time_and_exchanged_before_its_last_day(
    vault: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes on both sides. A lease of 3600 s, of which there can be 7200 s in all."""
    begun = time.monotonic()
    monkeypatch.setattr(vault_client.time, "monotonic", lambda: begun + vault.skew_seconds)
    key = create_key("treasury", "vault")

    def later(seconds: float) -> list[str]:
        vault.skew_seconds, before = seconds, len(vault.log)
        assert sign_message(key.address, b"a", f"at-{seconds}")
        return [line.split()[1] for line in vault.log[before:] if "auth/" in line]

    assert later(1000) == []
    assert later(2500) == ["auth/token/renew-self"]
    # A lease to 6100; at 5000 there are 2200 s left of the 7200.
    assert later(5000) == ["auth/token/renew-self"]
    assert later(6900) == ["auth/token/renew-self", "auth/approle/login"]
    assert later(8000) == []


@pytest.mark.case("K31")
@pytest.mark.parametrize(
    ("how", "value", "error"),
    [
        ("status", 429, VaultUnreachableError),
        ("status", 473, VaultUnreachableError),
        ("status", 412, VaultUnreachableError),
        ("status", 500, VaultUnreachableError),
        ("status", 502, VaultUnreachableError),
        ("status", 503, VaultSealedError),
        ("status", 307, VaultUnreachableError),
        ("drop", 0, VaultUnreachableError),
        ("wait", 1.0, VaultUnreachableError),
    ],
)
def test_vault_that_cannot_answer_is_tried_again_and_accuses_no_key(
    vault: FakeVault, settings: Any, how: str, value: float, error: type[BackendError]
) -> None:
    settings.KEYGUARD_VAULT_TIMEOUT_SECONDS = 0.4
    key = create_key("treasury", "vault")
    vault.trouble("GET secret/data", how, value)
    with pytest.raises(error) as caught:
        sign_transactions([request(key.address)])
    assert caught.value.disposition is Disposition.RETRY
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert not SigningRecord.objects.exists()
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K31")
def test_sealed_vault_signs_again_when_it_is_unsealed(vault: FakeVault) -> None:
    key = create_key("treasury", "vault")
    vault.sealed = True
    with pytest.raises(VaultSealedError):
        sign_transactions([request(key.address)])
    with pytest.raises(VaultSealedError):
        create_key("other", "vault")
    vault.sealed = False
    assert sign_transactions([request(key.address)])
    assert Key.objects.count() == 1


def test_nobody_listens(vault: FakeVault, settings: Any) -> None:
    settings.KEYGUARD_VAULT_URL = "http://127.0.0.1:1"
    with pytest.raises(VaultUnreachableError):
        create_key("treasury", "vault")


def test_namespace_goes_along_with_every_request(vault: FakeVault, settings: Any) -> None:
    vault.namespace = "assets/dalp"
    with pytest.raises((VaultDeniedError, VaultRefusedError)):
        create_key("treasury", "vault")
    settings.KEYGUARD_VAULT_NAMESPACE = "assets/dalp"
    key = create_key("treasury", "vault")
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K55")
def test_no_token_and_no_secret_id_reaches_a_log_or_an_error(vault: FakeVault) -> None:
    told = []
    with capture_logs() as logs:
        key = create_key("treasury", "vault")
        for token in vault.tokens.values():
            token.policy = []
        for number, status in enumerate((400, 404, 429, 500, 503)):
            vault.trouble("GET secret/data", "status", status)
            with pytest.raises(BackendError) as caught:
                sign_message(key.address, b"a", f"told-{number}")
            told.append(f"{caught.value!r} {caught.value} {caught.value.__cause__}")
    text = "\n".join([*told, repr(logs)])
    for secret in (VAULT_SECRET, *vault.tokens):
        assert secret not in text


def test_fork_forgets_the_parents_token(vault: FakeVault) -> None:
    parents = vault_client.vault()
    vault_client._in_child()  # what a forked process does first
    assert vault_client.vault() is not parents


def test_documented_policy_is_the_one_that_the_tests_use() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "deploy" / "vault.md").read_text()
    for path, capabilities in VAULT_POLICY.items():
        words = ", ".join(f'"{word}"' for word in capabilities.split())
        assert f'path "{path}" {{\n  capabilities = [{words}]\n}}' in page
