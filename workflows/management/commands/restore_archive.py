"""manage.py restore_archive: put archived runs back into the database."""

import getpass
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from workflows.errors import ArchiveError
from workflows.history.restoring import restore_archive


class Command(BaseCommand):
    """Puts the runs of an archive back as they were, on legal hold; all or nothing."""

    help = "Puts archived runs back into the database, on legal hold."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the file, --run, --actor and --reason."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--run", help="only this run, and those that were archived because of it")
        parser.add_argument("--actor", default=getpass.getuser(), help="who does it (%(default)s)")
        parser.add_argument("--reason", required=True, help="why, for the record")

    def handle(self, *args: Any, **options: Any) -> None:
        """Restore the runs and say how many they were."""
        try:
            restored = restore_archive(
                options["file"], actor=options["actor"], reason=options["reason"], run_id=options["run"]
            )
        except (ArchiveError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"{restored.runs} runs are back ({restored.rows} rows), on legal hold: the sweeper leaves them alone until "
            "that is released."
        )
