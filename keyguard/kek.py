"""The key encryption key (KEK) of this process, from the setting KEYGUARD_KEK.

Upholds: the KEK is used only when its check value is the one stored beside the keys, so a wrong KEK is told apart from
damaged material, and never suspends a key.
"""

import base64
import binascii
import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import IntegrityError, transaction

from keyguard.errors import KekMalformedError, KekMismatchError, KekMissingError
from keyguard.models import Kek
from keyguard.states import KekState

PROVIDER = "env"


def open_kek(kek: Kek) -> AESGCM:
    """Return the cipher of the KEK that this row describes. Raises KekMismatchError when the setting is another KEK."""
    secret = _secret()
    if not hmac.compare_digest(_check_value(secret), kek.kcv):
        raise KekMismatchError
    return AESGCM(secret)


def active_kek() -> Kek:
    """Return the row of the KEK under which new keys are stored; the first call in a new database makes it."""
    check_value = _check_value(_secret())
    kek = Kek.objects.filter(provider=PROVIDER, state=KekState.ACTIVE).first()
    if kek is None:
        kek = _first_kek(check_value)
    if not hmac.compare_digest(check_value, kek.kcv):
        raise KekMismatchError
    return kek


def _first_kek(check_value: str) -> Kek:
    try:
        with transaction.atomic():
            return Kek.objects.create(provider=PROVIDER, kcv=check_value, state=KekState.ACTIVE)
    except IntegrityError:  # another process was first; the constraint allows one active KEK
        return Kek.objects.get(provider=PROVIDER, state=KekState.ACTIVE)


def _secret() -> bytes:
    text = getattr(settings, "KEYGUARD_KEK", "") or ""
    if not text:
        raise KekMissingError
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KekMalformedError from None
    if len(secret) != 32:
        raise KekMalformedError
    return secret


def _check_value(secret: bytes) -> str:
    """Return 16 hex digits that only this KEK gives and that say nothing about it."""
    return hmac.new(secret, b"keyguard kek check value 1", hashlib.sha256).hexdigest()[:16]
