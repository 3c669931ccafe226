"""Making, importing, finding and suspending keys. The only module that changes a key's state."""

import re
from collections.abc import Callable, Collection
from datetime import datetime
from uuid import UUID

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from keyguard import curve
from keyguard.audit.chaining import note
from keyguard.audit.rows import note_row
from keyguard.backends import backend_of
from keyguard.custodians import custodian_of
from keyguard.errors import (
    AddressInvalidError,
    AliasInvalidError,
    AliasTakenError,
    KeyCompromisedError,
    KeyDestroyedError,
    KeyExistsError,
    KeyExpiredError,
    KeyNotActiveError,
    KeyNotFoundError,
    KeyNotYetValidError,
    KeyRetiredError,
    KeySuspendedError,
    SecretInvalidError,
    TenantInvalidError,
)
from keyguard.floor import checked_address
from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT, KEY_TRANSITIONS, KeyState, Origin, before
from keyguard.uris import KeyUri

log = structlog.get_logger("keyguard")

_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)


def create_key(
    alias: str, backend: str = "database", tenant: str = DEFAULT_TENANT, *, replaces: Key | None = None
) -> Key:
    """Make a new key in a backend, for a tenant, and return its row. Aliases are unique over all tenants.

    replaces: the key that it is to take over from, whose tenant it has.

    Raises AliasInvalidError, AliasTakenError, BackendUnknownError or a KekError; nothing is stored then.
    """
    store = backend_of(backend)
    tenant = checked_tenant(replaces.tenant if replaces else tenant)
    return _add(alias, lambda: store.generate(alias, tenant), replaces)


def import_key(alias: str, secret: bytes | bytearray, backend: str = "database") -> Key:
    """Take an existing private key over and return its row.

    secret: 32 bytes. A bytearray is wiped, whatever happens; bytes cannot be, so prefer the former.
    Raises SecretInvalidError (0, not below n, not 32 bytes), KeyExistsError, and what `create_key` raises.
    """
    buffer = secret if isinstance(secret, bytearray) else bytearray(secret)
    del secret  # an error report would show this frame's variables
    try:
        if not curve.is_secret(buffer):
            raise SecretInvalidError
        _refuse_known_address(curve.address_of(curve.public_key(buffer)))
        store = backend_of(backend)
        return _add(alias, lambda: store.adopt(alias, buffer, DEFAULT_TENANT))
    finally:
        curve.wipe(buffer)


def bind_key(alias: str, backend: str, reference: str, expected_address: str = "") -> Key:
    """Know a key of a custody that sends by itself, and return its row. reference: what the custody calls it.

    expected_address: where somebody has seen it, another one is refused.
    Raises AliasInvalidError, AliasTakenError, KeyExistsError, BackendUnknownError, AddressInvalidError, and what its
    custodian raises.
    """
    expected = checked_address(expected_address, "address") if expected_address else ""
    public_key = custodian_of(backend).public_key(reference)
    facts = {"backend": backend, "backend_ref": reference, "origin": Origin.CUSTODY}
    address = curve.address_of(public_key)
    if expected not in ("", address):
        raise AddressInvalidError("address", f"{KeyUri(backend, reference[:80])} has {address}")
    return _add(
        alias, lambda: Key.objects.create(alias=alias, address=address, public_key=public_key, **facts)
    )


def find_key(alias_or_address: str, tenant: str | None = DEFAULT_TENANT) -> Key:
    """Return the tenant's key that has this alias or address; tenant None: anybody's. Raises KeyNotFoundError."""
    return find_keys([alias_or_address], tenant)[alias_or_address]


def find_keys(names: Collection[str], tenant: str | None = DEFAULT_TENANT) -> dict[str, Key]:
    """Return the tenant's keys by the aliases or addresses that they are asked for by. Raises KeyNotFoundError.

    One query, with the tenant in it: another tenant's key is as one that is not there, by what it takes, too.
    """
    addresses = {name: _address(name) for name in names}
    wanted = Q(address__in=[address for address in addresses.values() if address])
    wanted |= Q(alias__in=[name for name, address in addresses.items() if address is None])
    if tenant is not None:
        wanted &= Q(tenant=tenant)
    keys = list(Key.objects.filter(wanted))
    by_address, by_alias = {key.address: key for key in keys}, {key.alias: key for key in keys}
    found = {}
    for name, address in addresses.items():
        key = by_address.get(address) if address else by_alias.get(name)
        if key is None:
            raise KeyNotFoundError(f"no key has the alias or address {name[:64]!r}")
        found[name] = key
    return found


def checked_tenant(tenant: str) -> str:
    """Return the name of a tenant. Raises TenantInvalidError."""
    if not _TENANT.fullmatch(tenant):
        raise TenantInvalidError
    return tenant


def _address(name: str) -> str | None:
    try:
        return checked_address(name, "address")
    except AddressInvalidError:
        return None


def suspend_key(key_id: UUID, reason: str) -> bool:
    """Suspend an active key; say whether this call did it. reason: an error's code.

    Conditional, so that the first reason stays.
    """
    earlier = before(KeyState.SUSPENDED, KEY_TRANSITIONS)
    with transaction.atomic():
        suspended = Key.objects.filter(pk=key_id, state__in=earlier).update(
            state=KeyState.SUSPENDED, state_reason=reason
        )
        if suspended:
            note("suspended", {"state": KeyState.SUSPENDED, "reason": reason}, key_id)
    if suspended:
        log.error("key_suspended", key=str(key_id), reason=reason)
    return bool(suspended)


def require_may_sign(keys: Collection[Key]) -> None:
    """Raise the KeyNotActiveError of the first of these keys that may not sign now, as its row stands now."""
    for key in Key.objects.filter(pk__in=[key.pk for key in keys]).annotate(now=Now()):
        require_signs_at(key, key.now)


def require_signs_at(key: Key, now: datetime) -> None:
    """Raise a KeyNotActiveError when this row, which was just read, says that the key may not sign now."""
    if key.state in NOT_ACTIVE:
        error, words = NOT_ACTIVE[KeyState(key.state)], f"is {key.get_state_display().lower()}"
    elif key.not_after and key.not_after <= now:
        error, words = KeyExpiredError, f"signed until {key.not_after:%Y-%m-%d %H:%M} UTC"
    elif key.not_before and key.not_before > now:
        error, words = KeyNotYetValidError, f"signs from {key.not_before:%Y-%m-%d %H:%M} UTC on"
    else:
        return
    raise error(f"the key of {key.address} {words}, and signs nothing now")


NOT_ACTIVE: dict[KeyState, type[KeyNotActiveError]] = {
    KeyState.SUSPENDED: KeySuspendedError,
    KeyState.RETIRED: KeyRetiredError,
    KeyState.COMPROMISED: KeyCompromisedError,
    KeyState.DESTROYED: KeyDestroyedError,
}


def _add(alias: str, store: Callable[[], Key], replaces: Key | None = None) -> Key:
    if not _ALIAS.fullmatch(alias) or alias.lower().startswith("0x"):
        raise AliasInvalidError
    try:
        with transaction.atomic():
            key = store()
            if replaces is not None:
                key.replaces = replaces
                key.save(update_fields=["replaces"])
            note_row("key_added", key, key.pk, alias=alias, state=key.state)
    except IntegrityError:  # the constraints decide; two callers may have looked at the same moment
        if Key.objects.filter(alias=alias).exists():
            raise AliasTakenError(f"another key has the alias {alias}") from None
        raise KeyExistsError from None
    log.info(
        "key_added",
        key=str(key.id),
        address=key.address,
        alias=alias,
        origin=str(key.origin),
        backend=key.backend,
    )
    return key


def _refuse_known_address(address: str) -> None:
    if Key.objects.filter(address=address).exists():
        raise KeyExistsError(f"the key of {address} is here already")
