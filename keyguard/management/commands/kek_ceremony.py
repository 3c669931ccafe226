"""The key encryption key on paper: taking it apart, trying the sheets, putting it together again."""

import base64
import getpass
import os
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from keyguard import ceremony, sealed_shares
from keyguard.audit.rows import note_row
from keyguard.curve import wipe
from keyguard.errors import KeyguardError
from keyguard.kek_providers.env import secret_of
from keyguard.kek_rotation import ask_to_back_up
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand
from keyguard.models import Kek, KekDrill
from keyguard.sealed_shares import ShareCustodian
from keyguard.states import DrillKind, KekState


class Command(KeyCommand):
    """`manage.py kek_ceremony back-up | drill | restore | open-share`."""

    help = (
        "back-up: writes the active KEK of the environment as shares, a sheet for each custodian. drill: puts sheets "
        "together, compares, and shows nothing. restore: writes the KEK to a file. "
        "open-share: a custodian opens what was sealed to them. To be done where nothing but the database can be reached."
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
        restore.add_argument("--out", type=Path, required=True, help="a new file, for KEYGUARD_KEK_FILE")
        for one in (back_up, drill, restore):
            one.add_argument("--passphrase", action="store_true", help="ask for a passphrase")

    def handle(self, *args: Any, **options: Any) -> None:
        passphrase = getpass.getpass("Passphrase of the backup: ") if options.get("passphrase") else ""
        try:
            match options["verb"]:
                case "back-up":
                    custodians = (
                        sealed_shares.custodians_of(options["custodian"], options["shares"])
                        if options["custodian"]
                        else []
                    )
                    counts = options["threshold"], options["shares"]
                    self._back_up(*counts, options["directory"], passphrase, custodians)
                case "open-share":
                    self._open(options["sheet"], options["key"], options["out"])
                case "drill":
                    self._drill(options["sheets"], passphrase)
                case "restore":
                    self._restore(options["sheets"], options["out"], passphrase)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None

    def _back_up(
        self, threshold: int, count: int, directory: Path, passphrase: str, custodians: list[ShareCustodian]
    ) -> None:
        kek = Kek.objects.filter(state=KekState.ACTIVE).first()
        if kek is None or kek.provider != "env":
            raise CommandError(
                "The active KEK is not of the environment: its keeper (Vault, the HSM) has a backup of its own."
            )
        named = [(one.name, one.fingerprint) for one in custodians]
        if question := ask_to_back_up(kek, threshold, named, who()):
            say_asked(self.stdout, question)
            return
        shares = ceremony.split(secret_of(kek), threshold, count, passphrase)
        made = f"{timezone.now():%Y-%m-%d}"
        for number, share in enumerate(shares, start=1):
            path = directory / f"share-{number}-of-{count}.txt"
            if custodians:
                to = custodians[number - 1]
                _write(path, sealed_shares.seal(share, to, number, count, threshold, made))
                self.stdout.write(f"{path} is sealed to {to.name}, whose key is {to.fingerprint}.")
            else:
                _write(path, share.text(number, count, threshold, made))
        self._note(kek, DrillKind.BACKUP, threshold, count, [one.name for one in custodians])
        then = (
            "Compare each fingerprint with its custodian" if custodians else "Wipe the directory after that"
        )
        self.stdout.write(
            f"{count} sheets in {directory}, any {threshold} of which give the KEK {kek.kcv} back; each set was tried. "
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

    def _restore(self, sheets: list[Path], out: Path, passphrase: str) -> None:
        shares = _read(sheets)
        secret = ceremony.combine(shares, passphrase)
        try:
            _write(out, base64.b64encode(secret).decode() + "\n")
        finally:
            wipe(secret)
        self.stdout.write(f"The KEK {shares[0].kcv} is in {out}. Set KEYGUARD_KEK_FILE to it.")

    @staticmethod
    def _note(kek: Kek, kind: DrillKind, threshold: int, shares: int, custodians: list[str]) -> None:
        kept = KekDrill.objects.create(
            kek=kek,
            kind=kind,
            threshold=threshold,
            shares=shares,
            custodians=custodians,
            actor=who(),
        )
        note_row("kek_drill", kept, drill=str(kind))


def _read(sheets: list[Path]) -> list[ceremony.Share]:
    return [ceremony.Share.of(sheet.read_text(), str(sheet)) for sheet in sheets]


def _write(path: Path, text: str) -> None:
    """Write a new file that its owner alone reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
