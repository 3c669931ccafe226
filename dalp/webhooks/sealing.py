"""The secrets of webhooks: made here, shown once, and at rest only encrypted.

Under a key derived from Django's SECRET_KEY, not under keyguard's: a process that sends webhooks is to need no
key-encryption key (docs/adr/0014-webhooks.md). The keys derived from SECRET_KEY_FALLBACKS open, too, and what they open
is sealed anew, so that a fallback can be dropped after a day.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

PREFIX = "whsec_"
SECRET_BYTES = 32
PURPOSE = b"dalp.webhooks.secret"


class SecretUnreadableError(Exception):
    """No key that this process has opens the secret."""


class SecretMalformedError(ValueError):
    """What was given is not a secret."""


def new_secret() -> str:
    """Return a new secret as its receiver gets it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def key_bytes(secret: str) -> bytes:
    """Return the key that a secret stands for. Raises SecretMalformedError, without the secret in it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) != SECRET_BYTES:
        raise SecretMalformedError(f"must be {PREFIX} and {SECRET_BYTES} bytes in base64")
    return key


def seal(secret: str) -> str:
    """Return what is stored of a secret."""
    return _lock(_keys()).encrypt(key_bytes(secret)).decode()


def unseal(sealed: str) -> bytes:
    """Return the key in what was stored. Raises SecretUnreadableError."""
    try:
        return _lock(_keys()).decrypt(sealed.encode())
    except InvalidToken:
        raise SecretUnreadableError from None


def sealed_anew(sealed: str) -> str | None:
    """Return it under today's SECRET_KEY if it is under an older one, else None. Raises SecretUnreadableError."""
    try:
        _lock(_keys()[:1]).decrypt(sealed.encode())
    except InvalidToken:
        return _lock(_keys()).encrypt(unseal(sealed)).decode()
    return None


def _keys() -> list[str]:
    return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]


def _lock(keys: Sequence[str]) -> MultiFernet:
    return MultiFernet([Fernet(base64.urlsafe_b64encode(_derive(key))) for key in keys])


def _derive(key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(key.encode())
