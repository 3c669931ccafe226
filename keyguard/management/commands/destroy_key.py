"""Destroy a key that is retired or compromised, for ever."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyguard import destroying, find_key, lifecycle
from keyguard.errors import KeyguardError
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand
from keyguard.states import KeyState, KeyVerb


class Command(KeyCommand):
    """`manage.py destroy_key ALIAS --reason WHY`. Killed anywhere, the next call goes on where it was."""

    help = (
        "Destroys a retired or compromised key: nobody can sign with it, nor take it back, ever again. "
        "Backups from before have it still."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", help="alias or address")
        parser.add_argument("--reason", required=True, help="kept with your name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            key = find_key(options["key"], tenant=None)
            if key.state != KeyState.DESTROYED:
                question = lifecycle.act(key, KeyVerb.DESTROY, who(), options["reason"])
                if question is not None:
                    say_asked(self.stdout, question)
                    return
            destroying.finish(key)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(f"{key.alias} ({key.address}) is destroyed.")
