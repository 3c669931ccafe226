"""Destroy a key encryption key that no key needs."""

from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from keyguard.errors import KeyguardError
from keyguard.kek_rotation import ask_to_destroy, destroy_kek
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand


class Command(KeyCommand):
    """`manage.py destroy_kek ID --backups-before-it-are-gone`."""

    help = "Destroys a retired key encryption key. Backups from before its rotation can never be used again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", type=UUID, help="as rotate_kek and the admin show it")
        parser.add_argument(
            "--backups-before-it-are-gone",
            action="store_true",
            required=True,
            help="say that no backup from before the rotation will be restored",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if question := ask_to_destroy(options["id"], who()):
                say_asked(self.stdout, question)
                return
            rest = destroy_kek(options["id"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(f"{options['id']} is destroyed. {rest}".strip())
