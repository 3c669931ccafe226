"""Register a chain and the way to its nodes, or update it."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from signer import SignerError, register_chain


class Command(BaseCommand):
    help = "Registers a chain, or updates it; the nodes are asked who they are first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--chain-id", type=int, required=True)
        parser.add_argument("--name", required=True)
        parser.add_argument(
            "--rpc",
            action="append",
            required=True,
            metavar="URL",
            help="may be given several times, in order of preference; "
            "a ws:// or wss:// URL is where the node before it announces new blocks",
        )
        parser.add_argument(
            "--confirmations", type=int, help="blocks, the first one included, until it is final"
        )
        parser.add_argument("--block-time", type=float, metavar="SECONDS")
        parser.add_argument(
            "--max-in-flight", type=int, help="transactions of one address sent and not yet mined"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for name in ("chain_id", "confirmations", "block_time", "max_in_flight"):
            if options[name] is not None and options[name] <= 0:
                raise CommandError(f"--{name.replace('_', '-')} must be more than 0")
        try:
            chain = register_chain(
                options["chain_id"],
                options["name"],
                options["rpc"],
                confirmations=options["confirmations"],
                block_time=options["block_time"],
                max_in_flight=options["max_in_flight"],
            )
        except ValueError as error:
            raise CommandError(f"--rpc: {error}") from None
        except SignerError as error:
            raise CommandError(f"{error.message}. {error.remedy}") from None
        self.stdout.write(
            f"{chain}: {chain.confirmations} confirmations, {chain.get_fee_market_display()} fee market"
        )
