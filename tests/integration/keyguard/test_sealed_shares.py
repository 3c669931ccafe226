"""Shares of a KEK's backup that are sealed to their custodians: who opens one, and what was altered opens for nobody."""

import base64
import re
import stat
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.core.management import CommandError, call_command

from dalp.console.keys import asked_of
from keyguard import ceremony, create_key, sealed_shares
from keyguard.errors import CeremonyError
from keyguard.models import Kek, KekDrill
from keyguard.policies import publishing
from keyguard.policies.models import Question
from tests.integration.keyguard.policies import person

SECRET = bytes(range(32, 64))
NAMES = ["ann", "bob", "cat"]


def pem(key: Any, password: bytes = b"") -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))


def public_pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A directory with a key pair of each custodian."""
    place = tmp_path / "people"
    place.mkdir()
    for name in NAMES:
        key = X25519PrivateKey.generate()
        (place / f"{name}.pem").write_bytes(pem(key))
        (place / f"{name}.pub").write_bytes(public_pem(key))
    return place


@pytest.fixture
def sheets(people: Path, tmp_path: Path) -> dict[str, Path]:
    """Two of three, made without a database."""
    place = tmp_path / "sheets"
    place.mkdir()
    found = {}
    custodians = sealed_shares.custodians_of([f"{name}={people / name}.pub" for name in NAMES], 3)
    for number, (share, to) in enumerate(zip(ceremony.split(SECRET, 2, 3), custodians, strict=True), start=1):
        found[to.name] = place / f"{to.name}.txt"
        found[to.name].write_text(sealed_shares.seal(share, to, number, 3, 2, "2026-11-23"))
    return found


def run(*arguments: object) -> str:
    said = StringIO()
    call_command("kek_ceremony", *map(str, arguments), stdout=said)
    return said.getvalue()


def opened(sheet: Path, key: Path, out: Path) -> str:
    return run("open-share", sheet, "--key", key, "--out", out)


@pytest.mark.case("K52")
def test_backup_is_sealed_opened_by_each_custodian_and_put_together(
    db: None, settings: Any, people: Path, tmp_path: Path
) -> None:
    settings.KEYGUARD_KEK = base64.b64encode(SECRET).decode()
    create_key("treasury")
    kek, place = Kek.objects.get(), tmp_path / "usb"
    place.mkdir()
    named = [f"--custodian={name}={people / name}.pub" for name in NAMES]
    said = run("back-up", "--threshold=2", "--shares=3", "--directory", place, *named)
    sheets = sorted(place.iterdir())
    for number, (name, sheet) in enumerate(zip(NAMES, sheets, strict=True), start=1):
        text = sheet.read_text()
        assert f"share: {number} of 3, any 2 give the key back" in text
        assert f"custodian: {name}\n" in text
        assert f"check value: {kek.kcv}\n" in text
        assert "words" not in text
        assert re.search(r"their key: ([0-9a-f]{32})\n", text)[1] in said  # type: ignore[index]
        assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    with pytest.raises(CommandError, match="is sealed: its custodian opens it first"):
        run("drill", *sheets[:2])
    clear = [tmp_path / name for name in NAMES]
    for name, sheet, out in zip(NAMES, sheets, clear, strict=True):
        assert f"has {name}'s share of the KEK {kek.kcv}" in opened(sheet, people / f"{name}.pem", out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
    run("drill", clear[0], clear[2])
    run("restore", *clear[1:], "--out", tmp_path / "kek")
    assert base64.b64decode((tmp_path / "kek").read_text()) == SECRET
    assert list(KekDrill.objects.order_by("at").values_list("kind", "custodians")) == [
        ("BACKUP", NAMES),
        ("DRILL", ["ann", "cat"]),
    ]


@pytest.mark.case("K52")
@pytest.mark.case("K44")
def test_backup_takes_others_approval_for_these_very_custodians(
    db: None, settings: Any, people: Path, tmp_path: Path
) -> None:
    settings.KEYGUARD_KEK = base64.b64encode(SECRET).decode()
    create_key("treasury")
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    place = tmp_path / "sheets"
    place.mkdir()
    back_up = ["back-up", "--threshold=2", "--shares=3", "--directory", place]
    with pytest.raises(CommandError, match="sealed to a person"):
        run(*back_up)
    named = [f"--custodian={name}={people / name}.pub" for name in NAMES]
    assert "officers must approve it" in run(*back_up, *named)
    assert not list(place.iterdir())
    question = Question.objects.get()
    assert all(name in question.shown["custodians"] for name in NAMES)
    assert "given back by any 2" in asked_of(question)
    publishing.vote(question, person("bob", "officers"), True, question.content_hash)
    assert "must approve" in run(*back_up[:1], "--threshold=3", *back_up[2:], *named), "another threshold"
    assert "any 2 of which" in run(*back_up, *named)
    assert len(list(place.iterdir())) == 3
    again = tmp_path / "again"
    again.mkdir()
    assert "must approve it" in run(*back_up[:3], "--directory", again, *named)
    assert not list(again.iterdir())


def test_a_share_opens_without_a_database_and_for_its_custodian_alone(
    sheets: dict[str, Path], people: Path, tmp_path: Path
) -> None:
    opened(sheets["ann"], people / "ann.pem", tmp_path / "ann")
    with pytest.raises(CommandError, match=r"is sealed to ann's key [0-9a-f]{32}, and this one is"):
        opened(sheets["ann"], people / "bob.pem", tmp_path / "bob")
    assert not (tmp_path / "bob").exists()
    with pytest.raises(CommandError, match="File exists"):
        opened(sheets["ann"], people / "ann.pem", tmp_path / "ann")


@pytest.mark.case("K52")
@pytest.mark.parametrize("line", ["check value", "share", "custodian", "made", "sealed", "their key"])
def test_what_was_altered_on_a_sheet_opens_for_nobody(
    sheets: dict[str, Path], people: Path, tmp_path: Path, line: str
) -> None:
    text = sheets["ann"].read_text()
    old = re.search(rf"^{line}: (.+)$", text, re.MULTILINE)
    assert old is not None
    value = old[1]
    changed = (
        value[:10] + ("A" if value[10] != "A" else "B") + value[11:] if line == "sealed" else f"0{value}"
    )
    sheets["ann"].write_text(text.replace(old[0], f"{line}: {changed}"))
    with pytest.raises(CommandError, match=r"does not open|is sealed to"):
        opened(sheets["ann"], people / "ann.pem", tmp_path / "out")
    sheets["ann"].write_text(text.replace(old[0], ""))
    with pytest.raises(CommandError, match="no sealed share"):
        opened(sheets["ann"], people / "ann.pem", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_words_of_one_sheet_do_not_open_as_anothers(
    sheets: dict[str, Path], people: Path, tmp_path: Path
) -> None:
    """Even sealed to the same key, a share stays the one that it was made as."""
    ann = sealed_shares.ShareCustodian.of(f"ann={people / 'ann.pub'}")
    first, second = ceremony.split(SECRET, 2, 2)
    one = sealed_shares.seal(first, ann, 1, 2, 2, "2026-11-23")
    two = sealed_shares.seal(second, ann, 2, 2, 2, "2026-11-23")
    mixed = one.split("sealed: ")[0] + "sealed: " + two.split("sealed: ")[1]
    key = sealed_shares.private_key(people / "ann.pem", "")
    with pytest.raises(CeremonyError, match="does not open"):
        sealed_shares.unseal(mixed, "mixed", key)


def test_private_key_may_have_a_password(
    sheets: dict[str, Path], people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sealed_shares.private_key(people / "ann.pem", "")
    (people / "locked.pem").write_bytes(pem(plain, b"correct"))
    said = ["wrong", "correct"]
    monkeypatch.setattr("getpass.getpass", lambda _: said.pop(0))
    with pytest.raises(CommandError, match="or its password is wrong"):
        opened(sheets["ann"], people / "locked.pem", tmp_path / "out")
    assert "ann's share" in opened(sheets["ann"], people / "locked.pem", tmp_path / "out")


WRONG: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "too few": (lambda p: [f"ann={p / 'ann.pub'}"], "1 custodians for 3 shares"),
    "one name twice": (lambda p: [f"ann={p / name}.pub" for name in NAMES], "same name or the same key"),
    "one key twice": (lambda p: [f"{name}={p / 'ann.pub'}" for name in NAMES], "same name or the same key"),
    "no path": (lambda p: ["ann", "bob", "cat"], "is no custodian"),
    "no name": (lambda p: [f"a b={p / 'ann.pub'}"] * 3, "is no custodian"),
    "another kind of key": (lambda p: [f"ann={p / 'ed.pub'}"] * 3, "no public key of X25519"),
    "a private key": (lambda p: [f"ann={p / 'ann.pem'}"] * 3, "no public key of X25519"),
}


@pytest.mark.parametrize("how", WRONG)
def test_custodians_who_are_not_one_for_each_share_are_refused(people: Path, how: str) -> None:
    (people / "ed.pub").write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    given, words = WRONG[how]
    with pytest.raises(CeremonyError, match=words):
        sealed_shares.custodians_of(given(people), 3)


def test_key_of_another_kind_opens_nothing(people: Path) -> None:
    (people / "ed.pem").write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(CeremonyError, match="is no key of X25519"):
        sealed_shares.private_key(people / "ed.pem", "")
