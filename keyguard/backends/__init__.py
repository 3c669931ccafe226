"""Where keys live and sign: one module per kind, one table.

A backend makes bare signatures. Everything that decides whether a signature is made, and whether it is a good one, is
in `keyguard.signing`, on the one path that all backends share.
"""

from collections.abc import Callable

from keyguard.backends.database import DatabaseBackend
from keyguard.backends.kinds import Backend
from keyguard.custodians import CUSTODIANS
from keyguard.errors import BackendUnknownError


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
