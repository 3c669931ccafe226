"""Taking private keys over that come wrapped for this one import, or in the clear where the settings allow it.

Upholds: an RSA pair serves one import, within an hour; its private half is stored under the active KEK alone and is
emptied when it was used or is too old. What is opened is stored only when it is the key of the address that was announced.
Where the settings name a group, its members approve that address before anything is opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from os import urandom
from uuid import UUID, uuid4

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from keyguard import curve, lifecycle, operations
from keyguard.crashpoints import crashpoint
from keyguard.envelope import DEK_BYTES, NONCE_BYTES, WrappedDek
from keyguard.errors import (
    AddressMismatchError,
    KeyExistsError,
    MaterialTamperedError,
    PlainImportRefusedError,
    SecretInvalidError,
    WrappedKeyInvalidError,
)
from keyguard.floor import checked_address
from keyguard.kek import active_kek, open_kek
from keyguard.keys import import_key
from keyguard.models import Key, WrappingKey
from keyguard.operations import Operation
from keyguard.policies.models import Question
from keyguard.states import KeyVerb

log = structlog.get_logger("keyguard")

BITS = 3072
VALID = timedelta(hours=1)
EMPTY = {"wrapped_dek": b"", "ciphertext": b""}


def make_pair(actor: str) -> WrappingKey:
    """Make a pair for one import. Raises KekErrors and BackendErrors."""
    forget_old()
    private = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # OpenSSL's own copy, and this one, end with this call; nothing can wipe them.
    secret = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with transaction.atomic():
        kek = active_kek()
        pair = WrappingKey(id=uuid4(), public_key=public.decode(), kek=kek, actor=actor[:150])
        dek, pair.nonce = curve.random_bytes(DEK_BYTES), urandom(NONCE_BYTES)
        try:
            pair.ciphertext = AESGCM(dek).encrypt(pair.nonce, secret, _bound(pair))
            (wrapped,) = open_kek(kek).wrap([(dek, _bound(pair))])
        finally:
            curve.wipe(dek)
        pair.wrapped_dek, pair.dek_nonce = wrapped.ciphertext, wrapped.nonce
        pair.expires_at = Now() + VALID
        pair.save(force_insert=True)
    pair.refresh_from_db()
    log.info("wrapping_key_made", id=str(pair.pk), actor=actor)
    return pair


def wrap(public_key: bytes, secret: bytearray) -> bytes:
    """Wrap a private key for the holder of a pair: RSA-OAEP with SHA-256. Needs no database. The caller wipes the secret."""
    try:
        loaded = serialization.load_pem_public_key(public_key)
    except ValueError:
        raise WrappedKeyInvalidError("the public key is no PEM") from None
    if not isinstance(loaded, rsa.RSAPublicKey) or loaded.key_size < BITS:
        raise WrappedKeyInvalidError(f"the public key is no RSA key of {BITS} bits")
    if not curve.is_secret(secret):
        raise SecretInvalidError
    return loaded.encrypt(bytes(secret), _oaep())


def import_wrapped(
    pair_id: UUID, wrapped: bytes, alias: str, address: str, backend: str, actor: str
) -> Key | Question:
    """Open a wrapped key, and take it over when it is the one of this address; or return the question that comes first.

    Raises WrappedKeyInvalidError, AddressMismatchError, AddressInvalidError, and what `import_key` raises.
    """
    address = checked_address(address, "address")
    _require_open(pair_id)
    if question := approval(alias, address, backend, actor):
        return question
    with _opened(pair_id, wrapped) as secret, transaction.atomic():
        # Of two that use it at once the second waits here, and finds it used.
        rows = WrappingKey.objects.filter(pk=pair_id, used_at=None, expires_at__gt=Now())
        if not rows.update(used_at=Now(), **EMPTY):
            raise WrappedKeyInvalidError("the pair was used meanwhile")
        details = {"wrapped_with": str(pair_id), "pair_made_by": WrappingKey.objects.get(pk=pair_id).actor}
        key = _stored(secret, alias, address, backend, actor, details)
        crashpoint("keyguard.import_stored")
        return key


def import_plain(secret: bytearray, alias: str, address: str, backend: str, actor: str) -> Key | Question:
    """Take a private key over that came in the clear; or return the question that comes first. Wipes the secret.

    address: as announced; empty where nobody approves it. Raises PlainImportRefusedError, and as `import_wrapped`.
    """
    try:
        require_plain_allowed()
        if settings.KEYGUARD_OPERATIONS_GROUP and not address:
            raise AddressMismatchError("say which address is to be imported: others approve it")
        address = checked_address(address, "address") if address else ""
        if address and (question := approval(alias, address, backend, actor)):
            return question
        with transaction.atomic():
            return _stored(secret, alias, address, backend, actor, {"wrapped_with": ""})
    finally:
        curve.wipe(secret)


def require_plain_allowed() -> None:
    """Raise PlainImportRefusedError where the settings want keys wrapped."""
    if settings.KEYGUARD_IMPORT != "plain":
        raise PlainImportRefusedError


def approval(alias: str, address: str, backend: str, actor: str) -> Question | None:
    """Return the question that stands before the import of this address, if there is one. Raises KeyExistsError."""
    if Key.objects.filter(address=address).exists():
        raise KeyExistsError(f"the key of {address} is here already")
    shown = {"key": alias, "address": address, "backend": backend}
    reason = f"import into the backend {backend}"
    return operations.permit(Operation(KeyVerb.IMPORT, f"key {alias}", "new", reason, shown), actor)


def forget_old() -> int:
    """Empty the pairs whose hour is over; return how many there were."""
    late = WrappingKey.objects.filter(used_at=None, expires_at__lte=Now())
    return late.exclude(Q(ciphertext=b"")).update(**EMPTY)


def _stored(
    secret: bytearray, alias: str, address: str, backend: str, actor: str, details: dict[str, str]
) -> Key:
    if not curve.is_secret(secret):
        raise SecretInvalidError
    found = curve.address_of(curve.public_key(secret))
    if address and found != address:
        raise AddressMismatchError(f"the key is that of {found}, not of {address}")
    key = import_key(alias, secret, backend)
    lifecycle.note(key, KeyVerb.IMPORT, actor, f"imported into the backend {backend}", details)
    return key


def _require_open(pair_id: UUID) -> WrappingKey:
    forget_old()
    pair = WrappingKey.objects.select_related("kek").filter(pk=pair_id).first()
    if pair is None:
        raise WrappedKeyInvalidError(f"there is no pair {pair_id}")
    if pair.used_at is not None:
        raise WrappedKeyInvalidError(f"the pair {pair_id} was used")
    if not WrappingKey.objects.filter(pk=pair_id, expires_at__gt=Now()).exists():
        raise WrappedKeyInvalidError(f"the pair {pair_id} is more than an hour old")
    return pair


@contextmanager
def _opened(pair_id: UUID, wrapped: bytes) -> Iterator[bytearray]:
    """Give the private key that was wrapped, for the length of the block, then wipe it."""
    pair = _require_open(pair_id)
    kept = WrappedDek(bytes(pair.dek_nonce), bytes(pair.wrapped_dek))
    (dek,) = open_kek(pair.kek).unwrap([(kept, _bound(pair))])
    try:
        der = AESGCM(dek).decrypt(bytes(pair.nonce), bytes(pair.ciphertext), _bound(pair))
    except InvalidTag:
        raise MaterialTamperedError("the pair does not open: its row was altered") from None
    finally:
        curve.wipe(dek)
    private = serialization.load_der_private_key(der, password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    try:
        secret = bytearray(private.decrypt(wrapped, _oaep()))
    except ValueError:
        raise WrappedKeyInvalidError("it was wrapped with another public key, or not whole") from None
    try:
        crashpoint("keyguard.import_opened")
        yield secret
    finally:
        curve.wipe(secret)


def _bound(pair: WrappingKey) -> bytes:
    return f"kg2|import|{pair.id}".encode()


def _oaep() -> padding.OAEP:
    return padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
