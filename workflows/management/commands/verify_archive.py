"""manage.py verify_archive: is this file of archived runs what it was when it was written?"""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workflows.errors import ArchiveError
from workflows.history.checking import verify_archive


class Command(BaseCommand):
    """Verifies an archive by itself, without the database; exits with 1 and names the first line that doesn't hold."""

    help = "Verifies an archive file, without the database."
    requires_system_checks = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the file and --json."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify the file and say what it holds."""
        try:
            contents = verify_archive(options["file"])
        except (ArchiveError, OSError) as error:
            self._tell(options["json"], str(error), ok=False, problem=str(error))
            raise SystemExit(1) from None
        seals = {str(number): digest for number, digest in sorted(contents.seals.items())}
        lines = [
            f"{options['file'].name} is whole: {len(contents.heads)} runs with {contents.events} events.",
            f"Its digest is {contents.sha256}. Its runs are proved by:",
            *(f"  seal {number}  {digest}" for number, digest in seals.items()),
        ]
        found = {"sha256": contents.sha256, "runs": sorted(contents.heads), "events": contents.events}
        self._tell(options["json"], "\n".join(lines), ok=True, **found, seals=seals)

    def _tell(self, as_json: bool, text: str, **found: Any) -> None:
        self.stdout.write(json.dumps(found, indent=2) if as_json else text)
