"""Where keys live and sign: one module per kind, one table.

A backend makes bare signatures. Everything that decides whether a signature is made, and whether it is a good one, is
in `keyguard.signing`, on the one path that all backends share.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from keyguard.backends.database import DatabaseBackend
from keyguard.custodians import CUSTODIANS
from keyguard.errors import BackendUnknownError
from keyguard.models import Key


class Backend(Protocol):
    """What a backend can do. Its errors are KeyguardErrors; anything else means *denied*."""

    def generate(self, alias: str) -> Key:
        """Make a new key and return its saved row."""

    def adopt(self, alias: str, secret: bytearray) -> Key:
        """Take an existing private key over and return its saved row. The caller wipes the secret."""

    def sign(self, key: Key, digests: Sequence[bytes]) -> list[bytes]:
        """Sign digests of 32 bytes, in order: each signature is 65 bytes, r, s and recovery id."""

    def destroy(self, key: Key) -> None:
        """Destroy what is kept of the key outside the database. What is gone already is no error."""

    def probe(self, references: Sequence[str]) -> str:
        """Say in words how it stands, or raise a KeyguardError. references: the keys that it should have."""


def _pkcs11() -> Backend:
    from keyguard.backends.pkcs11 import Pkcs11Backend

    return Pkcs11Backend()


def _vault() -> Backend:
    from keyguard.backends.vault import VaultBackend

    return VaultBackend()


# A module is imported when a key of its kind is used, not before.
BACKENDS: dict[str, Callable[[], Backend]] = {
    "database": DatabaseBackend,
    "pkcs11": _pkcs11,
    "vault": _vault,
}


def backend_of(name: str) -> Backend:
    """Return the backend of this name, or raise BackendUnknownError."""
    if name in CUSTODIANS:
        raise BackendUnknownError(
            f"{name[:20]!r} is a custody that signs and sends by itself; it gives no signatures"
        )
    if name not in BACKENDS:
        raise BackendUnknownError(f"backend {name[:20]!r}: not one of {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]()
