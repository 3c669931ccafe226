"""Keys' material in the database: sealed when a key is added, opened for the length of a signature."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from keyguard import curve
from keyguard.envelope import Binding, Envelope, KekCipher, opened, seal
from keyguard.errors import MaterialTamperedError
from keyguard.kek import active_kek, open_kek
from keyguard.models import Key, KeyMaterial
from keyguard.states import DEFAULT_TENANT, Origin


def seal_key(
    alias: str, secret: bytearray, origin: Origin, backend: str, tenant: str = DEFAULT_TENANT
) -> tuple[Key, KeyMaterial]:
    """Return the unsaved rows of a new key and its sealed material. The caller wipes the secret."""
    kek = active_kek()
    public = curve.public_key(secret)
    facts = {"alias": alias, "backend": backend, "origin": origin, "tenant": tenant}
    key = Key(id=uuid4(), address=curve.address_of(public), public_key=public, **facts)
    sealed = seal(secret, open_kek(kek), binding_of(key, 1, kek.id))
    material = KeyMaterial(
        key=key,
        seq=1,
        kek=kek,
        wrapped_dek=sealed.wrapped_dek,
        dek_nonce=sealed.dek_nonce,
        nonce=sealed.nonce,
        ciphertext=sealed.ciphertext,
    )
    return key, material


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key's material as it is stored, and the KEK that opens it: nothing in here is secret but for the latter."""

    envelope: Envelope = field(repr=False)
    kek: KekCipher = field(repr=False)
    binding: Binding

    @contextmanager
    def opened(self) -> Iterator[bytearray]:
        """Give the private key for the length of the block, then wipe it.

        Raises MaterialTamperedError when the material does not belong to this key, and KekErrors and BackendErrors,
        which accuse nobody.
        """
        with opened(self.envelope, self.kek, self.binding) as secret:
            yield secret

    def sign(self, digests: Sequence[bytes]) -> list[bytes]:
        """Sign digests, in order: each signature is 65 bytes, r, s and recovery id. Raises what `opened` raises."""
        with self.opened() as secret:
            return [curve.sign(secret, digest) for digest in digests]


def load_key(key: Key, kept: tuple[bytes, bytes] | None = None) -> SealedKey:
    """Return the material of a key. kept: nonce and ciphertext, where they are kept outside the database.

    Raises MaterialTamperedError when there is none, and KekErrors and BackendErrors.
    """
    material = KeyMaterial.objects.filter(key=key).select_related("kek").order_by("-seq").first()
    if material is None:
        raise MaterialTamperedError
    nonce, ciphertext = kept or (bytes(material.nonce), bytes(material.ciphertext))
    envelope = Envelope(bytes(material.wrapped_dek), bytes(material.dek_nonce), nonce, ciphertext)
    return SealedKey(envelope, open_kek(material.kek), binding_of(key, material.seq, material.kek_id))


def binding_of(key: Key, seq: int, kek_id: UUID) -> Binding:
    """Return what the material of this key is bound to in its row of this number."""
    return Binding(key.tenant, key.id, key.address, seq, kek_id)
