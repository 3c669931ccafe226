"""Fill a group that approves, while it has too few members to approve anything."""

import getpass
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import Group, User
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from keyguard.errors import KeyguardError
from keyguard.policies import memberships


class Command(BaseCommand):
    """`manage.py add_approver --first GROUP PERSON --reason WHY`."""

    help = (
        "Puts a person into a group whose members approve, while it has fewer active members than must approve. "
        "From then on its members say who joins them: console, Groups."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("group", help="as a rule or a setting names it; made where it is missing")
        parser.add_argument("person", help="a user's name")
        parser.add_argument(
            "--first", action="store_true", required=True, help="the group has too few members"
        )
        parser.add_argument("--reason", required=True, help="kept with your name")

    def handle(self, *args: Any, **options: Any) -> None:
        person = User.objects.filter(username=options["person"]).first()
        if person is None:
            raise CommandError(
                f"There is no person {options['person']}: make one with createsuperuser, or in the console."
            )
        try:
            with transaction.atomic():
                group, _ = Group.objects.get_or_create(name=options["group"])
                memberships.add_first(group, person, f"command:{getpass.getuser()}", options["reason"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        count = group.user_set.filter(is_active=True).count()
        self.stdout.write(f"{person} is in {group}, which has {count} active members now.")
