"""Appending to chains. The only module that writes entries.

Upholds: an entry is committed with what it speaks of, or neither is; a chain has no gap and no fork, whoever appends.
A chain that cannot be appended to although the database works seals keyguard: what is not in the trail is not done.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.utils import timezone

from keyguard.audit.codes import canonical, code, current_key
from keyguard.audit.models import GENERAL, AuditChain, AuditEntry
from keyguard.errors import AuditFailedError
from keyguard.statements import append_entries

log = structlog.get_logger("keyguard")

# Classes of SQLSTATE that say nothing of the trail: the connection, a deadlock, a server that stops, lack of resources
# that all statements would lack.
_PASSING = ("08", "40", "57")


_listeners: list[Callable[[AuditFailedError], None]] = []


def on_failure(listener: Callable[[AuditFailedError], None]) -> None:
    """Have `listener` called when the trail cannot be written, in the transaction that this undoes."""
    _listeners.append(listener)


@dataclass(slots=True)
class Place:
    """The end of a chain, as somebody has last seen it."""

    chain_id: int
    name: str
    seq: int
    mac: bytes


class ChainMovedError(Exception):
    """Somebody else has appended since the end of the chain was looked at. Look again, in a new transaction."""


def place_of(chain: AuditChain) -> Place:
    """Return where the chain of this row ends."""
    return Place(chain.pk, chain.name, chain.seq, bytes(chain.mac))


def locked(keys: Collection[UUID], **annotations: Any) -> list[Any]:
    """Lock the chains of these keys until the end of the transaction, and return them with their keys, as they are now.

    annotations: what else is to be read with each.
    """
    names = sorted(map(str, keys))
    found = list(held(names).annotate(**annotations))
    if len(found) < len(names):
        missing = set(names) - {chain.name for chain in found}
        AuditChain.objects.bulk_create(
            [AuditChain(name=name, key_id=UUID(name)) for name in sorted(missing)], ignore_conflicts=True
        )
        found = list(held(names).annotate(**annotations))
    return found


def held(names: Collection[str]) -> Any:
    """Return the query that locks chains; all who lock several do so in the order of their names."""
    rows = AuditChain.objects.filter(name__in=names).select_related("key").order_by("name")
    return rows.select_for_update(of=("self",), no_key=True)


def append(events: Sequence[tuple[Place, str, Mapping[str, Any]]]) -> list[Place]:
    """Append an entry to each of these chains, and return where they end now. events: with their names and bodies.

    In the transaction that does what they tell of. Raises ChainMovedError, and AuditFailedError when the database
    refuses: keyguard is sealed then.
    """
    key_name, key = current_key()
    at = timezone.now()
    entries, places = [], []
    for place, event, body in events:
        text, seq = canonical(body), place.seq + 1
        mac = code(key, place.mac, place.name, seq, at.isoformat(), event, text)
        entries.append(
            AuditEntry(
                chain_id=place.chain_id, seq=seq, at=at, event=event, body=text, mac=mac, mac_key=key_name
            )
        )
        places.append(Place(place.chain_id, place.name, seq, mac))
    with failing_closed():
        if append_entries(entries) != len(entries):
            raise ChainMovedError
    return places


def note(event: str, body: Mapping[str, Any], key_id: UUID | None = None) -> None:
    """Append an entry about something that is no signature, in the transaction that does it. key_id: whose chain."""
    with transaction.atomic():
        if key_id is not None:
            (chain,) = locked([key_id])
        else:
            AuditChain.objects.bulk_create([AuditChain(name=GENERAL)], ignore_conflicts=True)
            chain = held([GENERAL]).get()
        append([(place_of(chain), event, body)])


@contextmanager
def failing_closed() -> Iterator[None]:
    """Turn a refusal of the database into AuditFailedError, which seals; what has nothing to do with the trail passes."""
    try:
        yield
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None)
        is_away = connection.vendor == "postgresql" and (state is None or state[:2] in _PASSING)
        if is_away:
            raise
        log.error("audit_failed", exception=type(error).__name__, sqlstate=state)  # noqa: TRY400 - its text may hold anything
        failure = AuditFailedError()
        for listener in _listeners:
            listener(failure)
        raise failure from None
