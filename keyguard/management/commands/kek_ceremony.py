"""The key encryption key on paper: taking it apart, trying the sheets, putting it together again."""

import base64
import getpass
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from keyguard import ceremony, ceremony_notes, sealed_shares
from keyguard.audit.rows import note_row
from keyguard.check_values import check_value, same
from keyguard.curve import wipe
from keyguard.errors import KeyguardError
from keyguard.kek_providers.env import decoded, secret_of
from keyguard.kek_rotation import ask_to_back_up
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand
from keyguard.models import Kek, KekDrill
from keyguard.sealed_shares import ShareCustodian
from keyguard.states import DrillKind, KekState


@dataclass(frozen=True)
class Backup:
    """What a backup is to be: so many sheets, any `threshold` of which give the KEK back."""

    threshold: int
    shares: int
    directory: Path
    custodians: list[ShareCustodian]
    passphrase: str = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Return who gets the shares, where each is sealed to a person."""
        return [one.name for one in self.custodians]


class Command(KeyCommand):
    """`manage.py kek_ceremony back-up | drill | restore | open-share | record`.

    Offline, which is with --note, and for restore and open-share always, no connection to a database is opened.
    """

    requires_system_checks: Any = []  # an offline machine has none of what they ask for; see `handle`

    help = (
        "back-up: writes the active KEK of the environment as shares, a sheet for each custodian. drill: puts sheets "
        "together, compares, and shows nothing. restore: writes the KEK to a file. "
        "open-share: a custodian opens what was sealed to them. To be done where nothing but the database can be reached, "
        "or, with --note, where nothing at all can be: record then keeps the note where the database is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        back_up = verbs.add_parser("back-up")
        back_up.add_argument("--threshold", type=int, required=True, help="how many shares give it back")
        back_up.add_argument("--shares", type=int, required=True, help="how many are made")
        back_up.add_argument(
            "--directory", type=Path, required=True, help="where the sheets go; print and wipe them"
        )
        back_up.add_argument(
            "--custodian",
            action="append",
            default=[],
            metavar="NAME=PUBLIC-KEY.pem",
            help="seal a share to this person's key; once for each share",
        )
        opening = verbs.add_parser("open-share")
        opening.add_argument("sheet", type=Path)
        opening.add_argument("--key", type=Path, required=True, help="the custodian's private key, PEM")
        opening.add_argument("--out", type=Path, required=True, help="a new file, for drill or restore")
        drill, restore = verbs.add_parser("drill"), verbs.add_parser("restore")
        for one in (drill, restore):
            one.add_argument("sheets", nargs="+", type=Path)
        for one in (back_up, drill):
            one.add_argument("--kek-file", type=Path, help="offline: the file of KEYGUARD_KEK_FILE")
            one.add_argument(
                "--note", type=Path, help="offline: a new file that says what was done, for record"
            )
        record = verbs.add_parser("record")
        record.add_argument("note", type=Path, help="what --note has written on the offline machine")
        restore.add_argument("--out", type=Path, required=True, help="a new file, for KEYGUARD_KEK_FILE")
        for one in (back_up, drill, restore):
            one.add_argument("--passphrase", action="store_true", help="ask for a passphrase")

    def handle(self, *args: Any, **options: Any) -> None:
        verb: str = options["verb"]
        note: Any = options.get("note")
        if verb == "record" or (verb in ("back-up", "drill") and note is None):
            self.check()
        passphrase = getpass.getpass("Passphrase of the backup: ") if options.get("passphrase") else ""
        try:
            match verb:
                case "back-up":
                    custodians = (
                        sealed_shares.custodians_of(options["custodian"], options["shares"])
                        if options["custodian"]
                        else []
                    )
                    backup = Backup(
                        options["threshold"], options["shares"], options["directory"], custodians, passphrase
                    )
                    if _is_offline(options["kek_file"], note, needs_kek=True):
                        self._back_up_offline(options["kek_file"], note, backup)
                    else:
                        self._back_up(backup)
                case "open-share":
                    self._open(options["sheet"], options["key"], options["out"])
                case "drill":
                    if _is_offline(options["kek_file"], note):
                        self._drill_offline(options["kek_file"], note, options["sheets"], passphrase)
                    else:
                        self._drill(options["sheets"], passphrase)
                case "record":
                    self._record(options["note"])
                case "restore":
                    self._restore(options["sheets"], options["out"], passphrase)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None

    def _back_up(self, backup: Backup) -> None:
        kek = Kek.objects.filter(state=KekState.ACTIVE).first()
        if kek is None or kek.provider != "env":
            raise CommandError(
                "The active KEK is not of the environment: its keeper (Vault, the HSM) has a backup of its own."
            )
        named = [(one.name, one.fingerprint) for one in backup.custodians]
        if question := ask_to_back_up(kek, backup.threshold, named, who()):
            say_asked(self.stdout, question)
            return
        self._write_sheets(secret_of(kek), backup)
        self._note(kek, DrillKind.BACKUP, backup.threshold, backup.shares, backup.names)

    def _back_up_offline(self, kek_file: Path, note: Path, backup: Backup) -> None:
        """Make the sheets of a KEK in a file. Nobody is asked: whoever has the file has the KEK."""
        kek = decoded(kek_file.read_text().strip())
        _require_new(note)
        self._write_sheets(kek, backup)
        self._write_note(note, DrillKind.BACKUP, kek, backup.threshold, backup.shares, backup.names)

    def _write_sheets(self, kek: bytes, backup: Backup) -> None:
        threshold, count, directory = backup.threshold, backup.shares, backup.directory
        shares = ceremony.split(kek, threshold, count, backup.passphrase)
        made = f"{timezone.now():%Y-%m-%d}"
        for number, share in enumerate(shares, start=1):
            path = directory / f"share-{number}-of-{count}.txt"
            if backup.custodians:
                to = backup.custodians[number - 1]
                _write(path, sealed_shares.seal(share, to, number, count, threshold, made))
                self.stdout.write(f"{path} is sealed to {to.name}, whose key is {to.fingerprint}.")
            else:
                _write(path, share.text(number, count, threshold, made))
        then = (
            "Compare each fingerprint with its custodian"
            if backup.custodians
            else "Wipe the directory after that"
        )
        self.stdout.write(
            f"{count} sheets in {directory}, any {threshold} of which give the KEK {shares[0].kcv} back; each set was tried. "
            f"Hand one to each custodian. {then}."
        )

    def _open(self, sheet: Path, key: Path, out: Path) -> None:
        """Open one custodian's sheet. Neither the database nor any other sheet is needed."""
        password = getpass.getpass(f"Password of {key}: ") if sealed_shares.has_password(key) else ""
        private = sealed_shares.private_key(key, password)
        share, text = sealed_shares.unseal(sheet.read_text(), str(sheet), private)
        _write(out, text)
        self.stdout.write(
            f"{out} has {share.custodian}'s share of the KEK {share.kcv}, in the clear: destroy it after use."
        )

    def _drill(self, sheets: list[Path], passphrase: str) -> None:
        shares = _read(sheets)
        wipe(ceremony.combine(shares, passphrase))
        kek = Kek.objects.filter(kcv=shares[0].kcv).exclude(state=KekState.DESTROYED).first()
        if kek is None:
            raise CommandError(f"The sheets give a KEK ({shares[0].kcv}) that this database does not know.")
        self._note(kek, DrillKind.DRILL, len(shares), 0, [one.custodian for one in shares if one.custodian])
        current = "" if kek.state == KekState.ACTIVE else f", which is {kek.get_state_display()}"
        self.stdout.write(f"These {len(shares)} sheets give the KEK {kek.kcv} of this database{current}.")

    def _drill_offline(self, kek_file: Path | None, note: Path, sheets: list[Path], passphrase: str) -> None:
        """Put sheets together where no database is, and leave a note. Which KEK it is, is for the database to say."""
        _require_new(note)
        shares = _read(sheets)
        kek = ceremony.combine(shares, passphrase)
        try:
            if kek_file is not None and not same(
                check_value(decoded(kek_file.read_text().strip())), shares[0].kcv
            ):
                raise CommandError(f"The sheets give another KEK ({shares[0].kcv}) than {kek_file} has.")
            named = [one.custodian for one in shares if one.custodian]
            self._write_note(note, DrillKind.DRILL, kek, len(shares), 0, named)
        finally:
            wipe(kek)
        self.stdout.write(f"These {len(shares)} sheets give the KEK {shares[0].kcv}.")

    def _write_note(
        self,
        path: Path,
        kind: DrillKind,
        kek: bytes | bytearray,
        threshold: int,
        shares: int,
        custodians: list[str],
    ) -> None:
        facts: dict[str, Any] = {"threshold": threshold, "shares": shares, "custodians": custodians}
        note = ceremony_notes.make(kind, kek, **facts, actor=who(), at=timezone.now())
        _write(path, note.text(kek))
        self.stdout.write(f"Where the database is: manage.py kek_ceremony record {path.name}")

    def _record(self, path: Path) -> None:
        """Keep what was done offline, once it is sure that whoever did it had the KEK."""
        note, proof = ceremony_notes.read(path.read_text())
        kek = Kek.objects.filter(kcv=note.check_value).exclude(state=KekState.DESTROYED).first()
        if kek is None:
            raise CommandError(f"The note is of a KEK ({note.check_value}) that this database does not know.")
        ceremony_notes.verify(note, proof, secret_of(kek), timezone.now())
        actor = f"{note.actor}, recorded by {who()}"[:150]
        with transaction.atomic():
            # One at a time: the second of two that record the same note finds the first.
            Kek.objects.select_for_update().get(pk=kek.pk)
            if KekDrill.objects.filter(kek=kek, kind=note.kind, at=note.when).exists():
                raise CommandError("The note is recorded already.")
            named = list(note.custodians)
            self._note(
                kek, DrillKind(note.kind), note.threshold, note.shares, named, actor=actor, at=note.when
            )
        label = DrillKind(note.kind).label
        self.stdout.write(f"Recorded: {label} {note.at}, KEK {kek.kcv}, by {actor}.")

    def _restore(self, sheets: list[Path], out: Path, passphrase: str) -> None:
        shares = _read(sheets)
        secret = ceremony.combine(shares, passphrase)
        try:
            _write(out, base64.b64encode(secret).decode() + "\n")
        finally:
            wipe(secret)
        self.stdout.write(f"The KEK {shares[0].kcv} is in {out}. Set KEYGUARD_KEK_FILE to it.")

    @staticmethod
    def _note(
        kek: Kek, kind: DrillKind, threshold: int, shares: int, custodians: list[str], **facts: Any
    ) -> None:
        kept = KekDrill.objects.create(
            kek=kek,
            kind=kind,
            threshold=threshold,
            shares=shares,
            custodians=custodians,
            **{"actor": who(), **facts},
        )
        note_row("kek_drill", kept, drill=str(kind))


def _is_offline(kek_file: Path | None, note: Path | None, *, needs_kek: bool = False) -> bool:
    """Return whether no database is to be used. Raises CommandError where half of what that takes was given."""
    if note is None and kek_file is None:
        return False
    if note is None:
        raise CommandError("--kek-file wants --note: offline nothing else says what was done.")
    if needs_kek and kek_file is None:
        raise CommandError("--note wants --kek-file: offline the KEK is in a file.")
    return True


def _require_new(path: Path) -> None:
    """Raise FileExistsError before anything is done that the note could then not tell of."""
    if path.exists():
        raise FileExistsError(17, "File exists", str(path))


def _read(sheets: list[Path]) -> list[ceremony.Share]:
    return [ceremony.Share.of(sheet.read_text(), str(sheet)) for sheet in sheets]


def _write(path: Path, text: str) -> None:
    """Write a new file that its owner alone reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
