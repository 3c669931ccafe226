"""Who keeps KEKs: one module per kind, one table. A module is imported when its provider is used, not before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from django.conf import settings

from keyguard.envelope import KekCipher
from keyguard.errors import KekProviderUnknownError
from keyguard.models import Kek


@dataclass(frozen=True, slots=True)
class Made:
    """What a provider says of a KEK that it has made. kcv: empty when it can only be proved by using it."""

    reference: str = ""
    version: int = 1
    kcv: str = ""


class KekProvider(Protocol):
    """A keeper of KEKs. Its errors are KekErrors and BackendErrors: none of them accuses a key."""

    remote: bool  # a call away, so that many DEKs go at once, and unwrapped ones are kept for a moment
    batch: int  # so many DEKs in one call

    def make(self, kek: Kek) -> Made:
        """Make the KEK that this row notes. Asked again for the same row, it finds what it has made."""

    def open(self, kek: Kek) -> KekCipher:
        """Return the cipher of this KEK. Raises KekMismatchError where another one can be told at once."""

    def destroy(self, kek: Kek) -> str:
        """Destroy the KEK if that can be done from here; return what a person must do beside."""

    def look(self, kek: Kek) -> str:
        """Return, in words, what threatens a KEK that still works, or nothing."""


def _env() -> KekProvider:
    from keyguard.kek_providers.env import EnvProvider

    return EnvProvider()


def _vault() -> KekProvider:
    from keyguard.kek_providers.vault import VaultProvider

    return VaultProvider()


def _pkcs11() -> KekProvider:
    from keyguard.kek_providers.pkcs11 import Pkcs11Provider

    return Pkcs11Provider()


PROVIDERS: dict[str, Callable[[], KekProvider]] = {"env": _env, "pkcs11": _pkcs11, "vault": _vault}


def configured() -> str:
    """Return the name of the provider that new KEKs come from: KEYGUARD_KEK_PROVIDER."""
    return str(getattr(settings, "KEYGUARD_KEK_PROVIDER", "env") or "env")


def provider_of(name: str) -> KekProvider:
    """Return the provider of this name, or raise KekProviderUnknownError."""
    if name not in PROVIDERS:
        raise KekProviderUnknownError(
            f"KEK provider {name[:20]!r}: not one of {', '.join(sorted(PROVIDERS))}"
        )
    return PROVIDERS[name]()
