"""Know a key of a custody that sends by itself."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyguard.custodians import CUSTODIANS
from keyguard.errors import KeyguardError
from keyguard.keys import bind_key


class Command(BaseCommand):
    """`manage.py bind_key --alias S --backend fireblocks --reference 7/ETH --address A`."""

    help = "Reads a key's public key and address from its custody, pins both, and prints the address."

    def add_arguments(self, parser: CommandParser) -> None:
        names = ", ".join(sorted(CUSTODIANS))
        parser.add_argument(
            "--alias", required=True, help="the name by which workflows and people call the key"
        )
        parser.add_argument("--backend", required=True, help=f"the custody: {names}")
        parser.add_argument(
            "--reference",
            required=True,
            help="what the custody calls the key: 7/ETH (Fireblocks), key-... (DFNS)",
        )
        parser.add_argument(
            "--address", required=True, help="what people see at the custody: another one is not bound"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            key = bind_key(options["alias"], options["backend"], options["reference"], options["address"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(key.address)
