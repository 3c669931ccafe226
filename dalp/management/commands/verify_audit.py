"""manage.py verify_audit: has anybody altered the history, or the trail of what keys were asked for?"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Exists, OuterRef

from keyguard import TrailFault, verify_trail
from keyguard.audit.models import AuditHead
from keyguard.models import SigningRecord
from signer.models import Attempt
from workflows import (
    ArchiveFault,
    HistoryFault,
    SealFault,
    verify_archives,
    verify_history,
    verify_seals,
)
from workflows.models import ArchivedRun, Run, Seal

Fault = HistoryFault | SealFault | ArchiveFault | TrailFault


class Command(BaseCommand):
    """Verifies every chain, what it says of the rows, every seal, archive and head; exits with 1 at the first fault."""

    help = "Verifies every history chain, every seal and archive, and keyguard's audit trail."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --json, --seal, --archives and --skip-archives."""
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument(
            "--seal",
            action="append",
            type=_noted,
            default=[],
            metavar="NUMBER:HASH",
            help="a seal as it was noted elsewhere, which must still be here",
        )
        parser.add_argument(
            "--head",
            action="append",
            type=_noted,
            default=[],
            metavar="NUMBER:HASH",
            help="a head of keyguard's trail as it was noted elsewhere, which must still be here",
        )
        parser.add_argument(
            "--archives", type=Path, help="where the archives are, if not in DALP_ARCHIVE_DIR"
        )
        parser.add_argument("--skip-archives", action="store_true", help="do not read the archive files")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify up to the first fault."""
        self.progress = _Progress(shown=sys.stderr.isatty())
        first = next(self._faults(options), None)
        self.progress.clear()
        if options["json"]:
            self.stdout.write(json.dumps(self._report(first), indent=2))
        else:
            self.stdout.write(self._sentence(first))
        if first is not None:
            raise SystemExit(1)

    def _faults(self, options: dict[str, Any]) -> Iterator[Fault]:
        yield from verify_history(progress=self.progress.count("events read"))
        counted = self.progress.count("events under seals")
        yield from verify_seals(progress=counted, noted=dict(options["seal"]))
        if not options["skip_archives"]:
            yield from verify_archives(options["archives"])
        entries = self.progress.count("entries of the audit trail")
        yield from verify_trail(progress=entries, noted=dict(options["head"]))
        yield from unrecorded_attempts()

    def _report(self, first: Fault | None) -> dict[str, Any]:
        last, head = Seal.objects.order_by("-number").first(), AuditHead.objects.order_by("-number").first()
        return {
            "ok": first is None,
            "runs": Run.objects.count(),
            "events": self.progress.counts.get("events read", 0),
            "seals": last.number if last else 0,
            "last_seal": f"{last.number}:{last.hash}" if last else None,
            "trail_entries": self.progress.counts.get("entries of the audit trail", 0),
            "trail_heads": head.number if head else 0,
            "last_head": f"{head.number}:{head.hash}" if head else None,
            "archived_runs": ArchivedRun.objects.values("run_id").distinct().count(),
            "first_fault": _described(first) if first else None,
        }

    def _sentence(self, first: Fault | None) -> str:
        if first is not None:
            return f"{str(first)[0].upper()}{str(first)[1:]}."
        found = self._report(None)
        text = f"The histories of {found['runs']} runs are whole."
        if found["last_seal"]:
            text += f" {found['seals']} seals hold; to be noted elsewhere: --seal {found['last_seal']}"
        text += f"\nThe {found['trail_entries']} entries of keyguard's trail are whole."
        if found["last_head"]:
            text += f" {found['trail_heads']} heads hold; to be noted elsewhere: --head {found['last_head']}"
        return text


def unrecorded_attempts() -> Iterator[TrailFault]:
    """Yield a fault for the first bytes that the signer has and keyguard knows nothing of."""
    signed = SigningRecord.objects.filter(hash=OuterRef("hash"), state="SIGNED")
    for attempt in Attempt.objects.filter(~Exists(signed)).select_related("transaction")[:1]:
        problem = (
            f"transaction {attempt.transaction_id} has the bytes {attempt.hash}, which no record tells of"
        )
        yield TrailFault("of signatures", 0, problem)


def _noted(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    return int(number), digest


def _described(fault: Fault) -> dict[str, Any]:
    kinds = {HistoryFault: "run", SealFault: "seal", ArchiveFault: "archive", TrailFault: "trail"}
    return {"kind": kinds[type(fault)], **asdict(fault)}


class _Progress:
    """Counts, and on a terminal shows, how far it has come."""

    def __init__(self, shown: bool) -> None:
        self.counts: dict[str, int] = {}
        self.shown = shown
        self.began = time.monotonic()

    def count(self, what: str) -> Any:
        def add(number: int) -> None:
            self.counts[what] = self.counts.get(what, 0) + number
            if self.shown:
                seconds = time.monotonic() - self.began
                sys.stderr.write(f"\r\033[K{self.counts[what]:,} {what}, {seconds:.0f} s")

        return add

    def clear(self) -> None:
        """Leave the terminal's line as it was."""
        if self.shown:
            sys.stderr.write("\r\033[K")
