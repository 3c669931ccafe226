"""manage.py doctor: what is wrong, and what to do about it."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from dalp import diagnosis


class Command(BaseCommand):
    """Looks at everything an installation needs. Changes nothing; exits with 1 when something is broken."""

    help = "Diagnoses database, broker, workers, beat, chains, lanes and keys. Read-only."
    requires_system_checks = ()  # a missing secret must not keep the doctor from looking at the rest

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --json."""
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Diagnose and print."""
        findings = diagnosis.diagnose()
        broken = [finding for finding in findings if not finding.ok]
        if options["json"]:
            self.stdout.write(
                json.dumps({"ok": not broken, "findings": [f.as_dict() for f in findings]}, indent=2)
            )
        else:
            self.print_findings(findings)
        if broken:
            raise SystemExit(1)

    def print_findings(self, findings: list[diagnosis.Finding]) -> None:
        """Print one line for each finding, and below a broken one what to do."""
        for finding in findings:
            word = self.style.SUCCESS("ok    ") if finding.ok else self.style.ERROR("BROKEN")
            self.stdout.write(f"{word} {finding.name}: {finding.detail}")
            if finding.remedy and (not finding.ok or finding.name == "dead letters"):
                self.stdout.write(f"       -> {finding.remedy}")
        broken = sum(not finding.ok for finding in findings)
        self.stdout.write(
            "Everything works." if not broken else f"{broken} of {len(findings)} checks failed."
        )
