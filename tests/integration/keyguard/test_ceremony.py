"""The key encryption key on paper: what gives it back, what does not, and what is kept of it."""

import base64
import getpass
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from dalp.chain_diagnosis import check_keys
from keyguard import ceremony, ceremony_notes, create_key
from keyguard.check_values import check_value
from keyguard.errors import CeremonyError
from keyguard.kek_rotation import rotate
from keyguard.models import AuditEntry, Kek, KekDrill
from keyguard.states import DrillKind

SECRET = bytes(range(32, 64))
ROOT = Path(__file__).parents[3]


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


# --- Where no database is -------------------------------------------------------------------------------------


def offline(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command as on a machine that reaches nothing and has no secret of ours."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/nowhere",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        **settings,
    }
    command = [sys.executable, "manage.py", "kek_ceremony", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_backup_and_drill_without_a_database_are_recorded_where_there_is_one(
    kek: Kek, tmp_path: Path
) -> None:
    file, place = tmp_path / "kek", tmp_path / "sheets"
    place.mkdir()
    file.write_text(base64.b64encode(SECRET).decode() + "\n")
    notes = [tmp_path / name for name in ("backup.json", "drill.json")]
    made = offline(
        "back-up", "--threshold=2", "--shares=3", "--directory", place, "--kek-file", file, "--note", notes[0]
    )
    assert made.returncode == 0, made.stderr
    sheets = sorted(place.iterdir())
    tried = offline("drill", *sheets[:2], "--kek-file", file, "--note", notes[1])
    assert tried.returncode == 0, tried.stderr
    assert kek.kcv in tried.stdout
    with pytest.raises(CommandError, match="File exists"):
        run("drill", *sheets[:2], "--note", notes[1])
    restored = offline("restore", *sheets[1:], "--out", tmp_path / "restored")
    assert restored.returncode == 0, restored.stderr
    # The same without --note needs the database: what is proved above is no accident.
    assert "Connection refused" in offline("drill", *sheets[:2], DEBUG="true").stderr
    assert not KekDrill.objects.exists()
    words = {word for sheet in sheets for word in sheet.read_text().split("words: ")[1].split()}
    for note in notes:
        # The names of its fields may be among the words of shares; a share has 33.
        assert len(words & set(re.findall(r"[a-z]+", note.read_text()))) < 5
        assert stat.S_IMODE(note.stat().st_mode) == 0o600
        assert kek.kcv in run("record", note)
        with pytest.raises(CommandError, match="recorded already"):
            run("record", note)
    rows = KekDrill.objects.order_by("at", "kind")
    assert [(one.kind, one.threshold, one.shares, one.kek) for one in rows] == [
        ("BACKUP", 2, 3, kek),
        ("DRILL", 2, 0, kek),
    ]
    for row, note in zip(rows, notes, strict=True):
        told = json.loads(note.read_text())
        assert row.at == datetime.fromisoformat(told["at"])
        assert row.actor == f"{told['actor']}, recorded by command:{getpass.getuser()}"
        assert told["check_value"] == kek.kcv
    drills = [one for one in AuditEntry.objects.all() if one.event == "kek_drill"]
    assert len(drills) == 2


def test_note_that_was_altered_or_made_without_the_kek_is_not_recorded(kek: Kek, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"threshold": 2, "shares": 0, "custodians": ["ann"], "actor": "command:ann"}
    now = timezone.now()

    def note(secret: bytes, at: datetime = now, **changes: Any) -> Path:
        made = ceremony_notes.make(DrillKind.DRILL, secret, **facts, at=at)
        path = tmp_path / "note"
        path.write_text(json.dumps(json.loads(replace(made, check_value=kek.kcv).text(secret)) | changes))
        return path

    cases: list[tuple[dict[str, Any], str]] = [
        ({"actor": "command:bob"}, "was altered"),
        ({"at": now + timedelta(days=1)}, "yet to come"),
        ({"threshold": 3}, "was altered"),
        ({"secret": bytes(range(64, 96))}, "not written with this KEK"),
        ({"check_value": "0" * 16}, "does not know"),
        ({"format": "another"}, "no note"),
        ({"more": 1}, "no note"),
    ]
    for changes, why in cases:
        path = note(**{"secret": SECRET, **changes})
        with pytest.raises(CommandError, match=why):
            run("record", path)
    assert not KekDrill.objects.exists()
    assert kek.kcv in run("record", note(SECRET))


def test_half_of_what_offline_takes_is_refused_before_anything_is_made(kek: Kek, tmp_path: Path) -> None:
    back_up = ["back-up", "--threshold=2", "--shares=2", "--directory", tmp_path]
    for half in (["--kek-file", tmp_path / "kek"], ["--note", tmp_path / "note"]):
        with pytest.raises(CommandError, match="wants --"):
            run(*back_up, *half)
    assert not list(tmp_path.iterdir())
