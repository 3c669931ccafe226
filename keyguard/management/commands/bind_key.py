"""Know a key of a custody that sends by itself."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyguard.errors import KeyguardError
from keyguard.keys import bind_key
from keyguard.uris import parse


class Command(BaseCommand):
    """`manage.py bind_key --alias S --uri fireblocks:7/ETH --address A`."""

    help = "Reads a key's public key and address from its custody, pins both, and prints the address."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--alias", required=True, help="the name by which workflows and people call the key"
        )
        parser.add_argument(
            "--uri",
            required=True,
            help="the custody and what it calls the key: fireblocks:7/ETH, dfns:key-...",
        )
        parser.add_argument(
            "--address", required=True, help="what people see at the custody: another one is not bound"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            place = parse(options["uri"])
            key = bind_key(options["alias"], place.backend, place.reference, options["address"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(key.address)
