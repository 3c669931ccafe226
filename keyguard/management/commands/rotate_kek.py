"""Move every key to a new key encryption key."""

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyguard.errors import KeyguardError
from keyguard.kek_providers import PROVIDERS
from keyguard.kek_rotation import Progress, ask_to_rotate, rotate
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand

SAY_EVERY_SECONDS = 2.0


class Command(KeyCommand):
    """`manage.py rotate_kek [--provider vault]`. Killed anywhere, the next call goes on where it was."""

    help = "Makes a new key encryption key and moves every key to it, while they sign. Goes on with a rotation that was cut short."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--provider",
            choices=sorted(PROVIDERS),
            help="who keeps the new one (default: KEYGUARD_KEK_PROVIDER)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        began = said = time.monotonic()
        progress: Progress | None = None
        try:
            if question := ask_to_rotate(options["provider"], who()):
                say_asked(self.stdout, question)
                return
            for progress in rotate(options["provider"]):
                if progress.moved and time.monotonic() - said >= SAY_EVERY_SECONDS:
                    said = time.monotonic()
                    self.stdout.write(f"{progress.moved} of {progress.total} keys")
        except KeyguardError as error:
            moved = f" {progress.moved} keys were moved; the next call goes on." if progress else ""
            raise CommandError(f"{error.code}: {error} {error.remedy}{moved}") from None
        assert progress is not None
        self.say(progress, time.monotonic() - began)
        if progress.stuck:
            raise CommandError(
                f"{len(progress.stuck)} keys could not be moved, since their material does not open, and are suspended: "
                f"{', '.join(progress.stuck)}. The old KEK cannot be destroyed before they are dealt with."
            )

    def say(self, progress: Progress, seconds: float) -> None:
        """Print the end: what was moved, how fast, and which KEKs nobody needs now."""
        kek, rate = progress.kek, progress.moved / seconds if seconds else 0.0
        self.stdout.write(
            f"{progress.moved} keys are under {kek.provider} {kek.provider_ref or kek.id}, check value {kek.kcv}: "
            f"{seconds:.1f} s, {rate:,.0f} keys/s."
        )
        for old in progress.retired:
            self.stdout.write(
                f"{old.id} ({old}) is retired: no key needs it. Keep it as long as backups from before may be restored, "
                "then run destroy_kek."
            )
