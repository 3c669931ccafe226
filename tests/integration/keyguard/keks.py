"""KEKs for the tests, and many keys at once."""

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from keyguard.curve import new_secret, wipe
from keyguard.material import load_key, seal_key
from keyguard.models import Key, KeyMaterial
from keyguard.states import Origin


def kek_text(name: str) -> str:
    """A KEK as KEYGUARD_KEK has it."""
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


def set_keks(settings: Any, current: str, *fallbacks: str) -> None:
    settings.KEYGUARD_KEK, settings.KEYGUARD_KEK_FALLBACKS = current, list(fallbacks)


def make_keys(count: int, prefix: str = "k") -> list[Key]:
    """Make keys of the database backend, in two statements."""
    rows = []
    for number in range(count):
        secret = new_secret()
        rows.append(seal_key(f"{prefix}-{number}", secret, Origin.GENERATED, "database"))
        wipe(secret)
    Key.objects.bulk_create([key for key, _ in rows])
    KeyMaterial.objects.bulk_create([material for _, material in rows])
    return [key for key, _ in rows]


def all_open(keys: Iterable[Key]) -> bool:
    """Say whether each key's current material gives its private key; raises when one does not."""
    from keyguard import curve

    for key in keys:
        with load_key(key).opened() as secret:
            if curve.public_key(secret) != bytes(key.public_key):
                return False
    return True


def current_keks(keys: Iterable[Key]) -> set[object]:
    """Return the ids of the KEKs that the keys' current rows are under."""
    newest = {}
    for row in KeyMaterial.objects.filter(key__in=list(keys)).order_by("seq"):
        newest[row.key_id] = row.kek_id
    return set(newest.values())
