"""Make a key."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyguard.errors import KeyguardError
from keyguard.keys import create_key
from keyguard.management.key_command import KeyCommand
from keyguard.states import DEFAULT_TENANT
from keyguard.uris import backend_in


class Command(KeyCommand):
    """`manage.py create_key --alias S [--backend vault:] [--tenant T]`."""

    help = "Makes a key and prints its address."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--alias", required=True, help="the name by which workflows and people call the key"
        )
        parser.add_argument(
            "--backend",
            default="database:",
            help="where the key is to live: database:, vault: or pkcs11: (default: database:)",
        )
        parser.add_argument(
            "--tenant",
            default=DEFAULT_TENANT,
            help="whose API tokens may use it (default: default); it stays theirs for good",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            key = create_key(options["alias"], backend_in(options["backend"]), options["tenant"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(key.address)
