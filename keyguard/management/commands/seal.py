"""Seal keyguard, or one backend: nothing is signed until the seal is lifted."""

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyguard import sealing
from keyguard.backends import BACKENDS
from keyguard.custodians import CUSTODIANS


class Command(BaseCommand):
    """`manage.py seal --reason WHY [--backend NAME]`."""

    help = "Have no key sign anything, or none of a backend, until people lift the seal with unseal."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--reason", required=True, help="kept with your name")
        parser.add_argument("--backend", default="", choices=["", *BACKENDS, *CUSTODIANS])

    def handle(self, *args: Any, **options: Any) -> None:
        what = options["backend"] or "all backends"
        actor = f"command:{getpass.getuser()}"
        if not sealing.seal(options["reason"], backend=options["backend"], actor=actor):
            raise CommandError(f"There is a seal on {what} already.")
        self.stdout.write(f"Sealed: {what}. Nothing more is signed there. To lift it: manage.py unseal")
