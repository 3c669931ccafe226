"""The state of endpoints in their rows, by which processes tell one another what they have met.

Written on a change of state alone. A process that dies before it writes costs the others what it cost that process:
three failures. A probe that is claimed and never ended is claimed again when its few seconds are over.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import F
from django.db.models.functions import Coalesce

from signer.incidents import close_incident, open_incident
from signer.models import Chain, Endpoint
from signer.rpc.breaker import Pause
from signer.states import IncidentKind, PauseKind
from workflows import db_now, in_seconds

log = structlog.get_logger()

# Longer than a probe may take.
PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Standing:
    """Since when an endpoint can't be used (None: it can), and why."""

    host: str
    unusable_since: datetime | None
    kind: str
    reason: str


@contextmanager
def _best_effort(pk: int) -> Iterator[None]:
    """Go on when the database is away: what this process has met counts for it all the same."""
    try:
        with transaction.atomic():
            yield
    except DatabaseError as error:
        log.warning("endpoint_state_not_written", endpoint=pk, error=type(error).__name__)


def write(pk: int, chain_id: int, pause: Pause) -> None:
    """Pause the endpoint for all processes, and tell people of what will not pass by itself."""
    ids = {"chain": chain_id, "endpoint": pk}
    log.warning("endpoint_paused", **ids, why=pause.kind, seconds=pause.seconds, text=pause.reason)
    with _best_effort(pk):
        Endpoint.objects.filter(pk=pk).update(
            paused_until=in_seconds(pause.seconds),
            pause_kind=pause.kind,
            pause_reason=pause.reason,
            unusable_since=Coalesce(F("unusable_since"), db_now()),
        )
        if pause.kind == PauseKind.WRONG_CHAIN:
            _tell_of_wrong_chain(pk, chain_id, pause)
        _tell_when_unreachable(chain_id)


def write_batch_size(pk: int, size: int) -> None:
    """Remember for all processes how many calls the endpoint takes at most."""
    log.warning("endpoint_takes_smaller_batches", endpoint=pk, size=size)
    with _best_effort(pk):
        Endpoint.objects.filter(pk=pk).update(batch_size=size)


def claim_probe(pk: int) -> bool:
    """Return whether this process is the one that may ask the endpoint whether it can be used again."""
    over = Endpoint.objects.filter(pk=pk, paused_until__lte=db_now())
    return over.update(paused_until=in_seconds(PROBE_SECONDS)) == 1


def is_open(pk: int) -> bool:
    """Return whether another process has found meanwhile that the endpoint can be used."""
    return Endpoint.objects.filter(pk=pk, paused_until__isnull=True).exists()


def resume(pk: int, chain_id: int) -> None:
    """Use the endpoint again; what people were told of is over."""
    log.info("endpoint_resumed", chain=chain_id, endpoint=pk)
    with _best_effort(pk):
        Endpoint.objects.filter(pk=pk).update(
            paused_until=None, pause_kind=PauseKind.NONE, pause_reason="", unusable_since=None
        )
        close_incident(IncidentKind.WRONG_CHAIN, subject_of_endpoint(pk), "it serves the registered chain")
        close_incident(
            IncidentKind.CHAIN_UNREACHABLE, subject_of_chain(chain_id), "an endpoint answers again"
        )


def forget_incidents(chain_id: int) -> None:
    """Close what people were told of a chain's endpoints: they were entered anew, and each has been asked."""
    for kind in (IncidentKind.WRONG_CHAIN, IncidentKind.CHAIN_UNREACHABLE):
        for subject in _open_subjects(kind, chain_id):
            close_incident(kind, subject, "the chain's endpoints were registered anew")


def subject_of_endpoint(pk: int) -> str:
    return f"endpoint {pk}"


def subject_of_chain(chain_id: int) -> str:
    return f"chain {chain_id}"


def unreachable_since(
    standings: Iterable[Standing], now: datetime, patience_seconds: float
) -> datetime | None:
    """Return since when no endpoint can be used, if that has lasted for longer than the patience. Pure."""
    since: datetime | None = None
    for standing in standings:
        if standing.unusable_since is None:
            return None
        since = max(since or standing.unusable_since, standing.unusable_since)
    return since if since is not None and now - since >= timedelta(seconds=patience_seconds) else None


def described(standings: Sequence[Standing]) -> str:
    """Return why each endpoint can't be used, as a sentence."""
    return "; ".join(f"{it.host} {PauseKind(it.kind).label} ({it.reason})" for it in standings)


def _tell_of_wrong_chain(pk: int, chain_id: int, pause: Pause) -> None:
    text = f"{pause.reason}. It is not used. Correct its URL with add_chain."
    chain = Chain.objects.filter(pk=chain_id).first()
    open_incident(IncidentKind.WRONG_CHAIN, subject_of_endpoint(pk), text, chain=chain)


def _tell_when_unreachable(chain_id: int) -> None:
    rows = list(Endpoint.objects.filter(chain_id=chain_id).select_related("chain").annotate(now=db_now()))
    standings = [Standing(row.host, row.unusable_since, row.pause_kind, row.pause_reason) for row in rows]
    patience = float(settings.SIGNER["unreachable_seconds"])
    if not rows or unreachable_since(standings, rows[0].now, patience) is None:
        return
    text = (
        f"No node of {rows[0].chain} can be used: {described(standings)}. Transactions wait; nothing is lost."
    )
    open_incident(IncidentKind.CHAIN_UNREACHABLE, subject_of_chain(chain_id), text, chain=rows[0].chain)


def _open_subjects(kind: IncidentKind, chain_id: int) -> list[str]:
    from signer.models import Incident

    rows = Incident.objects.filter(kind=kind, chain_id=chain_id, closed_at__isnull=True)
    return list(rows.values_list("subject", flat=True))
