"""Keys encrypted in the database.

Upholds: a plaintext key exists only inside `_store` and `sign`, in buffers that are wiped before they return.
"""

from collections.abc import Sequence

from keyguard import curve
from keyguard.envelope import Binding, Envelope, opened, seal
from keyguard.errors import MaterialTamperedError
from keyguard.kek import active_kek, open_kek
from keyguard.models import Key, KeyMaterial
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
        material = KeyMaterial.objects.filter(key=key).select_related("kek").order_by("-seq").first()
        if material is None:
            raise MaterialTamperedError
        binding = Binding(key.id, material.seq, key.address, material.kek_id)
        with opened(_envelope(material), open_kek(material.kek), binding) as secret:
            return [curve.sign(secret, digest) for digest in digests]

    def _store(self, alias: str, secret: bytearray, origin: Origin) -> Key:
        kek = active_kek()
        public = curve.public_key(secret)
        address = curve.address_of(public)
        key = Key.objects.create(
            alias=alias, address=address, public_key=public, backend="database", origin=origin
        )
        sealed = seal(secret, open_kek(kek), Binding(key.id, 1, address, kek.id))
        KeyMaterial.objects.create(
            key=key,
            seq=1,
            kek=kek,
            wrapped_dek=sealed.wrapped_dek,
            dek_nonce=sealed.dek_nonce,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
        )
        return key


def _envelope(material: KeyMaterial) -> Envelope:
    return Envelope(
        wrapped_dek=bytes(material.wrapped_dek),
        dek_nonce=bytes(material.dek_nonce),
        nonce=bytes(material.nonce),
        ciphertext=bytes(material.ciphertext),
    )
