"""All keys move to a new KEK while they sign; an old one is destroyed when nobody needs it, and not before."""

import threading
from collections.abc import Callable
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from keyguard import create_key, sign_message, sign_transactions
from keyguard import kek as keks
from keyguard.backend_errors import KekDestroyedError, KekInUseError, KekNotNewError, KekRotationError
from keyguard.errors import KekMismatchError, KekMissingError
from keyguard.kek_rotation import create_kek, destroy_kek, rotate, uses
from keyguard.models import Kek, Key, KeyMaterial, SigningRecord
from keyguard.states import KekState
from tests.fakes.vault import FakeVault
from tests.integration.keyguard.keks import all_open, current_keks, kek_text, make_keys, set_keks
from tests.integration.keyguard.requests import bent, request
from tests.services import Services, switched_to
from tests.softhsm import SoftToken
from tests.threads import at_once

A, B, C = kek_text("a"), kek_text("b"), kek_text("c")


@pytest.fixture(autouse=True)
def under_a(settings: Any) -> None:
    set_keks(settings, A)


def states() -> dict[str, str]:
    return {kek.kcv: str(kek.state) for kek in Kek.objects.order_by("created_at")}


def drained(provider: str | None = None) -> Any:
    *_, last = rotate(provider)
    return last


@pytest.mark.case("K6")
@pytest.mark.sqlite_too
def test_every_key_moves_once_and_signs_before_and_after(fresh_db: str, settings: Any) -> None:
    keys = make_keys(30)
    set_keks(settings, B, A)
    progress = drained()
    assert (progress.total, progress.moved, progress.stuck) == (30, 30, [])
    assert current_keks(keys) == {progress.kek.pk}
    assert KeyMaterial.objects.count() == 60
    assert list(states().values()) == [KekState.RETIRED, KekState.ACTIVE]
    # The old one is not needed any more, not even to sign.
    set_keks(settings, B)
    assert all_open(keys)
    assert sign_transactions([request(keys[0].address)])
    assert create_key("new").material.get().kek == progress.kek


@pytest.mark.case("K6")
@pytest.mark.parametrize("route", [["vault"], ["pkcs11"], ["vault", "pkcs11", "env"], ["pkcs11", "vault"]])
def test_keys_move_between_all_providers(
    fresh_db: str, settings: Any, vault: FakeVault, hsm: SoftToken, route: list[str]
) -> None:
    keys = make_keys(5)
    set_keks(settings, B, A)
    for provider in route:
        progress = drained(provider)
        assert (progress.kek.provider, progress.moved) == (provider, 5)
        assert all_open(keys)
        assert current_keks(keys) == {progress.kek.pk}
    assert Kek.objects.filter(state=KekState.ACTIVE).count() == 1
    assert Kek.objects.filter(state=KekState.RETIRED).count() == len(route)


@pytest.mark.case("K7")
@pytest.mark.postgresql("one writer at a time on SQLite")
def test_four_workers_sign_while_the_kek_is_rotated_three_times(fresh_db: str, settings: Any) -> None:
    keys = make_keys(40)
    set_keks(settings, A, B, C)
    over, lasts = threading.Event(), []

    def work(number: int) -> int:
        if number == 4:
            try:
                for current in (B, C, kek_text("d")):
                    set_keks(settings, current, A, B, C, kek_text("d"))
                    lasts.append(drained())
            finally:
                over.set()
            return 0
        signed = 0
        while not over.is_set() or signed < 20:
            key = keys[(signed * 4 + number) % len(keys)]
            assert sign_message(key.address, b"while it rotates", f"w{number}-{signed}")
            signed += 1
        return signed

    signed = at_once(5, work)
    assert sum(signed) >= 80
    assert SigningRecord.objects.filter(state="SIGNED").count() == sum(signed)
    assert not SigningRecord.objects.exclude(state="SIGNED").exists()
    assert [last.moved for last in lasts] == [40, 40, 40]
    # One current row each, and that under the last KEK.
    assert current_keks(keys) == {lasts[-1].kek.pk}
    assert KeyMaterial.objects.count() == 160
    assert not Key.objects.exclude(state="ACTIVE").exists()


@pytest.mark.case("K7")
@pytest.mark.postgresql("one writer at a time on SQLite")
def test_two_rotations_beside_one_another_move_each_key_once(fresh_db: str, settings: Any) -> None:
    keys = make_keys(60)
    set_keks(settings, B, A)
    # Both begin before either ends: whoever came later would make a third KEK.
    rotations = [rotate(), rotate()]
    for rotation in rotations:
        next(rotation)
    lasts = at_once(2, lambda number: list(rotations[number])[-1])
    assert sum(last.moved for last in lasts) >= 60
    assert KeyMaterial.objects.count() == 120
    assert len(current_keks(keys)) == 1
    assert Kek.objects.count() == 2


@pytest.mark.case("K7")
@pytest.mark.postgresql("one writer at a time on SQLite")
def test_key_that_is_being_made_when_a_rotation_begins_is_moved_too(fresh_db: str, settings: Any) -> None:
    """The rotation waits for it: a row under the old KEK that came later would be left behind."""
    make_keys(3)
    set_keks(settings, B, A)
    held, go_on = threading.Event(), threading.Event()
    real = keks.active_kek

    def slow() -> Kek:
        kek = real()
        held.set()
        assert go_on.wait(10)
        return kek

    def work(number: int) -> Any:
        if number == 0:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("keyguard.material.active_kek", slow)
                return create_key("late")
        assert held.wait(10)
        threading.Timer(0.3, go_on.set).start()
        return drained()

    late, progress = at_once(2, work)
    assert progress.moved == 4
    assert current_keks([late]) == {progress.kek.pk}


@pytest.mark.case("K8")
@pytest.mark.sqlite_too
def test_kek_that_one_key_needs_is_not_destroyed(fresh_db: str, settings: Any) -> None:
    keys = make_keys(3)
    (old,) = Kek.objects.all()
    with pytest.raises(KekInUseError, match="3 keys: k-0, k-1, k-2"):
        destroy_kek(old.pk)
    set_keks(settings, B, A)
    drained()
    # Restored from somewhere: one row under the old KEK is the newest again.
    row = KeyMaterial.objects.filter(key=keys[1], kek=old).get()
    restore(keys[1], row)
    assert uses(old) == ["k-1"]
    with pytest.raises(KekInUseError, match="1 keys: k-1"):
        destroy_kek(old.pk)
    assert Kek.objects.get(pk=old.pk).state == KekState.RETIRED


def restore(key: Key, row: KeyMaterial) -> None:
    """Have an old row count again, as if the later ones had never been."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ALTER TABLE keyguard_keymaterial DISABLE TRIGGER USER")
        else:
            cursor.execute("DROP TRIGGER keyguard_keymaterial_no_delete")
    KeyMaterial.objects.filter(key=key, seq__gt=row.seq).delete()


@pytest.mark.case("K8")
def test_only_a_retired_kek_is_destroyed_and_that_again_after_a_crash(fresh_db: str, settings: Any) -> None:
    key = create_key("treasury")
    (old,) = Kek.objects.all()
    with pytest.raises(KekRotationError, match="no KEK"):
        destroy_kek(uuid4())
    set_keks(settings, B, A)
    new = drained().kek
    with pytest.raises(KekInUseError):
        destroy_kek(new.pk)
    for _ in range(2):
        told = StringIO()
        call_command("destroy_kek", str(old.pk), "--backups-before-it-are-gone", stdout=told)
        assert "KEYGUARD_KEK_FALLBACKS" in told.getvalue()
    assert Kek.objects.get(pk=old.pk).state == KekState.DESTROYED
    assert sign_transactions([request(key.address)])
    with pytest.raises(CommandError, match="KEYGUARD_KEK_IN_USE"):
        call_command("destroy_kek", str(new.pk), "--backups-before-it-are-gone")


@pytest.mark.case("K9")
def test_row_from_before_the_rotation_opens_while_its_kek_is_retired_and_is_clear_afterwards(
    fresh_db: str, settings: Any
) -> None:
    key = create_key("treasury")
    (old,) = Kek.objects.all()
    set_keks(settings, B, A)
    drained()
    row = KeyMaterial.objects.get(key=key, kek=old)
    restore(key, row)
    assert sign_message(key.address, b"a", "retired")
    Kek.objects.filter(pk=old.pk).update(state=KekState.DESTROYED)
    with pytest.raises(KekDestroyedError, match=str(old.pk)):
        sign_message(key.address, b"a", "destroyed")
    key.refresh_from_db()
    assert key.state == "ACTIVE"


@pytest.mark.case("K9")
@pytest.mark.sqlite_too
def test_backup_from_before_the_rotation_works_while_the_old_kek_is_kept(
    fresh_db: str, services: Services, settings: Any
) -> None:
    key = create_key("treasury")
    connection.close()
    services.copy_database(fresh_db, "backup_of_keys")
    set_keks(settings, B, A)
    drained()
    try:
        with switched_to(services.database_name("backup_of_keys")):
            assert sign_message(key.address, b"a", "from the backup".replace(" ", "-"))
            set_keks(settings, B)  # A was destroyed
            with pytest.raises(KekMismatchError) as caught:
                sign_message(key.address, b"a", "too-late")
            assert "Restore the KEK" in caught.value.remedy
            key.refresh_from_db()
            assert key.state == "ACTIVE"
            set_keks(settings, B, A)
            assert drained().moved == 1
            assert sign_message(key.address, b"a", "moved")
    finally:
        services.drop_database("backup_of_keys")


@pytest.mark.case("K5", "K6")
def test_key_that_does_not_open_is_suspended_and_the_others_move(fresh_db: str, settings: Any) -> None:
    keys = make_keys(5)
    row = KeyMaterial.objects.get(key=keys[2])
    spoil(row)
    set_keks(settings, B, A)
    with pytest.raises(CommandError, match=r"1 keys could not be moved.*k-2"):
        call_command("rotate_kek", stdout=StringIO())
    assert set(Key.objects.filter(state="SUSPENDED").values_list("alias", flat=True)) == {"k-2"}
    assert current_keks([*keys[:2], *keys[3:]]) == {Kek.objects.get(state=KekState.ACTIVE).pk}
    # The old KEK is needed as long as somebody may want to examine that key; and the next rotation is not held up.
    assert sorted(states().values()) == [KekState.ACTIVE, KekState.DECRYPT_ONLY]
    with pytest.raises(KekInUseError):
        destroy_kek(row.kek_id)
    set_keks(settings, C, A, B)
    assert drained().moved == 4


def spoil(row: KeyMaterial) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE keyguard_keymaterial DISABLE TRIGGER USER")
    KeyMaterial.objects.filter(pk=row.pk).update(wrapped_dek=bent(row.wrapped_dek))


@pytest.mark.case("K6")
def test_kek_that_does_not_give_back_what_it_took_is_noticed_before_anything_is_written(
    fresh_db: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard.envelope import LocalCipher

    keys = make_keys(2)
    set_keks(settings, B, A)
    calls = []
    real: Callable[..., Any] = LocalCipher.unwrap

    def forget_the_first(self: LocalCipher, wrapped: Any) -> Any:
        calls.append(wrapped)
        deks = real(self, wrapped)
        if len(calls) % 2 == 0:
            deks[0][0] ^= 1
        return deks

    with monkeypatch.context() as patched:
        patched.setattr(LocalCipher, "unwrap", forget_the_first)
        with pytest.raises(KekRotationError, match="does not unwrap what it has wrapped"):
            drained()
    assert KeyMaterial.objects.count() == 2
    assert all_open(keys)
    assert drained().moved == 2


# Beginning and going on


def test_rotation_to_a_kek_that_was_one_before_is_refused(fresh_db: str, settings: Any) -> None:
    create_key("treasury")
    with pytest.raises(CommandError, match="KEYGUARD_KEK_NOT_NEW"):
        call_command("rotate_kek", stdout=StringIO())
    set_keks(settings, B, A)
    drained()
    set_keks(settings, A, B)
    with pytest.raises(KekNotNewError):
        drained()
    assert list(states().values()).count(KekState.ACTIVE) == 1


def test_unfinished_rotation_goes_on_and_takes_no_other_provider(
    fresh_db: str, settings: Any, vault: FakeVault
) -> None:
    make_keys(3)
    set_keks(settings, B, A)
    begun = next(rotate())
    with pytest.raises(KekRotationError, match="not finished"):
        drained("vault")
    settings.KEYGUARD_KEK_PROVIDER = "vault"  # nor does the setting begin another one
    progress = drained()
    assert (progress.kek, progress.moved) == (begun.kek, 3)
    assert drained().kek.provider == "vault"


def test_first_kek_of_a_database(fresh_db: str, settings: Any, vault: FakeVault) -> None:
    with pytest.raises(KekMissingError):
        drained()
    settings.KEYGUARD_KEK_PROVIDER = "vault"
    with pytest.raises(KekMissingError, match="create_kek"):
        create_key("too-early")
    told = StringIO()
    call_command("create_kek", stdout=told)
    (kek,) = Kek.objects.all()
    assert told.getvalue().startswith(f"{kek.pk} vault dalp-kek-{kek.pk}, check value ")
    assert sign_transactions([request(create_key("treasury").address)])
    with pytest.raises(KekRotationError, match="rotate_kek"):
        create_kek()


def test_command_says_how_many_and_how_fast(fresh_db: str, settings: Any) -> None:
    make_keys(7)
    set_keks(settings, B, A)
    told = StringIO()
    call_command("rotate_kek", stdout=told)
    text = told.getvalue()
    assert "7 keys are under env" in text
    assert "keys/s" in text
    assert "is retired" in text
    assert B not in text
    assert A not in text


@pytest.mark.case("K8")
def test_destroyed_kek_is_gone_from_the_token(fresh_db: str, settings: Any, hsm: SoftToken) -> None:
    from pkcs11 import Attribute

    from keyguard import hsm as token_module

    settings.KEYGUARD_KEK_PROVIDER = "pkcs11"
    old = create_kek()
    key = create_key("treasury")
    set_keks(settings, B)
    drained("env")

    def there(session: token_module.Session) -> int:
        return len(list(session.handle.get_objects({Attribute.ID: old.id.bytes})))

    assert token_module.token().run(there, "look") == 1
    assert "backups" in destroy_kek(old.pk)
    assert token_module.token().run(there, "look") == 0
    assert sign_transactions([request(key.address)])
