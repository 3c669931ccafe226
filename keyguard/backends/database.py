"""Keys encrypted in the database.

Upholds: a plaintext key exists only inside `_store` and `SealedKey.sign`, in buffers that are wiped before they return.
"""

from collections.abc import Sequence

from keyguard import curve
from keyguard.backends.kinds import Sign
from keyguard.material import load_key, seal_key
from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT, Origin


class DatabaseBackend:
    """AES-256-GCM envelopes in the table KeyMaterial, opened for the length of one call."""

    def generate(self, alias: str, tenant: str = DEFAULT_TENANT) -> Key:
        secret = curve.new_secret()
        try:
            return self._store(alias, secret, Origin.GENERATED, tenant)
        finally:
            curve.wipe(secret)

    def adopt(self, alias: str, secret: bytearray, tenant: str = DEFAULT_TENANT) -> Key:
        return self._store(alias, secret, Origin.IMPORTED, tenant)

    def prepare(self, key: Key) -> Sign:
        return load_key(key).sign

    def destroy(self, key: Key) -> None:
        """Nothing: all of it is in the database."""

    def probe(self, references: Sequence[str]) -> str:
        return "keys are in the database"

    def _store(self, alias: str, secret: bytearray, origin: Origin, tenant: str) -> Key:
        key, material = seal_key(alias, secret, origin, "database", tenant)
        key.save(force_insert=True)
        material.save(force_insert=True)
        return key
