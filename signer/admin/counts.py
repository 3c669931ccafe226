"""Annotations that count a lane's or a chain's transactions."""

from django.db.models import Count, OuterRef, Subquery
from django.db.models.functions import Coalesce

from signer.models import Transaction
from signer.states import TransactionState


def counted(owner: str, states: tuple[TransactionState, ...]) -> Coalesce:
    """Return an annotation: how many transactions in `states` a lane or chain has, read from the partial indexes."""
    rows = Transaction.objects.filter(**{owner: OuterRef("pk")}, state__in=states).order_by().values(owner)
    return Coalesce(Subquery(rows.annotate(count=Count("pk")).values("count")), 0)
