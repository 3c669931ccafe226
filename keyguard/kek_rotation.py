"""Making KEKs, moving all keys from one to the next while they sign, and destroying what no key needs.

Upholds: whoever is killed anywhere in here is followed by whoever calls again, and finishes. Rows of material are added
and never changed: until a key's new row is committed, it signs with the old one. What was wrapped is unwrapped again and
compared before it is written. A KEK is destroyed only when no key's current row needs it.
No private key is decrypted here.
"""

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from keyguard import kek as keks
from keyguard import operations
from keyguard.audit.chaining import note
from keyguard.audit.rows import note_row
from keyguard.backend_errors import KekInUseError, KekNotNewError, KekRotationError
from keyguard.crashpoints import crashpoint
from keyguard.curve import wipe
from keyguard.envelope import KekCipher, WrappedDek
from keyguard.errors import CeremonyError, KekMissingError, MaterialTamperedError
from keyguard.kek_providers import configured, provider_of
from keyguard.keys import suspend_key
from keyguard.material import binding_of
from keyguard.models import Kek, KeyMaterial
from keyguard.operations import Operation
from keyguard.policies.models import Question
from keyguard.states import KEK_TRANSITIONS, KekState, KekVerb, KeyState, before

log = structlog.get_logger("keyguard")


@dataclass
class Progress:
    """How far a rotation is. stuck: the keys whose material does not open, which were suspended."""

    kek: Kek
    total: int
    moved: int = 0
    stuck: list[str] = field(default_factory=list)
    retired: list[Kek] = field(default_factory=list)


# --- Making ---------------------------------------------------------------------------------------------------


def create_kek(provider: str | None = None) -> Kek:
    """Make the first KEK of a database, and return its row. Raises KekRotationError when there is one."""
    active = Kek.objects.filter(state=KekState.ACTIVE).first()
    if active is not None:
        raise KekRotationError(
            f"{active} is active: manage.py rotate_kek makes another one and moves the keys to it"
        )
    kek = _make(provider or configured())
    _activate(kek)
    return kek


def _make(provider_name: str) -> Kek:
    """Return the row of a new KEK that its keeper has made. One that was begun and never used is finished instead."""
    provider = provider_of(provider_name)
    kek = Kek.objects.filter(state=KekState.NEW, provider=provider_name).order_by("created_at").first()
    if kek is None:
        kek = Kek.objects.create(id=uuid4(), provider=provider_name, state=KekState.NEW)
    crashpoint("keyguard.kek_noted")
    made = provider.make(kek)
    kek.provider_ref, kek.version, kek.kcv = made.reference, made.version, made.kcv
    if kek.kcv and Kek.objects.filter(provider=provider_name, kcv=kek.kcv).exclude(pk=kek.pk).exists():
        raise KekNotNewError
    cipher = provider.open(kek)
    if not kek.kcv:
        keks.make_proof(kek, cipher)
        keks.prove(kek, cipher)
    crashpoint("keyguard.kek_made")
    return kek


def _activate(kek: Kek) -> None:
    """Have new keys be stored under this KEK. Waits for those that are being stored under the one before."""
    facts = {name: getattr(kek, name) for name in ("provider_ref", "version", "kcv", "proof", "proof_nonce")}
    with transaction.atomic(durable=True):
        earlier = before(KekState.DECRYPT_ONLY, KEK_TRANSITIONS)
        replaced = Kek.objects.filter(state__in=earlier).update(state=KekState.DECRYPT_ONLY)
        if not Kek.objects.filter(pk=kek.pk, state=KekState.NEW).update(state=KekState.ACTIVE, **facts):
            raise KekRotationError("somebody else has activated this KEK: run rotate_kek again, it goes on")
        kek.state = KekState.ACTIVE
        note_row("kek_activated", kek, check_value=kek.kcv)
    log.info("kek_activated", id=str(kek.pk), provider=kek.provider, check_value=kek.kcv, replaced=replaced)
    crashpoint("keyguard.kek_activated")


# --- Asking first ---------------------------------------------------------------------------------------------


def ask_to_rotate(provider: str | None, actor: str) -> Question | None:
    """Return the question that stands before a rotation, if there is one. What was begun goes on without another yes."""
    active = Kek.objects.filter(state=KekState.ACTIVE).first()
    if active is None or _unfinished(active):
        return None
    shown = {"key": str(active), "to": provider or configured()}
    reason = f"{_current().count()} keys are to be moved"
    return operations.permit(
        Operation(KekVerb.ROTATE, f"KEK {active.pk}", str(active.pk), reason, shown), actor
    )


def ask_to_destroy(kek_id: UUID, actor: str) -> Question | None:
    """Return the question that stands before a KEK's destruction, if there is one. Raises as `destroy_kek`."""
    kek = _require_destroyable(Kek.objects.filter(pk=kek_id).first(), kek_id)
    if kek.state == KekState.DESTROYED:
        return None
    reason = "no key needs it; backups from before it was rotated are lost with it"
    return operations.permit(
        Operation(KekVerb.DESTROY, f"KEK {kek_id}", str(kek_id), reason, {"key": str(kek)}), actor
    )


def ask_to_back_up(
    kek: Kek, threshold: int, custodians: Sequence[tuple[str, str]], actor: str
) -> Question | None:
    """Return the question that stands before a KEK is taken apart, if there is one.

    custodians: their names, and the fingerprints of their keys; none: shares in the clear, for whoever has the sheets.
    Raises CeremonyError where others approve, who could not know then who gets the shares.
    """
    if settings.KEYGUARD_OPERATIONS_GROUP and not custodians:
        raise CeremonyError(
            "others approve a backup here, so each share is sealed to a person: name them with --custodian"
        )
    to = ", ".join(f"{name} ({fingerprint})" for name, fingerprint in custodians)
    reason = f"a backup of {len(custodians)} shares, any {threshold} of which give the KEK back, for {to}"
    shown = {"key": str(kek), "threshold": threshold, "custodians": to}
    return operations.permit(Operation(KekVerb.BACK_UP, f"KEK {kek.pk}", str(kek.pk), reason, shown), actor)


# --- Moving ---------------------------------------------------------------------------------------------------


def rotate(provider: str | None = None) -> Iterator[Progress]:
    """Move every key to a new KEK, and say how far it is after each batch. Goes on with a rotation that was cut short.

    provider: who makes the new KEK; KEYGUARD_KEK_PROVIDER without it. Raises KekRotationError, KekErrors and
    BackendErrors; what was moved by then stays moved. Must not be called inside a transaction.
    """
    kek = _target(provider)
    progress = Progress(kek, _elsewhere(kek).count())
    yield progress
    ciphers: dict[UUID, KekCipher] = {}
    size, after = provider_of(kek.provider).batch, 0
    while rows := list(_elsewhere(kek).filter(pk__gt=after).select_related("key", "kek")[:size]):
        after = rows[-1].pk
        _move(kek, rows, ciphers, progress)
        crashpoint("keyguard.deks_committed")
        yield progress
    progress.retired = _retire()
    keks.forget()
    log.info("kek_rotated", id=str(kek.pk), moved=progress.moved, stuck=len(progress.stuck))
    yield progress


def _target(provider: str | None) -> Kek:
    """Return the KEK that all keys are to be moved to: the active one while keys are under others, else a new one."""
    active = Kek.objects.filter(state=KekState.ACTIVE).first()
    if active is None:
        raise KekMissingError("there is no KEK to rotate; manage.py create_kek makes the first one")
    if _unfinished(active):
        if provider not in (None, active.provider):
            raise KekRotationError(
                f"a rotation to {active} is not finished: run rotate_kek without --provider first"
            )
        return active
    kek = _make(provider or configured())
    _activate(kek)
    return kek


def _unfinished(active: Kek) -> bool:
    """Say whether keys are still to be moved to the active KEK, or a KEK is to be retired that has none left.

    Keys that are suspended may never be moved, if their material does not open: they hold up no further rotation.
    """
    if _elsewhere(active).filter(key__state=KeyState.ACTIVE).exists():
        return True
    emptied = Kek.objects.filter(state__in=before(KekState.RETIRED, KEK_TRANSITIONS))
    return any(not _current().filter(kek=kek).exists() for kek in emptied)


def _elsewhere(kek: Kek) -> QuerySet[KeyMaterial]:
    """Return the keys' current rows that are not under this KEK, in the order of their ids."""
    return _current().exclude(kek=kek).order_by("pk")


def _current() -> QuerySet[KeyMaterial]:
    later = KeyMaterial.objects.filter(key=OuterRef("key"), seq__gt=OuterRef("seq"))
    # What is emptied needs no KEK.
    return KeyMaterial.objects.filter(~Exists(later)).exclude(key__state=KeyState.DESTROYED)


def _move(kek: Kek, rows: Sequence[KeyMaterial], ciphers: dict[UUID, KekCipher], progress: Progress) -> None:
    """Add a row under `kek` for each of these. No lock is held meanwhile: rows never change, and a number is taken once."""
    by_kek: dict[Kek, list[KeyMaterial]] = {}
    for row in rows:
        by_kek.setdefault(row.kek, []).append(row)
    fresh: list[KeyMaterial] = []
    for old, theirs in by_kek.items():
        fresh += _rewrapped(kek, _cipher(old, ciphers), _cipher(kek, ciphers), theirs, progress)
    with transaction.atomic(durable=True):
        # Held: after another rotation began, nothing more may come under this one, which it may already have retired.
        if not Kek.objects.select_for_update().filter(pk=kek.pk, state=KekState.ACTIVE).exists():
            raise KekRotationError(
                "another rotation has begun: run rotate_kek again, it goes on with that one"
            )
        half = len(fresh) // 2
        # A row that is there already was written by somebody who rotates beside us.
        KeyMaterial.objects.bulk_create(fresh[:half], ignore_conflicts=True)
        crashpoint("keyguard.deks_inserted")
        KeyMaterial.objects.bulk_create(fresh[half:], ignore_conflicts=True)
    progress.moved += len(fresh)


def _cipher(kek: Kek, ciphers: dict[UUID, KekCipher]) -> KekCipher:
    """Return the KEK's cipher, proved once. Not that of `open_kek`, which would fill the cache of those who sign."""
    if kek.pk not in ciphers:
        keks.open_kek(kek)
        ciphers[kek.pk] = provider_of(kek.provider).open(kek)
    return ciphers[kek.pk]


def _rewrapped(
    kek: Kek, old: KekCipher, new: KekCipher, rows: Sequence[KeyMaterial], progress: Progress
) -> list[KeyMaterial]:
    """Return the rows that follow these. A batch in which one does not open is taken again one by one."""
    try:
        return _wrapped_anew(kek, old, new, rows)
    except MaterialTamperedError as error:
        if len(rows) > 1:
            return [fresh for row in rows for fresh in _rewrapped(kek, old, new, [row], progress)]
        (row,) = rows
        # The KEK itself may have been exchanged since it was proved: that accuses no key.
        if provider_of(row.kek.provider).remote:
            keks.prove(row.kek, old)
        suspend_key(row.key_id, error.code)
        progress.stuck.append(row.key.alias)
        return []


def _wrapped_anew(kek: Kek, old: KekCipher, new: KekCipher, rows: Sequence[KeyMaterial]) -> list[KeyMaterial]:
    bound = [binding_of(row.key, row.seq + 1, kek.pk).of_dek() for row in rows]
    deks = old.unwrap(
        [
            (
                WrappedDek(bytes(row.dek_nonce), bytes(row.wrapped_dek)),
                binding_of(row.key, row.seq, row.kek_id).of_dek(),
            )
            for row in rows
        ]
    )
    try:
        crashpoint("keyguard.deks_unwrapped")
        wrapped = new.wrap(list(zip(deks, bound, strict=True)))
        again = new.unwrap(list(zip(wrapped, bound, strict=True)))
        equal = all(hmac.compare_digest(one, other) for one, other in zip(deks, again, strict=True))
        wipe(*again)
        if not equal or len(again) != len(deks):
            raise KekRotationError(f"{kek} does not unwrap what it has wrapped; nothing was written")
    finally:
        wipe(*deks)
    crashpoint("keyguard.deks_wrapped")
    return [
        KeyMaterial(
            key=row.key,
            seq=row.seq + 1,
            kek=kek,
            wrapped_dek=one.ciphertext,
            dek_nonce=one.nonce,
            nonce=row.nonce,
            ciphertext=row.ciphertext,
        )
        for row, one in zip(rows, wrapped, strict=True)
    ]


# --- What is left ---------------------------------------------------------------------------------------------


def uses(kek: Kek) -> list[str]:
    """Return the aliases of the keys whose current material is under this KEK."""
    return list(_current().filter(kek=kek).order_by("key__alias").values_list("key__alias", flat=True))


def _retire() -> list[Kek]:
    crashpoint("keyguard.kek_idle")
    retired = []
    for kek in Kek.objects.filter(state__in=before(KekState.RETIRED, KEK_TRANSITIONS)):
        if not _current().filter(kek=kek).exists():
            with transaction.atomic():
                idle = Kek.objects.filter(pk=kek.pk, state=KekState.DECRYPT_ONLY)
                if idle.update(state=KekState.RETIRED):
                    note("kek_retired", {"kek": str(kek.pk), "check_value": kek.kcv})
            retired.append(kek)
    return retired


def destroy_kek(kek_id: UUID) -> str:
    """Destroy a retired KEK, for ever, and return what a person must do beside. May be called again after a crash.

    Raises KekInUseError while a key's current material is under it, KekRotationError when it is not retired.
    """
    with transaction.atomic(durable=True):
        kek = _require_destroyable(Kek.objects.select_for_update().filter(pk=kek_id).first(), kek_id)
        # Before its keeper is asked: from now on nothing opens under it, whenever the keeper has done it.
        if Kek.objects.filter(pk=kek_id, state=KekState.RETIRED).update(state=KekState.DESTROYED):
            note("kek_destroyed", {"kek": str(kek_id), "check_value": kek.kcv})
    crashpoint("keyguard.kek_doomed")
    rest = provider_of(kek.provider).destroy(kek)
    log.warning("kek_destroyed", id=str(kek_id), provider=kek.provider, check_value=kek.kcv)
    return rest


def _require_destroyable(kek: Kek | None, kek_id: UUID) -> Kek:
    if kek is None:
        raise KekRotationError(f"there is no KEK {kek_id}")
    if using := uses(kek):
        raise KekInUseError(f"{kek} is needed by {len(using)} keys: {', '.join(using[:5])}")
    if kek.state not in (KekState.RETIRED, KekState.DESTROYED):
        raise KekRotationError(f"{kek} is {kek.state}: only a retired KEK is destroyed; run rotate_kek first")
    return kek
