"""Destroying keys for ever: first nothing opens what the database has, then what is kept elsewhere goes.

Upholds: a key is destroyed by its row before anything of it is; from then on it signs nothing, whenever the rest is done.
Whoever is killed in here is followed by whoever calls again, and finishes. Backups from before have what they have.
"""

import structlog
from django.db import transaction
from django.db.models.functions import Now

from keyguard import kek as keks
from keyguard.backends import backend_of
from keyguard.crashpoints import crashpoint
from keyguard.models import Key, KeyMaterial
from keyguard.states import KeyState

log = structlog.get_logger("keyguard")


def shred(key: Key) -> None:
    """Empty what opens the key, in the transaction that destroys it. The triggers permit this, and nothing else."""
    KeyMaterial.objects.filter(key=key).update(wrapped_dek=b"", ciphertext=b"")
    transaction.on_commit(lambda: _forget(key))


def _forget(key: Key) -> None:
    keks.forget()
    log.warning("key_shredded", key=key.address)


def finish(key: Key) -> bool:
    """Destroy what is kept of a destroyed key outside the database; say whether that was still to do.

    Raises BackendErrors: then it is to be called again.
    """
    if Key.objects.filter(pk=key.pk, state=KeyState.DESTROYED, material_gone_at=None).exists():
        backend_of(key.backend).destroy(key)
        crashpoint("keyguard.key_material_gone")
    rows = Key.objects.filter(pk=key.pk, state=KeyState.DESTROYED, material_gone_at=None)
    if not rows.update(material_gone_at=Now()):
        return False
    log.warning("key_material_gone", key=key.address, backend=key.backend)
    return True


def unfinished() -> list[Key]:
    """Return the destroyed keys of which something may still be kept in their backend."""
    return list(Key.objects.filter(state=KeyState.DESTROYED, material_gone_at=None).order_by("alias"))
