"""Which KEK new keys are stored under, and how one is opened, whoever keeps it.

Upholds: a KEK is used only when it is the one that its row tells of, so a wrong KEK is told apart from damaged
material, and never suspends a key. Of one that is kept elsewhere that is proved when the process first uses it, and again
before a key is accused.
"""

import threading
from collections.abc import Sequence
from uuid import UUID, uuid4

from django.db import IntegrityError, connection, transaction

from keyguard import dek_cache
from keyguard.backend_errors import KekDestroyedError
from keyguard.check_values import check_value, same
from keyguard.curve import random_bytes, wipe
from keyguard.envelope import DEK_BYTES, KekCipher, WrappedDek
from keyguard.errors import KekMismatchError, KekMissingError, MaterialTamperedError
from keyguard.kek_providers import configured, provider_of
from keyguard.models import Kek
from keyguard.states import KekState

# By id: those that this process has seen to be the right ones.
_proved: set[UUID] = set()
_proving = threading.Lock()


def active_kek() -> Kek:
    """Return the row of the KEK under which new keys are stored, held until the caller's transaction ends.

    Held, because a rotation that began meanwhile would not know of the key that is being stored. With provider `env`
    the first call in a new database makes the row. Raises KekMissingError when there is none.
    """
    kek = _held()
    if kek is None and not Kek.objects.exclude(state=KekState.NEW).exists() and configured() == "env":
        _make_first()
    # A second look in any case: the active one may have become another one while we waited for it.
    kek = kek or _held()
    if kek is None:
        raise KekMissingError("there is no active KEK: run manage.py create_kek")
    return kek


def open_kek(kek: Kek) -> KekCipher:
    """Return the cipher of the KEK that this row describes. Raises KekMismatchError when the one at hand is another.

    DEKs that a remote KEK unwraps are kept for a moment (`keyguard.dek_cache`).
    """
    if kek.state == KekState.DESTROYED:
        raise KekDestroyedError(f"the KEK {kek.id} was destroyed, and a key is stored under it")
    provider = provider_of(kek.provider)
    cipher = provider.open(kek)
    if not provider.remote:
        return cipher
    if kek.pk not in _proved:
        prove(kek, cipher)
    return _Remote(kek, cipher)


def make_proof(kek: Kek, cipher: KekCipher) -> None:
    """Have the KEK encrypt a random secret, and note that in the unsaved row with the secret's check value."""
    secret = random_bytes(DEK_BYTES)
    try:
        (wrapped,) = cipher.wrap([(secret, _bound(kek))])
        kek.proof, kek.proof_nonce, kek.kcv = wrapped.ciphertext, wrapped.nonce, check_value(secret)
    finally:
        wipe(secret)


def prove(kek: Kek, cipher: KekCipher) -> None:
    """Have the KEK decrypt its proof. Raises KekMismatchError when it is not the one that made it."""
    proof = WrappedDek(bytes(kek.proof_nonce), bytes(kek.proof))
    _proved.discard(kek.pk)
    try:
        (secret,) = cipher.unwrap([(proof, _bound(kek))])
    except MaterialTamperedError:
        raise KekMismatchError from None
    right = same(check_value(secret), kek.kcv)
    wipe(secret)
    if not right:
        raise KekMismatchError
    with _proving:
        _proved.add(kek.pk)


def forget() -> int:
    """Wipe the DEKs that are kept, and prove each KEK anew; return how many DEKs there were."""
    with _proving:
        _proved.clear()
    return dek_cache.forget()


class _Remote:
    """A KEK that is kept elsewhere: what it unwraps is kept for a moment, and a key is accused only after a proof."""

    def __init__(self, kek: Kek, cipher: KekCipher) -> None:
        self._kek, self._cipher = kek, cipher

    def wrap(self, deks: Sequence[tuple[bytearray, bytes]]) -> list[WrappedDek]:
        return self._cipher.wrap(deks)

    def unwrap(self, wrapped: Sequence[tuple[WrappedDek, bytes]]) -> list[bytearray]:
        kept = [dek_cache.get(one, bound) for one, bound in wrapped]
        missing = [pair for pair, dek in zip(wrapped, kept, strict=True) if dek is None]
        try:
            fresh = self._cipher.unwrap(missing) if missing else []
        except MaterialTamperedError:
            wipe(*(dek for dek in kept if dek is not None))
            prove(self._kek, self._cipher)
            raise
        for (one, bound), dek in zip(missing, fresh, strict=True):
            dek_cache.put(one, bound, dek)
        rest = iter(fresh)
        return [next(rest) if dek is None else dek for dek in kept]


def _bound(kek: Kek) -> bytes:
    return f"kg2|kek|{kek.id}".encode()


def _held() -> Kek | None:
    # FOR SHARE: keys are stored side by side, and a rotation waits for all of them.
    held = " FOR SHARE" if connection.vendor == "postgresql" and connection.in_atomic_block else ""
    found = Kek.objects.raw(f"SELECT * FROM {Kek._meta.db_table} WHERE state = 'ACTIVE'{held}")  # noqa: S608 - our own names
    return next(iter(found), None)


def _make_first() -> None:
    kek = Kek(id=uuid4(), provider="env", state=KekState.ACTIVE)
    kek.kcv = provider_of("env").make(kek).kcv
    try:
        with transaction.atomic():
            kek.save(force_insert=True)
    except IntegrityError:  # another process was first; the constraint allows one active KEK
        return
