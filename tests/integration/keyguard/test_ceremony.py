"""The key encryption key on paper: what gives it back, what does not, and what is kept of it."""

import base64
import stat
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from dalp.chain_diagnosis import check_keys
from keyguard import ceremony, create_key
from keyguard.check_values import check_value
from keyguard.errors import CeremonyError
from keyguard.kek_rotation import rotate
from keyguard.models import Kek, KekDrill

SECRET = bytes(range(32, 64))


@pytest.fixture
def kek(db: None, settings: Any) -> Kek:
    settings.KEYGUARD_KEK = base64.b64encode(SECRET).decode()
    create_key("treasury")
    return Kek.objects.get()


@pytest.fixture
def sheets(kek: Kek, tmp_path: Path) -> list[Path]:
    call_command("kek_ceremony", "back-up", "--threshold=3", "--shares=5", f"--directory={tmp_path}")
    return sorted(tmp_path.iterdir())


def run(*arguments: object) -> str:
    said = StringIO()
    call_command("kek_ceremony", *map(str, arguments), stdout=said)
    return said.getvalue()


def test_any_three_of_five_sheets_give_the_key_back_to_a_file_of_ones_own(
    kek: Kek, sheets: list[Path], tmp_path: Path
) -> None:
    assert len(sheets) == 5
    for number, some in enumerate((sheets[:3], sheets[2:], sheets[::2])):
        out = tmp_path / f"kek-{number}"
        said = run("restore", *some, "--out", out)
        assert base64.b64decode(out.read_text()) == SECRET
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert base64.b64encode(SECRET).decode() not in said
    assert stat.S_IMODE(sheets[0].stat().st_mode) == 0o600
    assert kek.kcv in sheets[0].read_text()


@pytest.mark.case("K52")
@pytest.mark.parametrize("verb", ["drill", "restore"])
def test_what_does_not_give_the_key_back_is_refused_and_writes_nothing(
    sheets: list[Path], tmp_path: Path, verb: str, settings: Any
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    call_command("kek_ceremony", "back-up", "--threshold=3", "--shares=5", f"--directory={others}")
    [other, *_] = sorted(others.iterdir())
    text = sheets[0].read_text()
    bad_word, no_share, bad_check = (tmp_path / name for name in ("word", "empty", "check"))
    words = text.split("words: ")[1].split()
    swapped = " ".join([*words[:10], words[11], words[10], *words[12:]])
    bad_word.write_text(text.split("words: ")[0] + f"words: {swapped}\n")
    bad_check.write_text(text.replace("check value: ", "check value: 0"))
    no_share.write_text("a shopping list")
    out = tmp_path / "out"
    before = KekDrill.objects.count()
    for some, why in (
        (sheets[:2], "do not fit together"),
        ([sheets[0], *sheets[:2]], "do not fit together"),
        ([bad_word, *sheets[1:3]], "do not fit together"),
        ([other, *sheets[1:3]], "do not fit together"),
        ([bad_check, *sheets[1:3]], "check values differ"),
        ([no_share, *sheets[1:3]], "no share"),
        ([tmp_path / "nowhere", *sheets[1:3]], "No such file"),
    ):
        with pytest.raises(CommandError, match=why):
            run(verb, *some, *(["--out", out] if verb == "restore" else []))
    assert not out.exists()
    assert KekDrill.objects.count() == before


@pytest.mark.case("K52")
def test_wrong_passphrase_gives_another_secret_and_is_noticed(
    kek: Kek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = ["correct", "wrong", "correct"]
    monkeypatch.setattr("getpass.getpass", lambda _: said.pop(0))
    run("back-up", "--threshold=2", "--shares=2", "--directory", tmp_path, "--passphrase")
    sheets = sorted(tmp_path.iterdir())
    with pytest.raises(CommandError, match="the passphrase is wrong"):
        run("drill", *sheets, "--passphrase")
    assert kek.kcv in run("drill", *sheets, "--passphrase")
    with pytest.raises(CommandError, match="the passphrase is wrong"):
        run("drill", *sheets)


def test_file_that_is_there_is_never_overwritten(sheets: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="File exists"):
        run("back-up", "--threshold=3", "--shares=5", "--directory", tmp_path)
    with pytest.raises(CommandError, match="File exists"):
        run("restore", *sheets[:3], "--out", sheets[4])


@pytest.mark.parametrize(("threshold", "shares"), [(1, 5), (4, 3), (2, 17), (0, 0)])
def test_shares_that_protect_nothing_are_not_made(threshold: int, shares: int) -> None:
    with pytest.raises(CeremonyError, match="threshold of 2 or more"):
        ceremony.split(SECRET, threshold, shares)


def test_drill_of_a_key_that_the_database_does_not_know_is_no_drill(kek: Kek, tmp_path: Path) -> None:
    for number, share in enumerate(ceremony.split(bytes(32), 2, 2)):
        (tmp_path / str(number)).write_text(share.text(number, 2, 2, "today"))
    with pytest.raises(CommandError, match="that this database does not know"):
        run("drill", tmp_path / "0", tmp_path / "1")
    assert check_value(bytes(32)) != kek.kcv


@pytest.mark.sqlite_too
def test_backups_and_drills_are_kept_as_they_were(sheets: list[Path]) -> None:
    run("drill", *sheets[:3])
    assert list(KekDrill.objects.values_list("kind", "threshold", "shares").order_by("at")) == [
        ("BACKUP", 3, 5),
        ("DRILL", 3, 0),
    ]
    changes: tuple[Callable[[], object], ...] = (
        lambda: KekDrill.objects.update(actor="x"),
        lambda: KekDrill.objects.all()._raw_delete("default"),
    )
    for change in changes:
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


def test_doctor_wants_a_backup_that_somebody_tried_lately(
    kek: Kek, sheets: list[Path], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finding() -> Any:
        return next(one for one in check_keys() if one.name == "keys: backup of the KEK")

    settings.DEBUG = False
    assert finding().ok
    later = timezone.now() + timedelta(days=91)
    monkeypatch.setattr("dalp.chain_diagnosis.timezone.now", lambda: later)
    assert not finding().ok
    assert "kek_ceremony" in finding().remedy
    monkeypatch.undo()
    settings.KEYGUARD_KEK_FALLBACKS = [settings.KEYGUARD_KEK]
    settings.KEYGUARD_KEK = base64.b64encode(bytes(32)).decode()
    settings.DEBUG = True
    list(rotate("env"))
    settings.DEBUG = False
    assert not finding().ok, "the new one is on no paper"
