"""A key that takes over from another one: made once, whoever asks how often, and given the alias when all else is ready.

Upholds: one key at most is about to take over from another. Until its alias is handed over the old key signs as ever, and
after that too, until it is retired. What is on the chains is not keyguard's business: see dalp.assets.rotation.
"""

from django.db import transaction

from keyguard import lifecycle
from keyguard.backends import backend_of
from keyguard.crashpoints import crashpoint
from keyguard.custodians import CUSTODIANS
from keyguard.errors import AliasTakenError, KeyActInvalidError, KeyExistsError
from keyguard.keys import create_key
from keyguard.models import Key
from keyguard.states import KEY_TRANSITIONS, KeyState, KeyVerb, before

LIVE = (KeyState.ACTIVE, KeyState.SUSPENDED)
ROOM = 50  # of an alias, so that what is added to it fits


def successor_of(key: Key) -> Key | None:
    """Return the key that is to take over from this one, or has."""
    return Key.objects.filter(replaces=key, state__in=LIVE).first()


def require_can_be_replaced(key: Key, backend: str = "") -> None:
    """Raise KeyActInvalidError or BackendUnknownError where no key can be made, in this backend, that takes over."""
    if backend:
        backend_of(backend)
    if key.backend in CUSTODIANS:
        raise KeyActInvalidError(
            "the key is the custody's: make a new one there, bind it, and hand over by hand"
        )
    if key.state != KeyState.ACTIVE:
        raise KeyActInvalidError(
            f"a key that is {key.get_state_display()} signs nothing, so it hands nothing over"
        )


def make_successor(key: Key, actor: str, reason: str, backend: str = "") -> Key:
    """Return the key that is to take over from this one; made, with a provisional alias, where there is none yet.

    backend: where it lives; by default where the old one does. Raises KeyActInvalidError and what `create_key` raises.
    """
    found = successor_of(key)
    if found is not None:
        return found
    require_can_be_replaced(key, backend)
    try:
        with transaction.atomic():
            made = create_key(_free(f"{key.alias[:ROOM]}.next"), backend or key.backend, replaces=key)
            lifecycle.note(made, KeyVerb.ROTATE, actor, reason, {"replaces": key.address})
            crashpoint("keyguard.successor_making")
    except (AliasTakenError, KeyExistsError):  # somebody else has made it at the same moment
        found = successor_of(key)
        if found is None:
            raise
        return found
    crashpoint("keyguard.successor_made")
    return made


def has_alias(old: Key, new: Key) -> bool:
    """Return whether the alias was handed over."""
    return not new.alias.startswith(f"{old.alias[:ROOM]}.next")


def hand_alias_over(old: Key, new: Key, actor: str, reason: str) -> None:
    """Give the old key's alias to the new one, unless it has it. Joins the caller's transaction."""
    with transaction.atomic():
        old, new = _locked(old, new)
        if has_alias(old, new):
            return
        alias = old.alias
        _name(old, _free(f"{alias[:ROOM]}.retired-1"))
        crashpoint("keyguard.alias_moving")
        _name(new, alias)
        lifecycle.note(old, KeyVerb.HAND_OVER, actor, reason, {"alias": alias, "to": new.address})


def give_alias_back(old: Key, new: Key, actor: str, reason: str) -> None:
    """Give the alias back to the old key, if it was handed over: it goes on as before. Joins the caller's transaction."""
    with transaction.atomic():
        old, new = _locked(old, new)
        if not has_alias(old, new):
            return
        alias = new.alias
        _name(new, _free(f"{alias[:ROOM]}.next"))
        _name(old, alias)
        lifecycle.note(old, KeyVerb.GIVE_BACK, actor, reason, {"alias": alias, "from": new.address})


def retire_replaced(old: Key, new: Key, actor: str, reason: str) -> None:
    """Retire a key whose alias another one has. Twice is as good as once. Raises KeyActInvalidError."""
    with transaction.atomic():
        old, new = _locked(old, new)
        if not has_alias(old, new):
            raise KeyActInvalidError(f"{old.alias} has its alias still: it was not handed over")
        if old.state in before(KeyState.RETIRED, KEY_TRANSITIONS):
            lifecycle.act(old, KeyVerb.RETIRE, actor, reason)
            crashpoint("keyguard.key_retiring")


def _locked(old: Key, new: Key) -> tuple[Key, Key]:
    rows = {
        key.pk: key for key in Key.objects.select_for_update().filter(pk__in=[old.pk, new.pk]).order_by("pk")
    }
    return rows[old.pk], rows[new.pk]


def _name(key: Key, alias: str) -> None:
    Key.objects.filter(pk=key.pk).update(alias=alias)


def _free(wanted: str) -> str:
    """Return this alias, or the next one of its kind that no key has."""
    stem, dash, number = wanted.rpartition("-")
    if not (dash and number.isdigit()):
        stem, number = wanted, "1"
    count, alias = int(number), wanted
    while Key.objects.filter(alias=alias).exists():
        count += 1
        alias = f"{stem}-{count}"
    return alias
