"""Take an existing private key over. It is read from standard input: arguments show in the list of processes."""

import base64
import binascii
import getpass
import os
import sys
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from keyguard.curve import wipe
from keyguard.errors import KeyguardError, SecretInvalidError
from keyguard.importing import import_plain, import_wrapped, make_pair, require_plain_allowed
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand
from keyguard.models import Key
from keyguard.policies.models import Question
from keyguard.uris import backend_in

MAX_INPUT_BYTES = 256
MAX_WRAPPED = 8192
_DIGITS = {ord(digit): value for value, digit in enumerate("0123456789abcdef")}
_DIGITS |= {ord(digit.upper()): value for digit, value in zip("abcdef", range(10, 16), strict=True)}


class Command(KeyCommand):
    """`manage.py import_key --alias S [--backend vault:] [--wrapped-with ID --address 0x…] < file`."""

    help = (
        "Reads a private key from standard input and prints its address: 64 hex digits, with or without 0x; with "
        "--wrapped-with what `wrap_key` has printed. --wrapped makes the key pair to wrap it for, and prints the public key."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--alias", help="the name by which workflows and people call the key")
        parser.add_argument(
            "--backend",
            default="database:",
            help="where the key is to live: database: or vault: (default: database:)",
        )
        parser.add_argument("--address", default="", help="which one it is; another one is refused")
        parser.add_argument(
            "--wrapped", action="store_true", help="make a key pair for one import, within an hour"
        )
        parser.add_argument("--wrapped-with", type=UUID, metavar="ID", help="the id of that pair")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["wrapped"]:
                pair = make_pair(who())
                self.stderr.write(f"--wrapped-with {pair.pk}, until {pair.expires_at:%Y-%m-%d %H:%M} UTC")
                self.stdout.write(pair.public_key.strip())
                return
            made = self._imported(options)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        if isinstance(made, Question):
            say_asked(self.stdout, made)
        else:
            self.stdout.write(made.address)

    def _imported(self, options: dict[str, Any]) -> Key | Question:
        alias, address, backend = options["alias"], options["address"], backend_in(options["backend"])
        if not alias:
            raise CommandError("--alias is missing.")
        if options["wrapped_with"] is None:
            require_plain_allowed()
            return import_plain(read_secret(), alias, address, backend, who())
        if not address:
            raise CommandError("--wrapped-with wants --address: the address that the key must have.")
        try:
            wrapped = base64.b64decode("".join(sys.stdin.read(MAX_WRAPPED).split()), validate=True)
        except binascii.Error:
            raise CommandError("Standard input is not what wrap_key has printed.") from None
        return import_wrapped(options["wrapped_with"], wrapped, alias, address, backend, who())


def read_secret() -> bytearray:
    """Return the private key on standard input, in a buffer that the import wipes."""
    text = bytearray(MAX_INPUT_BYTES)
    try:
        if sys.stdin.isatty():  # without echo
            typed = getpass.getpass("Private key (hex): ").encode()[:MAX_INPUT_BYTES]
            text[: len(typed)] = typed
        else:
            _read(text)
        return parse_hex(text)
    finally:
        wipe(text)


def parse_hex(text: bytearray) -> bytearray:
    """Return the 32 bytes that hex text, padded with spaces or zero bytes, stands for.

    By hand, since every function for it would leave a copy in bytes or str, which nothing can wipe.
    """
    start, end = 0, len(text)
    while end > 0 and text[end - 1] in b"\0 \t\r\n":
        end -= 1
    while start < end and text[start] in b" \t\r\n":
        start += 1
    if text.startswith((b"0x", b"0X"), start):
        start += 2
    if end - start != 64 or any(text[position] not in _DIGITS for position in range(start, end)):
        raise SecretInvalidError("standard input must hold 64 hex digits, with or without 0x")
    secret = bytearray(32)
    for index in range(32):
        high, low = text[start + 2 * index], text[start + 2 * index + 1]
        secret[index] = _DIGITS[high] << 4 | _DIGITS[low]
    return secret


def _read(text: bytearray) -> None:
    view, filled = memoryview(text), 0
    while filled < len(text):
        # Past sys.stdin's own buffer, which would keep a copy.
        count = os.readv(sys.stdin.fileno(), [view[filled:]])
        if not count:
            return
        filled += count
