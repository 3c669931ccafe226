"""Keys in the database: made, imported, found; and what happens when somebody alters their rows."""

import base64
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone
from structlog.testing import capture_logs

import keyguard
from keyguard import KekError, KeyguardError, create_key, curve, find_key, import_key, sign_transactions
from keyguard.backends.database import DatabaseBackend
from keyguard.errors import (
    AliasInvalidError,
    AliasTakenError,
    BackendUnknownError,
    Disposition,
    KekMismatchError,
    KeyExistsError,
    KeyguardSealedError,
    KeyNotFoundError,
    MaterialTamperedError,
    SecretInvalidError,
    SignatureInvalidError,
)
from keyguard.models import Kek, Key, KeyMaterial, SigningRecord
from keyguard.sealing import open_sealings, seal, unseal
from tests.integration.keyguard.policies import person, say
from tests.integration.keyguard.requests import bent, current, drop_triggers, insert, parts, request

SECRET = bytes(range(1, 33))
ADDRESS = curve.address_of(curve.public_key(bytearray(SECRET)))

SIGNATURES = 10_000
PACKAGE = Path(keyguard.__file__).parent

pytestmark = pytest.mark.django_db


def test_key_is_found_by_alias_and_by_address_in_any_case() -> None:
    key = create_key("treasury")
    for name in ("treasury", key.address, key.address.lower()):
        assert find_key(name) == key
    for name in ("Treasury", "", "0x" + "00" * 20, key.address[:-1]):
        with pytest.raises(KeyNotFoundError):
            find_key(name)


def test_every_key_is_another_one() -> None:
    assert len({create_key(f"k{n}").address for n in range(20)}) == 20


def test_stored_key_holds_nothing_that_reads_as_the_secret() -> None:
    import_key("imported", SECRET)
    row = KeyMaterial.objects.values().get()
    assert SECRET.hex() not in "".join(
        bytes(v).hex() for v in row.values() if isinstance(v, bytes | memoryview)
    )


@pytest.mark.case("K51")
@pytest.mark.parametrize(
    "secret",
    [bytes(32), curve.ORDER.to_bytes(32), b"\xff" * 32, b"", b"\1" * 31, b"\1" * 33],
    ids=["0", "n", "above n", "empty", "31", "33"],
)
def test_import_of_what_is_no_private_key_is_refused(secret: bytes) -> None:
    with pytest.raises(SecretInvalidError):
        import_key("bad", secret)
    assert not Key.objects.exists()


@pytest.mark.case("K51")
def test_import_of_a_key_that_is_here_is_refused() -> None:
    import_key("one", SECRET)
    with pytest.raises(KeyExistsError, match=ADDRESS):
        import_key("two", SECRET)
    with pytest.raises(AliasTakenError):
        import_key("one", b"\5" * 32)
    with pytest.raises(AliasTakenError):
        create_key("one")
    assert Key.objects.count() == KeyMaterial.objects.count() == 1


def test_imported_buffer_is_wiped_even_when_refused() -> None:
    for alias in ("one", "two"):
        buffer = bytearray(SECRET)
        try:
            import_key(alias, buffer)
        except KeyExistsError:
            assert alias == "two"
        assert buffer == bytearray(32)


@pytest.mark.parametrize("alias", ["", " ", "a b", "x" * 65, "é", "0x12", ADDRESS, "-a", "a\n"])
def test_alias_that_is_no_name_is_refused(alias: str) -> None:
    with pytest.raises(AliasInvalidError):
        create_key(alias)


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(BackendUnknownError, match="database"):
        create_key("a", "hsm")


@pytest.mark.case("K10")
@pytest.mark.parametrize(
    ("kek", "code"),
    [
        (base64.b64encode(b"z" * 32).decode(), "KEYGUARD_KEK_MISMATCH"),
        ("", "KEYGUARD_KEK_MISSING"),
        ("short", "KEYGUARD_KEK_MALFORMED"),
        (base64.b64encode(b"z" * 16).decode(), "KEYGUARD_KEK_MALFORMED"),
    ],
)
def test_wrong_kek_signs_nothing_adds_nothing_and_harms_no_key(settings: Any, kek: str, code: str) -> None:
    key = create_key("treasury")
    right, settings.KEYGUARD_KEK = settings.KEYGUARD_KEK, kek
    for call in (lambda: sign_transactions([request(key.address)]), lambda: create_key("other")):
        with pytest.raises(KekError) as caught:
            call()
        assert (caught.value.code, caught.value.disposition) == (code, Disposition.PARK)
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert Key.objects.count() == 1
    assert not SigningRecord.objects.exists()
    settings.KEYGUARD_KEK = right
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K10")
@pytest.mark.parametrize("way", ["command", "approved"])
@pytest.mark.parametrize(("backend", "stays"), [("", True), ("database", True), ("pkcs11", False)])
def test_no_seal_is_lifted_while_the_kek_is_another_one(
    settings: Any, way: str, backend: str, stays: bool
) -> None:
    key, right = create_key("treasury"), settings.KEYGUARD_KEK
    seal("moving house", backend=backend, actor="ann")
    row, wrong = open_sealings().get(), base64.b64encode(b"z" * 32).decode()

    def lift() -> None:
        if way == "command":
            call_command("unseal", "--reason=moved", f"--backend={backend}", stdout=StringIO())
            return
        settings.KEYGUARD_KEK = right
        settings.KEYGUARD_OPERATIONS_GROUP, settings.KEYGUARD_OPERATIONS_APPROVALS = "ops", 1
        bob = person("bob", "ops")
        question = unseal(row, "ann", "moved")
        assert question is not None
        settings.KEYGUARD_KEK = wrong
        say(question, bob)

    settings.KEYGUARD_KEK = wrong
    if not stays:
        lift()
        assert not open_sealings().exists()
        return
    with pytest.raises((CommandError, KekMismatchError)) as caught:
        lift()
    assert isinstance(caught.value, KekMismatchError) or "KEYGUARD_KEK_MISMATCH" in str(caught.value)
    assert open_sealings().get() == row
    settings.KEYGUARD_KEK = right
    with pytest.raises(KeyguardSealedError):
        sign_transactions([request(key.address)])
    settings.KEYGUARD_OPERATIONS_GROUP = ""
    call_command("unseal", "--reason=moved", f"--backend={backend}", stdout=StringIO())
    assert sign_transactions([request(key.address)])


# An attacker who can write to the tables


ATTACKS: dict[str, Callable[[Key, Key], object]] = {
    "ciphertext of another key": lambda a, b: insert(
        b, current(b), **parts(current(a), "ciphertext", "nonce")
    ),
    "wrapped dek of another key": lambda a, b: insert(
        b, current(b), **parts(current(a), "wrapped_dek", "dek_nonce")
    ),
    "whole row of another key": lambda a, b: insert(b, current(a)),
    "row of another number": lambda a, b: insert(b, current(b)),
    "one bit of the ciphertext": lambda a, b: KeyMaterial.objects.filter(key=b).update(
        ciphertext=bent(current(b).ciphertext)
    ),
    "one bit of the wrapped dek": lambda a, b: KeyMaterial.objects.filter(key=b).update(
        wrapped_dek=bent(current(b).wrapped_dek)
    ),
    "ciphertext copied over": lambda a, b: KeyMaterial.objects.filter(key=b).update(
        **parts(current(a), "wrapped_dek", "dek_nonce", "nonce", "ciphertext")
    ),
    "material deleted": lambda a, b: KeyMaterial.objects.filter(key=b).delete(),
}


@pytest.mark.sqlite_too
@pytest.mark.case("K1", "K2", "K3", "K5")
@pytest.mark.parametrize("attack", ATTACKS)
def test_tampered_material_signs_nothing_and_suspends_its_key_only(attack: str) -> None:
    one, two = create_key("one"), create_key("two")
    drop_triggers()
    ATTACKS[attack](one, two)
    with capture_logs() as logs, pytest.raises(MaterialTamperedError) as caught:
        sign_transactions([request(one.address, "a"), request(two.address, "b")])
    assert caught.value.disposition is Disposition.PARK
    two.refresh_from_db()
    assert (two.state, two.state_reason) == ("SUSPENDED", "KEYGUARD_MATERIAL_TAMPERED")
    assert {"key_suspended", "signing_refused"} <= {line["event"] for line in logs}
    for record in SigningRecord.objects.all():  # neither of the batch was signed
        assert (record.state, record.error) == ("REFUSED", "KEYGUARD_MATERIAL_TAMPERED")
    # Not again: the key is suspended before its material is touched. The other key works on.
    with pytest.raises(KeyguardError, match="suspended"):
        sign_transactions([request(two.address, "b")])
    assert sign_transactions([request(one.address, "a")])


@pytest.mark.case("K4")
def test_edited_address_or_public_key_signs_nothing() -> None:
    one, two = create_key("one"), create_key("two")
    Key.objects.filter(pk=two.pk).update(public_key=one.public_key)
    with pytest.raises(SignatureInvalidError):
        sign_transactions([request(two.address)])
    assert open_sealings().update(lifted_at=timezone.now()) == 1
    elsewhere = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    Key.objects.filter(pk=one.pk).update(address=elsewhere)
    with pytest.raises(MaterialTamperedError):
        sign_transactions([request(elsewhere, "other")])
    assert set(Key.objects.values_list("state", flat=True)) == {"SUSPENDED"}
    assert not SigningRecord.objects.filter(state="SIGNED").exists()


@pytest.mark.sqlite_too
def test_material_cannot_be_changed_or_deleted() -> None:
    create_key("treasury")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        KeyMaterial.objects.update(seq=F("seq") + 1)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        KeyMaterial.objects.all().delete()


def test_database_has_one_active_kek() -> None:
    create_key("one")
    create_key("two")
    assert Kek.objects.count() == 1


# The commands


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Put text on standard input."""
    with ExitStack() as files:

        def put(text: str) -> None:
            path = tmp_path / "stdin"
            path.write_text(text)
            monkeypatch.setattr(sys, "stdin", files.enter_context(path.open()))

        yield put


def test_create_key_prints_the_address_only() -> None:
    output = StringIO()
    call_command("create_key", "--alias", "treasury", stdout=output)
    assert output.getvalue() == f"{find_key('treasury').address}\n"


@pytest.mark.parametrize("text", [SECRET.hex(), f"0x{SECRET.hex()}\n"])
def test_import_key_reads_standard_input_and_prints_the_address_only(
    typed: Callable[[str], None], text: str
) -> None:
    typed(text)
    output = StringIO()
    call_command("import_key", "--alias", "imported", stdout=output)
    assert output.getvalue() == f"{ADDRESS}\n"
    assert find_key("imported").origin == "IMPORTED"


@pytest.mark.parametrize("text", ["", "hello", SECRET.hex()[:-1], "0" * 64])
def test_import_key_refuses_without_showing_what_it_read(typed: Callable[[str], None], text: str) -> None:
    typed(text)
    with pytest.raises(CommandError, match="KEYGUARD_SECRET_INVALID") as caught:
        call_command("import_key", "--alias", "imported")
    assert not text or text not in str(caught.value)


def test_import_key_takes_no_key_as_an_argument() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "django", "import_key", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    assert "--alias" in process.stdout
    assert "standard input" in process.stdout
    assert "--secret" not in process.stdout


def shown(error: KeyguardError) -> str:
    """What an error report that shows variables would say of keyguard's frames."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in report.stack if Path(frame.filename).is_relative_to(PACKAGE)]
    assert frames
    return "".join(traceback.StackSummary.from_list(frames).format()) + str(error)


@pytest.mark.case("K55", "K5")
def test_no_secret_reaches_the_logs_the_output_or_an_error(
    typed: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    settings: Any,
) -> None:
    caplog.set_level(logging.DEBUG)  # the SQL, too
    settings.DEBUG = True
    secret = curve.new_secret()
    forms = {
        bytes(secret).hex(),
        base64.b64encode(secret).decode(),
        repr(bytes(secret))[2:-1],
        str(int.from_bytes(secret)),
    }
    errors = []
    with capture_logs() as logs:
        typed(bytes(secret).hex())
        call_command("import_key", "--alias", "imported")
        for call in (
            lambda: import_key("again", bytearray(secret)),
            lambda: import_key("imported", bytearray(b"\3" * 32)),
            lambda: sign_transactions([request(find_key("imported").address)]),
            lambda: insert(find_key("imported"), current(find_key("imported")), ciphertext=b"\0" * 48),
            lambda: sign_transactions([request(find_key("imported").address, "tampered")]),
        ):
            try:
                call()
            except KeyguardError as error:
                errors.append(shown(error))
    assert len(errors) == 3
    assert len(logs) >= 4
    output = capfd.readouterr()
    told = "\n".join([output.out, output.err, caplog.text, repr(logs), *errors])
    for form in {*forms, settings.KEYGUARD_KEK}:
        assert form not in told
        assert form.upper() not in told


@pytest.mark.case("K20")
def test_ten_thousand_signatures_of_the_database_are_low_s_and_recover() -> None:
    key = create_key("many")
    digests = [curve.random_bytes(32) for _ in range(SIGNATURES)]
    odd = 0
    for start in range(0, SIGNATURES, 1000):  # decrypted anew for each
        batch = [bytes(digest) for digest in digests[start : start + 1000]]
        for digest, signature in zip(batch, DatabaseBackend().prepare(key)(batch), strict=True):
            assert int.from_bytes(signature[32:64]) <= curve.HALF_ORDER
            assert curve.recover(signature, digest) == bytes(key.public_key)
            odd += signature[64]
    # Both recovery ids occur, so the trial is one.
    assert 0.4 < odd / SIGNATURES < 0.6
