"""manage.py verify_audit: has anybody altered the history?"""

import json
from dataclasses import asdict
from itertools import islice
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workflows import verify_history
from workflows.models import Run


class Command(BaseCommand):
    """Walks the hash chain of every run; prints the first bad entry and exits with 1 when one was altered."""

    help = "Verifies every history chain."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --json."""
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Walk the chains up to the first fault."""
        first = next(islice(verify_history(), 1), None)
        if options["json"]:
            body = {
                "ok": first is None,
                "runs": Run.objects.count(),
                "first_fault": asdict(first) if first else None,
            }
            self.stdout.write(json.dumps(body, indent=2))
        elif first is None:
            self.stdout.write(f"The histories of {Run.objects.count()} runs are whole.")
        else:
            self.stdout.write(f"Run {first.run_id}, event {first.seq}: {first.problem}.")
        if first is not None:
            raise SystemExit(1)
