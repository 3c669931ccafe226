"""Hand everything that a key may do over to a new key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dalp.assets.rotating import start_rotation
from keyguard import find_key
from keyguard.errors import KeyguardError
from keyguard.management.asking import say_asked, who
from keyguard.policies.models import Question
from keyguard.uris import backend_in


class Command(BaseCommand):
    """`manage.py rotate_key ALIAS --reason WHY [--fund-wei N]`."""

    help = (
        "Starts the run that makes a new key, gives it all roles of the old one, its alias, and retires the old one. "
        "Prints the run's id."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", help="alias or address")
        parser.add_argument("--reason", required=True, help="kept with your name")
        parser.add_argument(
            "--backend",
            default="",
            help="where the new key is to live, as vault: (default: where the old one does)",
        )
        parser.add_argument(
            "--fund-wei", type=int, help="sent from the old address to the new one, on each of its chains"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        fund_wei = options["fund_wei"]
        if fund_wei is not None and fund_wei <= 0:
            raise CommandError("--fund-wei is a number of wei, 1 at least.")
        try:
            facts = {"backend": backend_in(options["backend"]), "fund_wei": fund_wei}
            started = start_rotation(find_key(options["key"], tenant=None), who(), options["reason"], **facts)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        if isinstance(started, Question):
            say_asked(self.stdout, started)
        else:
            self.stdout.write(str(started.pk))
