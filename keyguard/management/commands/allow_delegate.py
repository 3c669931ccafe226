"""Allow a contract as a delegate, or no longer."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyguard.delegates import allow_delegate, disallow_delegate
from keyguard.errors import FloorError


class Command(BaseCommand):
    """`manage.py allow_delegate --chain-id N --address A --note S`, or `--remove` instead of `--note S`."""

    help = "Allows accounts to be handed to this contract on this chain (EIP-7702). Examine its code first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--chain-id", type=int, required=True)
        parser.add_argument("--address", required=True, help="the contract's")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--note", help="which contract this is, and who has examined its code")
        what.add_argument("--remove", action="store_true", help="take it off the list")

    def handle(self, *args: Any, **options: Any) -> None:
        chain_id, address = options["chain_id"], options["address"]
        try:
            if options["remove"]:
                if not disallow_delegate(chain_id, address):
                    raise CommandError(f"{address} is not on the list of chain {chain_id}.")
                self.stdout.write(f"{address} is no longer allowed on chain {chain_id}.")
                return
            row = allow_delegate(chain_id, address, options["note"])
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        except FloorError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(f"{row.address} is allowed on chain {row.chain_id}.")
