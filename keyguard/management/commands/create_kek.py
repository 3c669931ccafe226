"""Make the first key encryption key."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyguard.errors import KeyguardError
from keyguard.kek_providers import PROVIDERS
from keyguard.kek_rotation import create_kek
from keyguard.management.key_command import KeyCommand


class Command(KeyCommand):
    """`manage.py create_kek [--provider vault]`."""

    help = "Makes the first key encryption key of this database. Later ones are made by rotate_kek."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--provider", choices=sorted(PROVIDERS), help="who keeps it (default: KEYGUARD_KEK_PROVIDER)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            kek = create_kek(options["provider"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(f"{kek.id} {kek.provider} {kek.provider_ref or '-'}, check value {kek.kcv}")
