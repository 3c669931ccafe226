"""Register a chain and the way to its nodes, or update it."""

from argparse import ArgumentParser
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from signer import SignerError, register_chain
from signer.requests import checksummed
from signer.states import Finality, ForeignNonces

GWEI = 10**9
# What is less has no meaning, or stops everything.
LEAST: dict[str, Any] = {
    "chain_id": 1,
    "confirmations": 1,
    "block_time": 0.001,
    "max_in_flight": 1,
    "max_in_flight_adaptive": 1,
    "max_fee_gwei": Decimal("0.000000001"),
    "ceiling_percent": 113,
}


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
        parser.add_argument(
            "--max-in-flight-adaptive", type=int, help="up to so many, where your own nodes take them"
        )
        parser.add_argument(
            "--finality",
            choices=[each.lower() for each in Finality.values],
            help="what says that a block is final",
        )
        parser.add_argument(
            "--max-fee-gwei", type=Decimal, metavar="GWEI", help="nothing is offered above it (500)"
        )
        parser.add_argument(
            "--ceiling-percent", type=int, help="a fee above this share of the market's is a mistake (500)"
        )
        parser.add_argument(
            "--foreign-nonces",
            choices=[each.lower() for each in ForeignNonces.values],
            help="what happens where a stranger used a nonce of ours",
        )
        parser.add_argument(
            "--l1-fee-oracle",
            metavar="ADDRESS",
            help="says what the data costs on the chain below (OP Stack)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for name, least in LEAST.items():
            if options[name] is not None and not options[name] >= least:
                raise CommandError(f"--{name.replace('_', '-')} must be at least {least}")
        try:
            oracle = checksummed(options["l1_fee_oracle"]) if options["l1_fee_oracle"] else None
        except ValueError as error:
            raise CommandError(f"--l1-fee-oracle: {error}") from None
        ceiling, finality, strangers = options["max_fee_gwei"], options["finality"], options["foreign_nonces"]
        try:
            chain = register_chain(
                options["chain_id"],
                options["name"],
                options["rpc"],
                confirmations=options["confirmations"],
                block_time=options["block_time"],
                max_in_flight=options["max_in_flight"],
                max_in_flight_adaptive=options["max_in_flight_adaptive"],
                finality=finality and Finality(finality.upper()),
                max_fee_per_gas_wei=None if ceiling is None else int(ceiling * GWEI),
                ceiling_percent=options["ceiling_percent"],
                foreign_nonces=strangers and ForeignNonces(strangers.upper()),
                l1_fee_oracle=oracle,
            )
        except ValueError as error:
            raise CommandError(f"--rpc: {error}") from None
        except SignerError as error:
            raise CommandError(f"{error.message}. {error.remedy}") from None
        self.stdout.write(
            f"{chain}: {chain.confirmations} confirmations, {chain.get_fee_market_display()} fee market"
        )
