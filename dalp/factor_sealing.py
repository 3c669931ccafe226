"""The secret of an authenticator, at rest: encrypted under a key derived from SECRET_KEY, for one person.

Fernet, which seals the secrets of webhooks, makes more of it than django-otp's column of 80 characters holds.
"""

import base64
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

PURPOSE = b"dalp.second_factor"
NONCE_BYTES = 12


class FactorUnreadableError(Exception):
    """No key that this process has opens it, or it is somebody else's."""


def seal(secret: bytes, person: int) -> str:
    """Return what is stored of a secret."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(_derive(settings.SECRET_KEY)).encrypt(nonce, secret, str(person).encode())
    return base64.b64encode(nonce + sealed).decode()


def unseal(sealed: str, person: int) -> bytes:
    """Return the secret. Raises FactorUnreadableError, without anything in it."""
    try:
        given = base64.b64decode(sealed, validate=True)
    except ValueError:
        raise FactorUnreadableError from None
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        try:
            return AESGCM(_derive(key)).decrypt(
                given[:NONCE_BYTES], given[NONCE_BYTES:], str(person).encode()
            )
        except (InvalidTag, ValueError):
            continue
    raise FactorUnreadableError


def _derive(key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(key.encode())
