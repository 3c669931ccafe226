"""Telling people of a market above a chain's ceiling: once, after a while, until nothing waits for it any more."""

from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from signer.incidents import close_incident, open_incident
from signer.models import Incident, Lane, Transaction
from signer.states import IncidentKind, SubState


def tell_of_ceiling(lane: Lane, row: Transaction, seconds: float) -> None:
    """Tell people, once it has lasted, that the market's fee is above the ceiling."""
    if seconds >= settings.SIGNER["fee_capped_alert_seconds"]:
        text = (
            f"The market's fee on {lane.chain} is above the ceiling; transaction {row.pk} waits. "
            "It goes on when the market falls, or when the chain's ceiling is raised."
        )
        open_incident(IncidentKind.FEE_CAPPED, str(lane), text, lane=lane)


def told(lane: Any) -> "QuerySet[Incident]":
    """Return what people were told of the lane's ceiling, while it is open."""
    return Incident.objects.filter(lane=lane, kind=IncidentKind.FEE_CAPPED, closed_at__isnull=True).order_by()


def market_is_back(lane: Lane) -> None:
    """Close what was told of the ceiling, when nothing of the lane waits for the market any more."""
    capped = Transaction.objects.filter(lane=lane, sub_state=SubState.FEE_CAPPED, settled_at__isnull=True)
    if not capped.exists():
        close_incident(IncidentKind.FEE_CAPPED, str(lane), "the lane goes on")
