"""Where a key is, as people and programs write it: the backend and what that calls the key, in one URI.

    database:                               in the database, found by its own row
    vault:keyguard/keys/<id>                the path in the KV store of KEYGUARD_VAULT_KV_MOUNT
    pkcs11:id=%7B%0C...                     the CKA_ID in the token of KEYGUARD_HSM_TOKEN, as RFC 7512 writes it
    fireblocks:7/ETH                        the account of the vault and the asset
    dfns:key-...                            the id of the key

Upholds: what is printed can be read again and means the same; a text that is none of these is refused before any
backend is asked. Rows have the two parts in columns of their own, which filters and joins go by.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from keyguard.custodians import CUSTODIANS
from keyguard.errors import BackendUnknownError, KeyUriInvalidError

REFERENCE_MAX = 100  # as many fit into the row
FIREBLOCKS = re.compile(r"([0-9]{1,10})/([A-Za-z0-9_-]{1,60})", re.ASCII)
DFNS = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{1,98}", re.ASCII)
# What follows the colon, and one that is right. Custodies that are registered from outside name their keys as they like.
_REFERENCES = {
    "database": (re.compile(""), "database:"),
    "vault": (re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII), "vault:keyguard/keys/7b0c"),
    "pkcs11": (re.compile(r"id=(%[0-9A-Fa-f]{2})+", re.ASCII), "pkcs11:id=%7B%0C"),
    "fireblocks": (FIREBLOCKS, "fireblocks:7/ETH"),
    "dfns": (DFNS, "dfns:key-1"),
}
_ANY = re.compile(r"[!-~]+", re.ASCII)
_CKA_ID = re.compile(r"([0-9a-f]{2})+", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyUri:
    """A key's place. reference: as its row has it."""

    backend: str
    reference: str = ""

    def __str__(self) -> str:
        """Return the URI. A CKA_ID is bytes, which a row has in hex and RFC 7512 behind percent signs."""
        if self.backend == "pkcs11" and _CKA_ID.fullmatch(self.reference):
            return "pkcs11:id=" + re.sub("(..)", r"%\1", self.reference).upper()
        return f"{self.backend}:{self.reference}"


def parse(text: str) -> KeyUri:
    """Return the place that a URI names. Raises BackendUnknownError for its scheme, KeyUriInvalidError for the rest."""
    backend, colon, reference = text.partition(":")
    if not colon:
        raise KeyUriInvalidError(f"{text[:80]!r} has no colon: a key's URI is as fireblocks:7/ETH")
    known = {*_REFERENCES, *CUSTODIANS}
    if backend not in known:
        raise BackendUnknownError(f"{backend[:20]!r} is no scheme of a key's URI; use {_listed(known)}")
    pattern, example = _REFERENCES.get(backend, (_ANY, f"{backend}:key-1"))
    if not pattern.fullmatch(reference) or {".", ".."} & set(reference.split("/")):
        raise KeyUriInvalidError(f"{reference[:80]!r} is no reference of {backend}: the URI is as {example}")
    if backend == "pkcs11":
        reference = unquote_to_bytes(reference.removeprefix("id=")).hex()
    if len(reference) > REFERENCE_MAX:
        raise KeyUriInvalidError(f"the reference has {len(reference)} characters, {REFERENCE_MAX} at most")
    return KeyUri(backend, reference)


def backend_in(text: str) -> str:
    """Return the backend in which a key is to be made: `vault` or `vault:`. Raises KeyUriInvalidError.

    Whether there is one of that name is for the backends to say.
    """
    backend, _, reference = text.partition(":")
    if reference:
        raise KeyUriInvalidError(
            f"{text[:80]!r} names a key that is somewhere: of one that is made, say {backend[:20]}: alone"
        )
    return backend


def _listed(names: set[str]) -> str:
    return ", ".join(f"{name}:" for name in sorted(names))
