"""Keys inside an HSM, through PKCS#11: made there, used there, never anywhere else.

Upholds: a key pair is SENSITIVE, not EXTRACTABLE and for signing alone; it is found by its CKA_ID, which is in
`Key.backend_ref`. The token gives r and s; the recovery id is the one with which they recover to the pinned public key.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import connections
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from keyguard import curve, hsm
from keyguard.backend_errors import HsmFailedError
from keyguard.backends.kinds import Sign
from keyguard.crashpoints import crashpoint
from keyguard.errors import BackendError, ImportRefusedError, SignatureInvalidError
from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT, Origin
from keyguard.uris import KeyUri

# So many signatures are worth a session and a thread of their own.
PER_SESSION = 10
SECP256K1 = bytes.fromhex("06052b8104000a")  # DER of 1.3.132.0.10


class Pkcs11Backend:
    """One token; see docs/deploy/hsm.md."""

    def generate(self, alias: str, tenant: str = DEFAULT_TENANT) -> Key:
        reference = uuid4().bytes
        public = hsm.token().run(lambda session: _make(session, alias, reference), "make a key pair")
        crashpoint("keyguard.hsm_key_made")
        try:
            return Key.objects.create(
                alias=alias,
                tenant=tenant,
                address=curve.address_of(public),
                public_key=public,
                backend="pkcs11",
                backend_ref=reference.hex(),
                origin=Origin.GENERATED,
            )
        except BaseException:
            self.discard(reference)
            raise

    def adopt(self, alias: str, secret: bytearray, tenant: str = DEFAULT_TENANT) -> Key:
        raise ImportRefusedError("the HSM makes its keys itself: a key that was elsewhere may still be there")

    def prepare(self, key: Key) -> Sign:
        reference = bytes.fromhex(key.backend_ref)
        hsm.token().run(lambda session: session.key(ObjectClass.PRIVATE_KEY, reference), "find the key")
        return partial(self._sign, key)

    def _sign(self, key: Key, digests: Sequence[bytes]) -> list[bytes]:
        if any(len(digest) != 32 for digest in digests):  # tokens sign other lengths, too
            raise ValueError("a digest is 32 bytes")
        sessions = min(settings.KEYGUARD_HSM_SESSIONS, len(digests) // PER_SESSION)
        if sessions < 2:
            return _signed(key, digests)
        # An HSM is far away, or has several processors: side by side a batch takes a part of the time.
        size = -(-len(digests) // sessions)
        parts = [digests[start : start + size] for start in range(0, len(digests), size)]
        with ThreadPoolExecutor(len(parts), thread_name_prefix="keyguard-hsm") as pool:
            return [one for part in pool.map(partial(_signed_apart, key), parts) for one in part]

    def destroy(self, key: Key) -> None:
        """Destroy the pair in the token, and look that it is gone. Raises a BackendError when it may be there."""
        reference = bytes.fromhex(key.backend_ref)

        def act(session: hsm.Session) -> int:
            for found in list(session.handle.get_objects({Attribute.ID: reference})):
                found.destroy()
            return len(list(session.handle.get_objects({Attribute.ID: reference})))

        if hsm.token().run(act, "destroy a key pair"):
            raise HsmFailedError(f"the token has objects of {key.uri} still")

    def probe(self, references: Sequence[str]) -> str:
        """Say how the token stands and whether it has these keys; raise a BackendError when it cannot be used."""
        there = self.references()
        missing = [reference for reference in references if reference not in there]
        words = f"the token {hsm.token().log_in()} answers and has {len(references) - len(missing)} keys"
        if missing:
            raise HsmFailedError(
                f"{words}; {len(missing)} are missing, the first is {KeyUri('pkcs11', missing[0])}"
            )
        return words

    def references(self) -> set[str]:
        """Return the CKA_IDs, in hex, of all private keys in the token."""
        return hsm.token().run(_references, "list its keys")

    def discard(self, reference: bytes) -> None:
        """Destroy a key pair that no row tells of. What cannot be destroyed stays, and harms nobody."""

        def act(session: hsm.Session) -> None:
            for found in list(session.handle.get_objects({Attribute.ID: reference})):
                found.destroy()

        try:
            hsm.token().run(act, "destroy a key pair")
        except BackendError:
            return


def _make(session: hsm.Session, alias: str, reference: bytes) -> bytes:
    parameters = session.handle.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: SECP256K1}, local=True
    )
    public, private = parameters.generate_keypair(
        store=True,
        label=alias,
        id=reference,
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,  # the default lets it derive keys, too
        private_template={
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN_RECOVER: False,
        },
        public_template={Attribute.TOKEN: True},
    )
    if not is_confined(private):
        private.destroy()
        public.destroy()
        raise HsmFailedError(
            "the HSM made a key that can leave it, or that can do more than sign; it was destroyed"
        )
    return _point(bytes(public[Attribute.EC_POINT]))


def is_confined(private: Any) -> bool:
    """Say whether a private key was made in the token, cannot leave it, and signs only."""
    wanted = {
        Attribute.LOCAL: True,
        Attribute.SENSITIVE: True,
        Attribute.ALWAYS_SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.NEVER_EXTRACTABLE: True,
        Attribute.SIGN: True,
        Attribute.SIGN_RECOVER: False,
        Attribute.DERIVE: False,
        Attribute.DECRYPT: False,
        Attribute.UNWRAP: False,
    }
    return all(private[name] == value for name, value in wanted.items())


def _point(encoded: bytes) -> bytes:
    """Return the public key, 65 bytes: CKA_EC_POINT is a DER octet string around it, with some modules the bare bytes."""
    point = encoded[2:] if len(encoded) == 67 and encoded[:2] == b"\x04\x41" else encoded
    if len(point) != 65 or point[0] != 4:
        raise HsmFailedError("the HSM gave no uncompressed point of secp256k1")
    return point


def _signed(key: Key, digests: Sequence[bytes]) -> list[bytes]:
    """Sign these, one after the other, in one session."""
    reference, public = bytes.fromhex(key.backend_ref), bytes(key.public_key)

    def act(session: hsm.Session) -> list[bytes]:
        private = session.key(ObjectClass.PRIVATE_KEY, reference)
        return [bytes(private.sign(digest, mechanism=Mechanism.ECDSA)) for digest in digests]

    made = hsm.token().run(act, "sign")
    try:
        return [curve.with_recovery_id(rs, digest, public) for rs, digest in zip(made, digests, strict=True)]
    except ValueError as error:
        raise SignatureInvalidError(f"the HSM: {error}; the key is suspended") from None


def _signed_apart(key: Key, digests: Sequence[bytes]) -> list[bytes]:
    try:
        return _signed(key, digests)
    finally:
        connections.close_all()  # of this thread: a session that was lost logs in anew, which asks the database


def _references(session: hsm.Session) -> set[str]:
    found = session.handle.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
    return {bytes(private[Attribute.ID]).hex() for private in found}
