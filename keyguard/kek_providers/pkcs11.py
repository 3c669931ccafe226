"""KEKs inside an HSM: AES-256 keys that are SENSITIVE, not EXTRACTABLE and for AES-GCM alone.

Upholds: a KEK is found by its CKA_ID, which is the id of its row, so it is made once however often that is asked for.
"""

from collections.abc import Callable, Sequence
from os import urandom
from typing import Any, TypeVar

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass

from keyguard import hsm
from keyguard.backend_errors import HsmFailedError, HsmKeyMissingError, KekRefusedError
from keyguard.curve import wipe
from keyguard.envelope import DEK_BYTES, NONCE_BYTES, KekCipher, WrappedDek
from keyguard.errors import MaterialTamperedError
from keyguard.kek_providers import Made
from keyguard.models import Kek

TAG_BYTES = 16

T = TypeVar("T")


class Pkcs11Provider:
    """KEKs in the token of KEYGUARD_HSM_TOKEN."""

    remote = True
    batch = 500

    def make(self, kek: Kek) -> Made:
        def act(session: hsm.Session) -> None:
            try:
                key = session.key(ObjectClass.SECRET_KEY, kek.id.bytes)
            except pkcs11.NoSuchKey:
                key = _generate(session, kek)
            if not is_confined(key):
                key.destroy()
                session.found.clear()
                raise HsmFailedError("the HSM made a KEK that can leave it; it was destroyed")

        hsm.token().run(act, "make a KEK")
        return Made(reference=kek.id.hex)

    def open(self, kek: Kek) -> KekCipher:
        return _Cipher(kek)

    def destroy(self, kek: Kek) -> str:
        def act(session: hsm.Session) -> None:
            for found in list(session.handle.get_objects({Attribute.ID: kek.id.bytes})):
                found.destroy()
            session.found.clear()

        hsm.token().run(act, "destroy a KEK")
        return "It is gone from the token. Destroy the HSM's own backups of it, too."

    def look(self, kek: Kek) -> str:
        return ""


class _Cipher:
    def __init__(self, kek: Kek) -> None:
        self._kek = kek

    def wrap(self, deks: Sequence[tuple[bytearray, bytes]]) -> list[WrappedDek]:
        def act(session: hsm.Session) -> list[WrappedDek]:
            key, wrapped = self._key(session), []
            for dek, bound in deks:
                nonce = urandom(NONCE_BYTES)
                ciphertext = key.encrypt(
                    bytes(dek),
                    mechanism=Mechanism.AES_GCM,
                    mechanism_param=GCMParams(nonce, bound, TAG_BYTES * 8),
                )
                wrapped.append(WrappedDek(nonce, bytes(ciphertext)))
            return wrapped

        return self._run(act)

    def unwrap(self, wrapped: Sequence[tuple[WrappedDek, bytes]]) -> list[bytearray]:
        if any(
            len(one.nonce) != NONCE_BYTES or len(one.ciphertext) != DEK_BYTES + TAG_BYTES
            for one, _ in wrapped
        ):
            raise MaterialTamperedError

        def act(session: hsm.Session) -> list[bytearray]:
            key = self._key(session)
            deks: list[bytearray] = []
            for one, bound in wrapped:
                try:
                    dek = key.decrypt(
                        one.ciphertext,
                        mechanism=Mechanism.AES_GCM,
                        mechanism_param=GCMParams(one.nonce, bound, TAG_BYTES * 8),
                    )
                # What a wrong tag is called differs: SoftHSM has a general error, the standard the other two.
                except (pkcs11.GeneralError, pkcs11.EncryptedDataInvalid, pkcs11.FunctionFailed):
                    wipe(*deks)
                    raise MaterialTamperedError from None
                deks.append(bytearray(dek))
            return deks

        return self._run(act)

    def _key(self, session: hsm.Session) -> Any:
        return session.key(ObjectClass.SECRET_KEY, self._kek.id.bytes)

    def _run(self, act: Callable[[hsm.Session], T]) -> T:
        try:
            return hsm.token().run(act, "use a KEK")
        except HsmKeyMissingError:
            raise KekRefusedError(f"the token has no KEK {self._kek.id}") from None


def _generate(session: hsm.Session, kek: Kek) -> Any:
    return session.handle.generate_key(
        KeyType.AES,
        256,
        id=kek.id.bytes,
        label=f"dalp kek {kek.id}"[:32],
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )


def is_confined(key: Any) -> bool:
    """Say whether a KEK was made in the token, cannot leave it, and neither wraps nor unwraps other keys of it."""
    wanted = {
        Attribute.LOCAL: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.NEVER_EXTRACTABLE: True,
        Attribute.WRAP: False,
        Attribute.UNWRAP: False,
    }
    return all(key[name] == value for name, value in wanted.items())
