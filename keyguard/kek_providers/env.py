"""KEKs from the settings: KEYGUARD_KEK, and earlier ones in KEYGUARD_KEK_FALLBACKS. Each may come from a file.

Upholds: a KEK is told by its check value alone, so the order of the settings does not matter to what is stored; the
development KEK, which everybody knows, is none in production.
"""

import base64
import binascii

from django.conf import settings

from keyguard.check_values import check_value, same
from keyguard.envelope import KekCipher, LocalCipher
from keyguard.errors import KekMalformedError, KekMismatchError, KekMissingError
from keyguard.kek_providers import Made
from keyguard.models import Kek


class EnvProvider:
    """The KEK is in this process's memory for as long as it runs."""

    remote = False
    batch = 500

    def make(self, kek: Kek) -> Made:
        current = _text()
        if not current:
            raise KekMissingError
        return Made(kcv=check_value(decoded(current)))

    def open(self, kek: Kek) -> KekCipher:
        return LocalCipher(secret_of(kek))

    def destroy(self, kek: Kek) -> str:
        return "Take it out of KEYGUARD_KEK_FALLBACKS, and out of wherever that is kept."

    def look(self, kek: Kek) -> str:
        return ""


def secret_of(kek: Kek) -> bytes:
    """Return the KEK that this row describes. Raises KekMissingError, KekMalformedError, KekMismatchError."""
    texts = [text for text in (_text(), *getattr(settings, "KEYGUARD_KEK_FALLBACKS", ())) if _allowed(text)]
    if not texts:
        raise KekMissingError
    for secret in map(decoded, texts):
        if same(check_value(secret), kek.kcv):
            return secret
    raise KekMismatchError


def _text() -> str:
    text = str(getattr(settings, "KEYGUARD_KEK", "") or "")
    return text if _allowed(text) else ""


def _allowed(text: str) -> bool:
    return bool(text) and (settings.DEBUG or text != getattr(settings, "DEVELOPMENT_KEK", ""))


def decoded(text: str) -> bytes:
    """Return the KEK that a setting, or the file that it is read from, has as text. Raises KekMalformedError."""
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KekMalformedError from None
    if len(secret) != 32:
        raise KekMalformedError
    return secret
