"""Take the second factor away from somebody who has lost it."""

import getpass
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from dalp import second_factor


class Command(BaseCommand):
    """`manage.py reset_second_factor USERNAME --reason WHY`. docs/operating.md says what to check first."""

    help = "Removes a person's authenticator and backup codes. Their password stays; they set up another one in the console."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the person and --reason."""
        parser.add_argument("username")
        parser.add_argument("--reason", required=True, help="kept with your name")

    def handle(self, *args: Any, **options: Any) -> None:
        """Remove it and say so."""
        name, reason = options["username"], options["reason"].strip()
        person = User.objects.filter(username=name).first()
        if person is None:
            raise CommandError(f"There is nobody called {name}.")
        if not reason:
            raise CommandError("Say why: it is kept with your name.")
        if not second_factor.reset(person, f"command:{getpass.getuser()}", reason):
            raise CommandError(f"{name} has no second factor. Nothing was changed.")
        self.stdout.write(f"{name} has no second factor any more.")
