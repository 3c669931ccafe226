"""Wrap a private key for import_key, on a machine without a network. It is read from standard input."""

import base64
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyguard.curve import wipe
from keyguard.errors import KeyguardError
from keyguard.importing import wrap
from keyguard.management.commands.import_key import read_secret
from keyguard.management.key_command import KeyCommand


class Command(KeyCommand):
    """`manage.py wrap_key --public-key pair.pem < key`."""

    help = (
        "Reads a private key (64 hex digits) from standard input and prints it wrapped, in base64, for the holder of a "
        "public key that `import_key --wrapped` has made. Uses no database and no network."
    )
    requires_system_checks: Any = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--public-key", type=Path, required=True, help="the PEM file of import_key --wrapped"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            public_key = options["public_key"].read_bytes()
        except OSError as error:
            raise CommandError(f"{options['public_key']}: {error.strerror}") from None
        try:
            secret = read_secret()
            try:
                wrapped = wrap(public_key, secret)
            finally:
                wipe(secret)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(base64.b64encode(wrapped).decode())
