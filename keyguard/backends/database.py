"""Keys encrypted in the database.

Upholds: a plaintext key exists only inside `_store` and `sign`, in buffers that are wiped before they return.
"""

from collections.abc import Sequence

from keyguard import curve
from keyguard.material import opened_key, seal_key
from keyguard.models import Key
from keyguard.states import Origin


class DatabaseBackend:
    """AES-256-GCM envelopes in the table KeyMaterial, opened for the length of one call."""

    def generate(self, alias: str) -> Key:
        secret = curve.new_secret()
        try:
            return self._store(alias, secret, Origin.GENERATED)
        finally:
            curve.wipe(secret)

    def adopt(self, alias: str, secret: bytearray) -> Key:
        return self._store(alias, secret, Origin.IMPORTED)

    def sign(self, key: Key, digests: Sequence[bytes]) -> list[bytes]:
        with opened_key(key) as secret:
            return [curve.sign(secret, digest) for digest in digests]

    def destroy(self, key: Key) -> None:
        """Nothing: all of it is in the database."""

    def probe(self, references: Sequence[str]) -> str:
        return "keys are in the database"

    def _store(self, alias: str, secret: bytearray, origin: Origin) -> Key:
        key, material = seal_key(alias, secret, origin, "database")
        key.save(force_insert=True)
        material.save(force_insert=True)
        return key
