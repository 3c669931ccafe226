"""manage.py create_api_token: make a token for the REST API."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from dalp.models import ApiToken, Role
from keyguard import KeyguardError
from keyguard.keys import checked_tenant
from keyguard.states import DEFAULT_TENANT


class Command(BaseCommand):
    """Prints the token, and nothing else, on standard output. It is not stored and cannot be shown again."""

    help = "Makes a token for the REST API and prints it once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --name, --role, --group, --owner and --tenant."""
        parser.add_argument("--name", required=True, help="who will use it")
        parser.add_argument("--role", required=True, choices=Role.values)
        parser.add_argument(
            "--group",
            action="append",
            default=[],
            help="whose approvals the holder may give; may be repeated",
        )
        parser.add_argument(
            "--owner",
            default="",
            help="the user's name of the person who has it: they do not approve what is asked for with it",
        )
        parser.add_argument(
            "--tenant", default=DEFAULT_TENANT, help="whose keys the holder may use (default: default)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Make and print the token."""
        try:
            tenant = checked_tenant(options["tenant"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error}") from None
        owner = options["owner"]
        if owner and not User.objects.filter(username=owner).exists():
            raise CommandError(f"--owner: there is no user {owner!r}")
        _, text = ApiToken.issue(options["name"], options["role"], options["group"], tenant, owner)
        self.stdout.write(text)
