"""Keys that come wrapped for one import: opened once, in time, and stored only as the key that was announced."""

import base64
import io
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.management import CommandError, call_command
from django.utils import timezone

from keyguard import importing, sign_message
from keyguard.errors import (
    AddressMismatchError,
    KeyExistsError,
    KeyguardError,
    PlainImportRefusedError,
    SecretInvalidError,
    WrappedKeyInvalidError,
)
from keyguard.models import Key, KeyAct, WrappingKey
from keyguard.policies import publishing
from keyguard.policies.models import Question
from tests.integration.keyguard.policies import person
from workflows import crashpoint

SECRET = bytes(31) + b"\x07"
ADDRESS = "0xd41c057fd1c78805AAC12B0A94a405c0461A6FBb"
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class DiedError(BaseException):
    """Stands for the death of the process."""


def wrapped_for(pair: WrappingKey, secret: bytes = SECRET) -> bytes:
    """Wrap it as somebody else's tool would, which checks nothing."""
    public = serialization.load_pem_public_key(pair.public_key.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(secret, importing._oaep())


def take(pair: WrappingKey, wrapped: bytes, address: str = ADDRESS, alias: str = "old") -> Key | Question:
    return importing.import_wrapped(pair.pk, wrapped, alias, address, "database", "command:ann")


def is_spent(pair: WrappingKey) -> bool:
    pair.refresh_from_db()
    return (bytes(pair.wrapped_dek), bytes(pair.ciphertext)) == (b"", b"")


@pytest.mark.case("K51")
@pytest.mark.sqlite_too
def test_wrapped_key_is_imported_once_and_its_pair_is_spent(db: None) -> None:
    pair = importing.make_pair("command:ann")
    wrapped = importing.wrap(pair.public_key.encode(), bytearray(SECRET))
    key = take(pair, wrapped)
    assert isinstance(key, Key)
    assert (key.address, key.origin) == (ADDRESS, "IMPORTED")
    assert sign_message(ADDRESS, b"x", "one")
    act = KeyAct.objects.get(key=key)
    assert (act.verb, act.details["wrapped_with"]) == ("IMPORT", str(pair.pk))
    assert is_spent(pair)
    assert pair.used_at is not None
    with pytest.raises(WrappedKeyInvalidError, match="was used"):
        take(pair, wrapped, alias="again")


@pytest.mark.case("K51")
@pytest.mark.parametrize(
    ("secret", "error"),
    [
        (bytes(32), SecretInvalidError),
        (N.to_bytes(32), SecretInvalidError),
        (SECRET[:31], SecretInvalidError),
        (SECRET + b"\x00", SecretInvalidError),
        (bytes(31) + b"\x08", AddressMismatchError),
    ],
)
def test_what_is_no_key_or_another_one_is_refused_and_the_pair_stays(
    db: None, secret: bytes, error: type[KeyguardError]
) -> None:
    pair = importing.make_pair("ann")
    with pytest.raises(error):
        take(pair, wrapped_for(pair, secret))
    assert not Key.objects.exists()
    assert not KeyAct.objects.exists()
    assert not is_spent(pair)
    assert isinstance(take(pair, wrapped_for(pair)), Key)


@pytest.mark.case("K51")
def test_key_that_is_here_already_is_refused_before_anything_is_opened(db: None) -> None:
    first, second = importing.make_pair("ann"), importing.make_pair("ann")
    take(first, wrapped_for(first))
    with pytest.raises(KeyExistsError):
        take(second, wrapped_for(second), alias="twice")
    assert not is_spent(second)


def test_pair_of_an_hour_ago_or_of_nobody_opens_nothing(db: None) -> None:
    pair = importing.make_pair("ann")
    wrapped = wrapped_for(pair)
    WrappingKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(WrappedKeyInvalidError, match="more than an hour old"):
        take(pair, wrapped)
    assert is_spent(pair)
    with pytest.raises(WrappedKeyInvalidError, match="there is no pair"):
        importing.import_wrapped(uuid4(), wrapped, "old", ADDRESS, "database", "ann")


def test_what_was_wrapped_for_another_pair_does_not_open(db: None) -> None:
    pair, other = importing.make_pair("ann"), importing.make_pair("ann")
    with pytest.raises(WrappedKeyInvalidError, match="another public key"):
        take(pair, wrapped_for(other))
    WrappingKey.objects.filter(pk=pair.pk).update(
        ciphertext=bytes(WrappingKey.objects.get(pk=other.pk).ciphertext)
    )
    with pytest.raises(KeyguardError, match="altered"):
        take(pair, wrapped_for(pair))


@pytest.mark.parametrize("point", ["keyguard.import_opened", "keyguard.import_stored"])
def test_import_that_died_left_nothing_and_is_done_again(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    pair = importing.make_pair("ann")

    def die(name: str) -> None:
        if name == point:
            raise DiedError

    monkeypatch.setattr(crashpoint, "watcher", die)
    with pytest.raises(DiedError):
        take(pair, wrapped_for(pair))
    monkeypatch.setattr(crashpoint, "watcher", None)
    assert not Key.objects.exists()
    assert not is_spent(pair)
    assert isinstance(take(pair, wrapped_for(pair)), Key)
    assert (Key.objects.count(), KeyAct.objects.count()) == (1, 1)


@pytest.mark.case("K44")
def test_import_waits_for_the_yes_of_another_person_to_this_address(db: None, settings: Any) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    pair = importing.make_pair("command:ann")
    question = take(pair, wrapped_for(pair))
    assert isinstance(question, Question)
    assert question.shown["address"] == ADDRESS
    with pytest.raises(KeyguardError, match="whoever asks"):
        publishing.vote(question, person("ann", "officers"), True, question.content_hash)
    assert take(pair, wrapped_for(pair)) == question
    publishing.vote(question, person("bob", "officers"), True, question.content_hash)
    question.refresh_from_db()
    assert question.state == "GRANTED"
    # Not for another address, nor under another name.
    assert isinstance(take(pair, wrapped_for(pair), alias="other"), Question)
    assert isinstance(take(pair, wrapped_for(pair)), Key)
    question.refresh_from_db()
    assert question.state == "USED"
    with pytest.raises(AddressMismatchError, match="say which address"):
        importing.import_plain(bytearray(SECRET), "plain", "", "database", "ann")


@pytest.mark.case("K44")
def test_yes_to_a_command_is_for_one_time(db: None, settings: Any) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    question = importing.approval("old", ADDRESS, "database", "command:ann")
    assert question
    publishing.vote(question, person("bob", "officers"), True, question.content_hash)
    assert importing.approval("old", ADDRESS, "database", "command:ann") is None
    again = importing.approval("old", ADDRESS, "database", "command:ann")
    assert again not in (None, question), "whatever became of the import, it is asked about anew"


def test_key_in_the_clear_is_refused_where_the_settings_want_it_wrapped(db: None, settings: Any) -> None:
    settings.KEYGUARD_IMPORT = "wrapped"
    secret = bytearray(SECRET)
    with pytest.raises(PlainImportRefusedError):
        importing.import_plain(secret, "old", "", "database", "ann")
    assert secret == bytearray(32)
    with pytest.raises(CommandError, match="KEYGUARD_PLAIN_IMPORT_REFUSED"):
        call_command("import_key", alias="old")
    settings.KEYGUARD_IMPORT = "plain"
    key = importing.import_plain(bytearray(SECRET), "old", ADDRESS, "database", "ann")
    assert isinstance(key, Key)
    with pytest.raises(AddressMismatchError):
        importing.import_plain(bytearray(bytes(31) + b"\x09"), "new", "0x" + "11" * 20, "database", "ann")


def test_commands_lead_a_key_from_a_file_into_the_database(
    db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.KEYGUARD_IMPORT = "wrapped"
    pem, said = io.StringIO(), io.StringIO()
    call_command("import_key", wrapped=True, stdout=pem, stderr=said)
    (tmp_path / "pair.pem").write_text(pem.getvalue())
    typed = tmp_path / "key"
    typed.write_text(f"0x{SECRET.hex()}\n")
    wrapped = io.StringIO()
    with typed.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        call_command("wrap_key", public_key=tmp_path / "pair.pem", stdout=wrapped)
    assert SECRET.hex() not in wrapped.getvalue()
    assert len(base64.b64decode(wrapped.getvalue())) == importing.BITS // 8
    pair = said.getvalue().split()[1].strip(",")
    monkeypatch.setattr("sys.stdin", io.StringIO(wrapped.getvalue()))
    address = io.StringIO()
    call_command("import_key", alias="old", wrapped_with=pair, address=ADDRESS, stdout=address)
    assert address.getvalue().strip() == ADDRESS
    assert sign_message(ADDRESS, b"x", "one")


@pytest.mark.parametrize("text", ["", "nonsense"])
def test_keys_are_wrapped_for_large_rsa_keys_alone(text: str) -> None:
    with pytest.raises(WrappedKeyInvalidError, match="no PEM"):
        importing.wrap(text.encode(), bytearray(SECRET))
    small = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = small.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(WrappedKeyInvalidError, match="3072 bits"):
        importing.wrap(pem, bytearray(SECRET))
