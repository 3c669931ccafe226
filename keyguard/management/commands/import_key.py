"""Take an existing private key over. It is read from standard input: arguments show in the list of processes."""

import getpass
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyguard.curve import wipe
from keyguard.errors import KeyguardError, SecretInvalidError
from keyguard.keys import import_key

MAX_INPUT_BYTES = 256
_DIGITS = {ord(digit): value for value, digit in enumerate("0123456789abcdef")}
_DIGITS |= {ord(digit.upper()): value for digit, value in zip("abcdef", range(10, 16), strict=True)}


class Command(BaseCommand):
    """`manage.py import_key --alias S [--backend vault] < file`."""

    help = (
        "Reads a private key (64 hex digits, with or without 0x) from standard input and prints its address."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--alias", required=True, help="the name by which workflows and people call the key"
        )
        parser.add_argument(
            "--backend", default="database", help="where the key lives: database or vault (default: database)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            key = import_key(options["alias"], read_secret(), options["backend"])
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        self.stdout.write(key.address)


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
