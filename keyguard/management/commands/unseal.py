"""Lift seals, once what they were set for is understood and over."""

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyguard import sealing
from keyguard.errors import KeyguardError


class Command(BaseCommand):
    """`manage.py unseal --reason WHY [--backend NAME]`."""

    help = "Lift the seal on keyguard, or on one backend, or ask those whose approval that takes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--reason", required=True, help="kept with your name")
        parser.add_argument("--backend", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        what = options["backend"] or "all backends"
        found = sealing.open_sealings().filter(backend=options["backend"]).first()
        if found is None:
            others = [str(one) for one in sealing.open_sealings()]
            raise CommandError(f"There is no seal on {what}. Seals: {'; '.join(others) or 'none'}.")
        try:
            question = sealing.unseal(found, f"command:{getpass.getuser()}", options["reason"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        if question is None:
            self.stdout.write(f"The seal on {what} is lifted.")
            return
        needs = "; ".join(f"{need['approvals']} of {need['group']}" for need in question.needs)
        self.stdout.write(f"Asked: {needs} must approve it in the console, until {question.expires_at}.")
