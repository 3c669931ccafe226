"""Keys that are destroyed: nothing opens them any more, wherever they were kept, and a half-done destruction is finished."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction

from keyguard import create_key, destroying, lifecycle, sign_message
from keyguard.backends.pkcs11 import Pkcs11Backend
from keyguard.errors import KeyActInvalidError, KeyDestroyedError
from keyguard.kek_rotation import rotate, uses
from keyguard.models import Kek, Key, KeyAct, KeyMaterial
from keyguard.policies import publishing
from keyguard.policies.models import Question
from keyguard.states import KeyState, KeyVerb
from tests.fakes.vault import FakeVault
from tests.integration.keyguard.keks import kek_text, set_keks
from tests.integration.keyguard.policies import person
from tests.softhsm import SoftToken
from workflows import crashpoint


class DiedError(BaseException):
    """Stands for the death of the process."""


def retired(alias: str = "treasury", backend: str = "database") -> Key:
    key = create_key(alias, backend)
    lifecycle.act(key, KeyVerb.RETIRE, "ann", "another one has taken over")
    return key


def destroy(key: Key) -> Question | None:
    """As the command does it."""
    if key.state != KeyState.DESTROYED:
        question = lifecycle.act(key, KeyVerb.DESTROY, "ann", "no longer needed")
        if question:
            return question
    destroying.finish(key)
    key.refresh_from_db()
    return None


@pytest.mark.case("K50")
@pytest.mark.sqlite_too
def test_destroyed_key_signs_nothing_and_nothing_opens_it(fresh_db: str) -> None:
    key, other = retired(), create_key("other")
    kept = KeyMaterial.objects.get(key=other)
    assert destroy(key) is None
    assert (key.state, key.material_gone_at is not None) == (KeyState.DESTROYED, True)
    material = KeyMaterial.objects.get(key=key)
    assert (bytes(material.wrapped_dek), bytes(material.ciphertext)) == (b"", b"")
    with pytest.raises(KeyDestroyedError, match="is destroyed"):
        sign_message(key.address, b"x", "one")
    assert sign_message(other.address, b"x", "two")
    assert bytes(KeyMaterial.objects.get(key=other).ciphertext) == bytes(kept.ciphertext)
    assert KeyAct.objects.filter(key=key, verb="DESTROY").count() == 1
    # No way back, not even to another end.
    for verb in (KeyVerb.REACTIVATE, KeyVerb.RETIRE, KeyVerb.COMPROMISED, KeyVerb.DESTROY):
        with pytest.raises(KeyActInvalidError, match="Destroyed cannot be"):
            lifecycle.act(key, verb, "ann", "because")


@pytest.mark.sqlite_too
def test_key_that_may_still_sign_is_not_destroyed(db: None) -> None:
    key = create_key("treasury")
    with pytest.raises(KeyActInvalidError, match="retire it first"):
        lifecycle.act(key, KeyVerb.DESTROY, "ann", "because")
    assert sign_message(key.address, b"x", "one")


@pytest.mark.sqlite_too
@pytest.mark.parametrize(
    "change",
    [
        {"wrapped_dek": b"", "ciphertext": b""},
        {"wrapped_dek": b"x"},
        {"nonce": b"", "wrapped_dek": b"", "ciphertext": b""},
        {"seq": 7, "wrapped_dek": b"", "ciphertext": b""},
    ],
)
@pytest.mark.parametrize("state", [KeyState.RETIRED, KeyState.DESTROYED])
def test_triggers_permit_emptying_a_destroyed_key_and_nothing_else(
    db: None, change: dict[str, Any], state: KeyState
) -> None:
    key = retired()
    rows = KeyMaterial.objects.filter(key=key)
    if state == KeyState.DESTROYED:
        with transaction.atomic():
            Key.objects.filter(pk=key.pk).update(state=state)
            KeyAct.objects.create(key=key, verb="DESTROY", actor="ann", reason="x")
    if state == KeyState.DESTROYED and change.keys() == {"wrapped_dek", "ciphertext"}:
        assert rows.update(**change) == 1
    else:
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            rows.update(**change)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        rows._raw_delete("default")


def test_keys_in_the_token_and_in_vault_are_destroyed_there(
    fresh_db: str, hsm: SoftToken, vault: FakeVault
) -> None:
    inside, other = retired("inside", "pkcs11"), create_key("other", "pkcs11")
    assert destroy(inside) is None
    assert other.backend_ref in Pkcs11Backend().references()
    assert inside.backend_ref not in Pkcs11Backend().references()
    far, stays = retired("far", "vault"), create_key("stays", "vault")
    assert far.backend_ref in vault.kv.versions
    assert destroy(far) is None
    assert far.backend_ref not in vault.kv.versions
    assert sign_message(stays.address, b"x", "one")
    assert sign_message(other.address, b"x", "two")


@pytest.mark.parametrize("point", ["keyguard.key_doomed", "keyguard.key_material_gone"])
def test_destruction_that_was_cut_short_is_finished_by_the_next_call(
    fresh_db: str, hsm: SoftToken, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    key = retired("inside", "pkcs11")

    def die(name: str) -> None:
        if name == point:
            raise DiedError

    monkeypatch.setattr(crashpoint, "watcher", die)
    with pytest.raises(DiedError):
        destroy(key)
    monkeypatch.setattr(crashpoint, "watcher", None)
    key.refresh_from_db()
    assert (key.state, key.material_gone_at) == (KeyState.DESTROYED, None)
    with pytest.raises(KeyDestroyedError):
        sign_message(key.address, b"x", "one")
    assert destroying.unfinished() == [key]
    said = StringIO()
    call_command("destroy_key", "inside", reason="again", stdout=said)
    assert "is destroyed" in said.getvalue()
    key.refresh_from_db()
    assert key.material_gone_at is not None
    assert key.backend_ref not in Pkcs11Backend().references()
    assert KeyAct.objects.filter(key=key, verb="DESTROY").count() == 1


def far_is_gone(key: Key, vault: FakeVault) -> bool:
    key.refresh_from_db()
    return key.material_gone_at is not None and key.backend_ref not in vault.kv.versions


def test_backend_that_does_not_answer_is_asked_again(fresh_db: str, vault: FakeVault) -> None:
    key = retired("far", "vault")
    vault.sealed = True
    assert lifecycle.act(key, KeyVerb.DESTROY, "ann", "because") is None
    key.refresh_from_db()
    assert (key.state, key.material_gone_at) == (KeyState.DESTROYED, None)
    with pytest.raises(CommandError, match="KEYGUARD_VAULT_SEALED"):
        call_command("destroy_key", "far", reason="again")
    vault.sealed = False
    call_command("destroy_key", "far", reason="again", stdout=StringIO())
    assert far_is_gone(key, vault)


@pytest.mark.case("K44")
def test_destruction_takes_the_yes_of_another_person_and_is_done_with_it(
    fresh_db: str, settings: Any
) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    key = retired()
    question = destroy(key)
    assert question is not None
    key.refresh_from_db()
    assert key.state == KeyState.RETIRED
    publishing.vote(question, person("bob", "officers"), True, question.content_hash)
    key.refresh_from_db()
    assert (key.state, key.material_gone_at is not None) == (KeyState.DESTROYED, True)
    assert KeyAct.objects.get(key=key, verb="DESTROY").actor == "ann, bob"


def test_destroyed_key_holds_up_no_rotation_of_the_kek(fresh_db: str, settings: Any) -> None:
    set_keks(settings, kek_text("a"))
    key = retired()
    create_key("other")
    destroy(key)
    old = Kek.objects.get()
    set_keks(settings, kek_text("b"), kek_text("a"))
    *_, last = rotate()
    assert (last.moved, last.stuck) == (1, [])
    assert uses(old) == []
